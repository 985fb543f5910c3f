# SPDX-License-Identifier: Apache-2.0
"""Bytes to values and back; no clock, no randomness, no memory but a half-read value."""
