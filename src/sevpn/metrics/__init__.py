# SPDX-License-Identifier: Apache-2.0
"""What is counted, and the status document made of it."""
