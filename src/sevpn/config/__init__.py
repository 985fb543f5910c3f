# SPDX-License-Identifier: Apache-2.0
"""What the user wants: targets, profiles, secrets by reference, and where files lie."""
