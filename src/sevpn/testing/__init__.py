# SPDX-License-Identifier: Apache-2.0
"""The test kit: in-memory twins, faults and the lab of real peers."""
