# SPDX-License-Identifier: Apache-2.0
"""A SoftEther VPN client for Linux: one command from nothing to a proven network."""

__all__ = ["__version__"]

__version__ = "0.1.0"
