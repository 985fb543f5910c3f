# SPDX-License-Identifier: Apache-2.0
"""The Linux host: what is found, what is wanted, the way there and back."""
