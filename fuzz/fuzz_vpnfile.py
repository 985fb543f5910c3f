# SPDX-License-Identifier: Apache-2.0
"""Any bytes: a configuration text that survives writing and reading, and accounts of it that are valid profiles; or a reason.

Run: `python fuzz/fuzz_vpnfile.py fuzz/corpus/vpnfile`. The input is a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sevpn.config.cfgtext import read_text, write_text
from sevpn.config.profile import MAX_PROFILE_SIZE
from sevpn.config.store import settings_of_keys, toml_of
from sevpn.config.vpnfile import (
    ExportSecrets,
    account_folders,
    export_account,
    import_account,
)
from sevpn.errors import ConfigError


def check(data: bytes) -> None:
    try:
        root = read_text(data)
    except ConfigError as error:
        _check_line(str(error))
        return
    assert read_text(write_text(root, comment="")) == root
    try:
        for account in account_folders(root):
            one = import_account(account)
            settings = settings_of_keys(one.keys, Path(f"/profiles/{one.name}.toml"))
            for notice in one.notices:
                _check_line(notice)
            assert len(toml_of(one.keys)) <= MAX_PROFILE_SIZE
            export_account(
                settings, name=one.name, secrets=ExportSecrets(), rest=one.rest
            )
    except ConfigError as error:
        _check_line(str(error))


def _check_line(text: str) -> None:
    """What is shown to a person is one line, and holds nothing that steers a terminal."""
    assert text.isprintable(), ascii(text)
    assert len(text) < 2000


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
