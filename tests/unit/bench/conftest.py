# SPDX-License-Identifier: Apache-2.0
"""The benchmark is no part of the package: it is imported from the project's folder."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[3])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)
