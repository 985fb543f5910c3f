# SPDX-License-Identifier: Apache-2.0
"""The per-frame work of the data path, compiled where a C compiler was at hand.

Layer: dataplane. Runs in: the data thread, or the embedded server's loop; never in two at once.

For connections:

    cut.py    what the TAP hands over, super-segments included -> batches of blocks
    scan.py   the bytes of a connection                        -> where the frames are
    merge.py  frames                                           -> few large writes to the TAP
    runs.py   frames of the embedded server's hub              -> neighbours that go the same way

For UDP acceleration:

    receive.py  what waits at the socket                       -> datagrams
    wrap.py     batches of blocks                              -> inner packets
    rc4.py      the cipher of version 1

Each of these files is plain Python and is what runs where nothing was compiled
(tests, above all: `dataplane/plain.py` is the faster form there). The `.pxd` file
beside each gives the C types, and the build compiles the very same `.py` file. What
C and Python cannot spell alike stands twice, in `primitives.py` and `primitives.pxd`,
and nowhere else. docs/decisions/0007-kernel.md says why.
"""
