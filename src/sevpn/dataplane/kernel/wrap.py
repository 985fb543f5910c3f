# SPDX-License-Identifier: Apache-2.0
"""Makes inner packets of UDP acceleration: a head, and one frame of a batch in each.

Layer: dataplane. Runs in: the data thread, or the embedded server's loop.

    batches   count │ size frame │ size frame │ …
    packets   head │ size 0 frame          head │ size 0 frame          …

The head is the same for all that leave at one moment; `wire/accel.py` has the form.

Source: docs/reference/protocol-data.md#udp.
"""

# To basedpyright the imports below may not happen; mypy checks the same lines.
# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

try:
    import cython
except ImportError:
    from sevpn.dataplane.kernel import interpreted as cython

if not cython.compiled:  # the compiled form has these from the .pxd
    from sevpn.dataplane.kernel.primitives import get32, wrapped

__all__ = ["wrap_frames"]


def wrap_frames(
    batches: bytes, head: bytes, limit: int
) -> tuple[list[bytes], list[bytes]]:
    """Return the inner packets of the frames that fit, and the frames that do not.

    Args:
        batches: Whole batches, as this end makes them.
        head: What is in front of a packet's size.
        limit: The largest frame that fits, in bytes.

    A batch that ends early is a bug: AssertionError.
    """
    data = batches
    fitting: list[bytes] = []
    others: list[bytes] = []
    at, end = 0, len(batches)
    while at < end:
        assert at + 4 <= end, "a batch ends early"
        count = get32(data, at)
        at += 4
        while count:
            assert at + 4 <= end, "a batch ends early"
            size = get32(data, at)
            at += 4
            assert size <= end - at, "a batch ends early"
            if size <= limit:
                fitting.append(wrapped(head, data, at, size))
            else:
                others.append(batches[at : at + size])
            at += size
            count -= 1
    return fitting, others
