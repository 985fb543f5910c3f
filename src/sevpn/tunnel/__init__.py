# SPDX-License-Identifier: Apache-2.0
"""One tunnel: its states, its policy after a failure, and the parts joined."""
