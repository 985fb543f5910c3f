# SPDX-License-Identifier: Apache-2.0
"""The embedded server: hubs, users, DHCP and a gateway, for labs, demos and tests."""
