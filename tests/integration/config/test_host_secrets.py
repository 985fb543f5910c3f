# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from sevpn.config.hostsource import HostSource
from sevpn.config.secret import MAX_SECRET_SIZE, Secret, parse_reference, resolve
from sevpn.errors import ConfigError, HostError


def host(limit_s: float = 20.0, **environ: str) -> HostSource:
    return HostSource(environ, ask=None, limit_s=limit_s)


def secret_file(folder: Path, data: bytes, *, mode: int = 0o600) -> Path:
    path = folder / "pw"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_person_is_asked() -> None:
    source = HostSource({}, ask=lambda question: question.upper())

    assert resolve(parse_reference("prompt"), source, question="pw? ") == Secret("PW? ")


def test_without_a_terminal_the_option_is_named() -> None:
    with pytest.raises(ConfigError, match="give --password REF"):
        resolve(parse_reference("prompt"), host())


def test_a_variable_is_read() -> None:
    assert resolve(parse_reference("env:A"), host(A="x")) == Secret("x")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_that_others_cannot_reach_is_read(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, b"x\n", mode=mode)

    assert resolve(parse_reference(f"file:{path}"), host()) == Secret("x")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, b"hunter2\n", mode=mode)

    with pytest.raises(ConfigError, match="chmod o-rwx") as caught:
        resolve(parse_reference(f"file:{path}"), host())

    assert "hunter2" not in str(caught.value)


def test_the_longest_secret_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    longest = b"x" * MAX_SECRET_SIZE
    path = secret_file(tmp_path, longest + b"\r\n")

    assert resolve(parse_reference(f"file:{path}"), host()) == Secret(longest.decode())
    path.write_bytes(longest + b"x\r\n")
    with pytest.raises(ConfigError, match="longer than 4096 bytes"):
        resolve(parse_reference(f"file:{path}"), host())


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nonexistent/pw", "No such file"),
        ("/dev/zero", "is no file"),
        ("/", "is no file"),
    ],
)
def test_what_is_no_file_is_refused_with_its_path(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}.*{words}"):
        resolve(parse_reference(f"file:{path}"), host())


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        host().read_file(Path("/a\0b"))


def test_a_pipe_is_read_as_its_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o644)
    # Opened for both, so that the reader finds a writer.
    writer = os.open(path, os.O_RDWR)
    os.write(writer, b"s3cr")

    def finish() -> None:
        os.write(writer, b"et")
        os.close(writer)

    timer = threading.Timer(0.05, finish)
    timer.start()
    assert resolve(parse_reference(f"file:{path}"), host()) == Secret("s3cret")
    timer.join()


def test_a_pipe_that_nothing_comes_from_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(ConfigError, match=r"no secret within 0\.05 s"):
            resolve(parse_reference(f"file:{path}"), host(0.05))
    finally:
        os.close(writer)


def test_a_credential_is_read_from_its_folder(tmp_path: Path) -> None:
    secret_file(tmp_path, b"x", mode=0o400)

    assert resolve(
        parse_reference("cred:pw"), host(CREDENTIALS_DIRECTORY=str(tmp_path))
    ) == Secret("x")


# --- programs ----------------------------------------------------------------


def test_a_program_is_run_without_a_shell() -> None:
    reference = parse_reference("cmd:printf '%s\\nmore\\n' '$HOME; a  b'")

    assert resolve(reference, host()) == Secret("$HOME; a  b")


def test_a_program_gets_a_clean_environment_and_no_input() -> None:
    source = host(
        HOME="/h", SEVPN_PASSWORD="hunter2", LD_PRELOAD="/x", PATH="/usr/bin:/bin"
    )

    printed = source.run(("sh", "-c", "cat; env"))

    assert b"HOME=/h" in printed
    assert b"hunter2" not in printed
    assert b"LD_PRELOAD" not in printed


def test_a_program_that_fails_is_named_with_its_status() -> None:
    with pytest.raises(
        ConfigError, match="'sh' failed with status 3: run it by hand"
    ) as caught:
        resolve(parse_reference("cmd:sh -c 'echo hunter2; exit 3'"), host())

    assert "hunter2" not in str(caught.value)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot run '/nonexistent/x': No such file"):
        resolve(parse_reference("cmd:/nonexistent/x hunter2"), host())


def test_a_program_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot run"):
        host().run(("a\0",))


def test_a_program_that_prints_without_end_is_cut_off() -> None:
    started = time.monotonic()

    assert resolve(parse_reference("cmd:yes s3cret"), host()) == Secret("s3cret")
    assert time.monotonic() - started < 10.0


@pytest.mark.parametrize(
    "command",
    ["sleep 20", "sh -c 'echo x; exec >&-; sleep 20'", "sh -c 'sleep 20 & wait'"],
)
def test_a_program_that_takes_too_long_is_ended(command: str) -> None:
    started = time.monotonic()

    with pytest.raises(ConfigError, match=r"no secret within 0\.3 s"):
        resolve(parse_reference(f"cmd:{command}"), host(0.3))

    assert time.monotonic() - started < 10.0


# --- the keyring -------------------------------------------------------------


class FakeKeyring(types.ModuleType):
    """The library in memory; *entries* maps service and name to a password."""

    def __init__(
        self, entries: dict[tuple[str, str], str], error: Exception | None
    ) -> None:
        super().__init__("keyring")
        self.entries = entries
        self.error = error

    def get_password(self, service: str, name: str) -> str | None:
        if self.error is not None:
            raise self.error
        return self.entries.get((service, name))


def test_an_entry_of_the_keyring_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "keyring", FakeKeyring({("sevpn", "office"): "x"}, None)
    )

    assert resolve(parse_reference("keyring:office"), host()) == Secret("x")
    with pytest.raises(ConfigError, match="'home' of service 'sevpn' does not exist"):
        resolve(parse_reference("keyring:home"), host())


def test_a_keyring_that_is_locked_is_an_error_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        sys.modules, "keyring", FakeKeyring({}, RuntimeError("hunter2"))
    )

    with pytest.raises(
        HostError, match="gave no answer: RuntimeError: unlock it"
    ) as caught:
        resolve(parse_reference("keyring:office"), host())

    assert "hunter2" not in str(caught.value)


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)

    with pytest.raises(HostError, match=r"pip install 'sevpn\[keyring\]'"):
        resolve(parse_reference("keyring:office"), host())
