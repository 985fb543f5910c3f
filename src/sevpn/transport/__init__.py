# SPDX-License-Identifier: Apache-2.0
"""From a host name to a byte stream that we trust."""
