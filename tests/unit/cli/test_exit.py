# SPDX-License-Identifier: Apache-2.0
"""Each kind of failure has its code, and each error its JSON."""

from __future__ import annotations

import json

import pytest

from sevpn.cli.exit import ExitCode, code_of, describe, report
from sevpn.errors import (
    AuthenticationError,
    BusyError,
    CertificateError,
    ConfigError,
    ConnectionLostError,
    DialError,
    Failure,
    HostError,
    HubNotFoundError,
    LeaseError,
    LocalProtocolError,
    PrivilegeError,
    RemoteProtocolError,
    SevpnError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 65),
        (HubNotFoundError("x", code=8), 65),
        (DialError("x"), 69),
        (LocalProtocolError("x"), 70),
        (BusyError("x", code=10), 75),
        (LeaseError("x"), 75),
        (ConnectionLostError("x"), 75),
        (ConnectionLostError("x", failure=Failure.PEER), 76),
        (RemoteProtocolError("x"), 76),
        (AuthenticationError("x", code=9), 77),
        (HostError("x", operation="y"), 78),
        (PrivilegeError("x", operation="y"), 78),
        (CertificateError("x", sha256="0", reason="expired"), 79),
    ],
)
def test_the_code_of_each_error(error: SevpnError, code: int) -> None:
    assert code_of(error) == code


def test_every_kind_of_failure_has_a_code() -> None:
    for failure in Failure:
        error = SevpnError("x")
        error.failure = failure
        assert code_of(error) in ExitCode


def test_programs_get_the_facts() -> None:
    assert describe(CertificateError("bad", sha256="00", reason="expired")) == {
        "error": "bad",
        "failure": "untrusted",
        "exit_code": 79,
        "certificate_sha256": "00",
        "reason": "expired",
    }
    assert describe(AuthenticationError("no", code=9))["server_error"] == 9
    assert describe(HostError("no", operation="open-tap"))["operation"] == "open-tap"


def test_people_get_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ConfigError("wrong: mend it"), as_json=False) == 65
    assert capsys.readouterr().err == "sevpn: wrong: mend it\n"

    report(ConfigError("wrong"), as_json=True)
    assert json.loads(capsys.readouterr().out)["exit_code"] == 65


@pytest.mark.parametrize("as_json", [False, True])
def test_an_end_by_a_signal_has_the_signals_code(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error = HostError("not restored", operation="undo")

    assert report(error, as_json=as_json, code=143) == 143

    heard = capsys.readouterr()
    if as_json:
        assert json.loads(heard.out)["exit_code"] == 143
    else:
        assert heard.err == "sevpn: not restored\n"
