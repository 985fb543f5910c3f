# SPDX-License-Identifier: Apache-2.0
"""With which code `up` ends."""

from __future__ import annotations

import signal

import pytest

from sevpn.cli.common import Output
from sevpn.cli.up import _code
from sevpn.errors import HostError, LeaseError, SevpnError

BROKEN = HostError("the host could not be restored", operation="undo")
NO_LEASE = LeaseError("no lease")


@pytest.mark.parametrize(
    ("error", "restore_error", "received", "code"),
    [
        (None, None, [], 0),
        (None, None, [signal.SIGINT], 0),
        (None, None, [signal.SIGTERM, signal.SIGTERM], 0),
        (NO_LEASE, None, [], 75),
        (NO_LEASE, None, [signal.SIGINT], 75),
        (None, BROKEN, [], 78),
        (NO_LEASE, BROKEN, [], 78),
        (None, BROKEN, [signal.SIGINT], 130),
        (None, BROKEN, [signal.SIGTERM], 143),
        (None, BROKEN, [signal.SIGHUP], 129),
        (NO_LEASE, BROKEN, [signal.SIGTERM], 143),
        (None, BROKEN, [signal.SIGINT, signal.SIGTERM], 130),
    ],
)
def test_the_code_tells_whether_the_host_is_as_it_was(
    error: SevpnError | None,
    restore_error: SevpnError | None,
    received: list[int],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _code(error, restore_error, received, Output()) == code
    said = capsys.readouterr().err
    wanted = restore_error or error
    *advice, last = [*said.splitlines(), ""] if wanted is None else said.splitlines()
    assert last == ("" if wanted is None else f"sevpn: {wanted}")
    # What is left is not left alone.
    assert ["sevpn cleanup" in line for line in advice] == [True] * bool(restore_error)
