# SPDX-License-Identifier: Apache-2.0
"""What the kernel's files use of `cython`, for a machine without it.

Layer: dataplane. Runs in: any thread.
"""

from __future__ import annotations

import contextlib
from typing import Final

__all__ = ["compiled", "nogil"]

compiled: Final = False
"""Whether this is machine code: here it is not."""

nogil: Final = contextlib.nullcontext()
"""Where the compiled form lets other threads run."""
