# SPDX-License-Identifier: Apache-2.0
"""Whom the host asks for names: one module for each way to tell it."""
