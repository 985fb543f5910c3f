# SPDX-License-Identifier: Apache-2.0
"""Exit codes, and how an error reaches a person.

Layer: cli. Runs in: the main thread.

The codes are sysexits(3)'s; docs/reference/exit-codes.md lists them with the
failure table. No other module knows a number.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Final

from sevpn.errors import CertificateError, Failure, HostError, RefusedError, SevpnError

__all__ = ["ExitCode", "code_of", "describe", "report"]


class ExitCode(IntEnum):
    """What a command's end means."""

    OK = 0
    """Done."""
    FAILED_CHECK = 1
    """`status --check`: no."""
    USAGE = 64
    """The command line is wrong."""
    CONFIG = 65
    """The profile, an option's value or the target is wrong."""
    UNREACHABLE = 69
    """The server, or the tunnel asked for, cannot be reached."""
    BUG = 70
    """sevpn did something wrong."""
    TEMPORARY = 75
    """May pass by itself."""
    PEER = 76
    """The peer broke the protocol, or is no SoftEther server."""
    REFUSED = 77
    """The login was refused."""
    HOST = 78
    """Impossible on this host."""
    UNTRUSTED = 79
    """The server's certificate is not trusted."""


_CODES: Final = {
    Failure.CONFIG: ExitCode.CONFIG,
    Failure.UNREACHABLE: ExitCode.UNREACHABLE,
    Failure.BUG: ExitCode.BUG,
    Failure.TEMPORARY: ExitCode.TEMPORARY,
    Failure.PEER: ExitCode.PEER,
    Failure.REFUSED: ExitCode.REFUSED,
    Failure.SECRET: ExitCode.REFUSED,
    Failure.HOST: ExitCode.HOST,
    Failure.UNTRUSTED: ExitCode.UNTRUSTED,
}


def code_of(error: SevpnError) -> ExitCode:
    """Return the exit code that stands for *error*."""
    return _CODES[error.failure]


def describe(error: SevpnError, *, code: int | None = None) -> dict[str, object]:
    """Return *error* for programs: the JSON that `--json` prints on standard output.

    Args:
        error: What went wrong.
        code: The exit code, if another than the error's own.
    """
    facts: dict[str, object] = {
        "error": str(error),
        "failure": error.failure.value,
        "exit_code": int(code_of(error) if code is None else code),
    }
    if isinstance(error, RefusedError):
        facts["server_error"] = error.code
    if isinstance(error, CertificateError):
        facts["certificate_sha256"] = error.sha256 or None
        facts["reason"] = error.reason
    if isinstance(error, HostError):
        facts["operation"] = error.operation
    return facts


def report(error: SevpnError, *, as_json: bool, code: int | None = None) -> int:
    """Print *error* as one line, and return *code*, or the error's own without one."""
    if as_json:
        print(json.dumps(describe(error, code=code)), flush=True)  # noqa: T201 - the command's answer
    else:
        print(f"sevpn: {error}", file=sys.stderr, flush=True)  # noqa: T201
    return code_of(error) if code is None else code
