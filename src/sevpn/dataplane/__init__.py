# SPDX-License-Identifier: Apache-2.0
"""The hot path: frames between the TAP and the connection, in one thread per tunnel."""
