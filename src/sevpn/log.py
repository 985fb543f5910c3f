# SPDX-License-Identifier: Apache-2.0
"""Log calls made of an event name and facts, on top of the standard logging.

Layer: log, the lowest but errors. Runs in: any thread.

    log = get_logger(__name__)
    log.info("session lost", cause=error, retry_in_s=1.0)

    terminal    12:00:01 info session lost cause="reset by peer" retry_in_s=1.0
    journal     <6>session lost cause="reset by peer" retry_in_s=1.0
    JSON lines  {"time": "2026-01-31T12:00:01.250Z", "level": "info",
                 "logger": "sevpn.tunnel.supervisor", "event": "session lost",
                 "cause": "reset by peer", "retry_in_s": 1.0}

The event never changes, so that it can be searched for; what varies is a fact.
A fact from the peer may hold anything: whatever is not printable is escaped, so
that a server can neither forge a line nor command the terminal. Secrets print
as `***` by themselves; bytes are shown by their size only, since keys and
digests are bytes.

Source: docs/reference/log.md; journal prefixes: sd-daemon(3).
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import logging
import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, TextIO, cast

__all__ = ["Form", "Logger", "configure", "get_logger"]

ROOT_NAME: Final = "sevpn"

_MAX_TEXT_SIZE: Final = 1000
"""Longest text of one fact; our own choice: a screen's width ten times over."""

_MAX_ITEMS: Final = 100
"""Most items shown of one fact; our own choice: no hub pushes more routes in earnest."""

_JOURNAL_LEVELS: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_RESERVED: Final = frozenset({"time", "level", "logger", "event", "traceback"})
_BARE: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:/+-_@%*,[]"
)

Plain = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None


class Form(enum.Enum):
    """How lines look."""

    TERMINAL = "terminal"
    """For a person: the time of day, the level, the event, the facts."""

    JOURNAL = "journal"
    """For systemd's journal, which adds the time itself: a level prefix."""

    JSON = "json"
    """For programs: one JSON object a line."""


class Logger:
    """Says what happens in one module; see :func:`get_logger`.

    Each method takes the event, which is a constant text, and facts by name. A
    call below the configured level costs a comparison.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **facts: object) -> None:
        """Log a handshake message, a host change, or other such detail."""
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, /, **facts: object) -> None:
        """Log what one would tell a colleague."""
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, /, **facts: object) -> None:
        """Log something odd, and what was done about it."""
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, /, **facts: object) -> None:
        """Log that the tunnel cannot do its work; once per incident."""
        self._log(logging.ERROR, event, facts)

    def exception(self, event: str, /, **facts: object) -> None:
        """Log the exception being handled, with its traceback: a bug of ours."""
        self._log(logging.ERROR, event, facts, with_traceback=True)

    def is_enabled_for(self, level: int) -> bool:
        """Whether a call of this level of the standard library would be shown."""
        return self._logger.isEnabledFor(level)

    def _log(
        self,
        level: int,
        event: str,
        facts: Mapping[str, object],
        *,
        with_traceback: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            # stacklevel: the caller's caller, so that other handlers show its line.
            self._logger.log(
                level,
                "%s",
                event,
                extra={"sevpn_facts": dict(facts)},
                exc_info=with_traceback,
                stacklevel=3,
            )


def get_logger(name: str) -> Logger:
    """Return the logger of the module *name*, which is its `__name__`."""
    return Logger(logging.getLogger(name))


def configure(stream: TextIO, *, level: int = logging.INFO, form: Form) -> None:
    """Send sevpn's log to *stream*, and nowhere else.

    May be called again: the last call holds. Without a call nothing below
    WARNING is shown, as with any library.

    Args:
        stream: Where lines go; the caller keeps it open.
        level: The least level shown, a number of the standard library.
        form: How lines look.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(form))
    root = logging.getLogger(ROOT_NAME)
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


class LineFormatter(logging.Formatter):
    """Makes one line of a record, and of a traceback as many as it needs."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        level = _level_name(record.levelno)
        facts = _facts_of(record)
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._form is Form.JSON:
            return _json_line(record, level, facts, trace)
        words = [_escaped(record.getMessage())]
        words += [f"{name}={_word(value)}" for name, value in facts.items()]
        if self._form is Form.JOURNAL:
            prefix = f"<{_JOURNAL_LEVELS[level]}>"
            # The journal ends a message at each line end; each line needs its level.
            return "\n".join(
                prefix + line for line in (" ".join(words), *trace.splitlines())
            )
        clock = dt.datetime.fromtimestamp(record.created).astimezone()
        line = " ".join([clock.strftime("%H:%M:%S"), level, *words])
        return f"{line}\n{trace}" if trace else line


def _level_name(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def _facts_of(record: logging.LogRecord) -> dict[str, Plain]:
    # A record of another library's logger below ours carries none.
    facts: Mapping[str, object] = getattr(record, "sevpn_facts", {})
    return {name: _plain(value) for name, value in facts.items()}


def _json_line(
    record: logging.LogRecord, level: str, facts: Mapping[str, Plain], trace: str
) -> str:
    when = dt.datetime.fromtimestamp(record.created, dt.UTC)
    line: dict[str, Plain] = {
        "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": record.name,
        "event": record.getMessage(),
    }
    for name, value in facts.items():
        line[f"fact_{name}" if name in _RESERVED else name] = value
    if trace:
        line["traceback"] = trace
    return json.dumps(line)  # ASCII only: the rest is escaped, controls too


def _plain(value: object) -> Plain:
    """Return *value* in terms of JSON, bounded in size, without bytes."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case enum.Enum():
            return _plain(value.value)
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case memoryview():
            return f"<{value.nbytes} bytes>"
        # The casts: what a container holds is not known, and any object will do.
        case Mapping():
            pairs = cast("Mapping[object, object]", value).items()
            return {
                _cut(str(name)): _plain(item)
                for name, item in islice(pairs, _MAX_ITEMS)
            }
        case list() | tuple() | set() | frozenset():
            items = cast("Iterable[object]", value)
            return [_plain(item) for item in islice(items, _MAX_ITEMS)]
        case BaseException():
            # The text of our own errors is made for people; that of others
            # ("13") says little without the kind.
            text = str(value)
            is_ours = type(value).__module__.startswith(ROOT_NAME + ".")
            kind = type(value).__name__
            return _cut(
                text if is_ours and text else f"{kind}: {text}" if text else kind
            )
        case _:
            return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_SIZE else text[: _MAX_TEXT_SIZE - 1] + "…"


def _word(value: Plain) -> str:
    """Return a fact's value for a line of text: quoted unless it is one plain word."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return format(value, ".6g") if value % 1 else format(value, ".1f")
        case list():
            return ",".join(_word(item) for item in value) or "none"
        case dict():
            return (
                ",".join(f"{name}:{_word(item)}" for name, item in value.items())
                or "none"
            )
        case str():
            return (
                value
                if value and _BARE.issuperset(value)
                else f'"{_escaped(value, quote=True)}"'
            )


def _escaped(text: str, *, quote: bool = False) -> str:
    if quote:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )
