# SPDX-License-Identifier: Apache-2.0
"""A SoftEther VPN client for Linux: one command from nothing to a proven network."""

from sevpn import forms

__all__ = ["__version__"]

__version__ = "0.1.0"

# Before anything that comes in two forms is imported.
if forms.is_python_wanted():
    forms.prefer_sources()
