# SPDX-License-Identifier: Apache-2.0
"""Bytes to values and back: no clock, no randomness, only a half-read value kept."""
