# SPDX-License-Identifier: Apache-2.0
"""Machines without input or output: bytes, events and time in; events and bytes out."""
