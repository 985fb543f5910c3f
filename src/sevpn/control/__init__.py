# SPDX-License-Identifier: Apache-2.0
"""The local socket between a running tunnel and the commands that ask it."""
