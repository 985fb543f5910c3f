# SPDX-License-Identifier: Apache-2.0
"""The kernel's packet filter, through the library of the program `nft`.

Layer: net. Runs in: the control thread. A table of thirty lines is loaded within
milliseconds.

    Nftables.run(text)       all of it or nothing: one transaction
    Nftables.has_table(…)    whether a table is there
    Nftables.listing(…)      what is in it, for who wants to see whether somebody changed it

The library (libnftables, of the package `nftables`) reads the language of nft(8).
It is loaded at the first use: who asks for no lock needs none. A table with
`flags owner` belongs to the netlink socket of its :class:`Nftables`, so nobody else
can change or flush it, and the kernel removes it when the process ends, however
(docs/decisions/0016-packet-filter.md).

Source: nft(8), libnftables(3).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from typing import Final

from sevpn.errors import HostError, PrivilegeError

__all__ = ["Nftables"]

_LIBRARY: Final = "libnftables.so.1"
_MAX_ERROR: Final = 300
_COUNTED: Final = re.compile(r"packets \d+ bytes \d+")


class Nftables:
    """One user of the packet filter, of the network namespace of the calling thread.

    Args:
        library: The file of the library, for tests that have none.
    """

    def __init__(self, library: str = _LIBRARY) -> None:
        self._name = library
        self._library: ctypes.CDLL | None = None
        self._context: int | None = None

    def run(self, text: str) -> str:
        """Carry out commands as nft(8) reads them, all or none.

        Returns:
            What they print.

        Raises:
            HostError: There is no library, or the kernel refused; with its words.
            PrivilegeError: Without CAP_NET_ADMIN.
        """
        code, out, said = self._run(text)
        if code != 0:
            raise _refused(said)
        return out

    def has_table(self, name: str) -> bool:
        """Whether there is a table *name* of the family inet.

        Raises:
            HostError: There is no library.
        """
        return self.listing(name) is not None

    def listing(self, name: str) -> str | None:
        """Return what is in the table *name* of the family inet; `None`: there is none.

        The same for as long as nobody changes the table: without what its counters say.

        Raises:
            HostError: There is no library.
        """
        code, out, _ = self._run(f"list table inet {name}")
        return _COUNTED.sub("", out) if code == 0 else None

    def tables(self) -> list[str]:
        """Return the names of all tables of the family inet.

        Raises:
            HostError: There is no library, or the kernel did not answer.
        """
        words = (line.split() for line in self.run("list tables inet").splitlines())
        return [line[2] for line in words if line[:2] == ["table", "inet"]]

    def close(self) -> None:
        """Let go of the library; tables that this object owns vanish. Safe to call again."""
        if self._library is not None and self._context is not None:
            self._library.nft_ctx_free(self._context)
        self._context = None

    def _run(self, text: str) -> tuple[int, str, str]:
        library = self._load()
        if self._context is None:
            self._context = library.nft_ctx_new(0)
            if not self._context:
                raise HostError(
                    "the packet filter cannot be used: its library does not start (out of memory?)",
                    operation="load-filter",
                )
            library.nft_ctx_buffer_output(self._context)
            library.nft_ctx_buffer_error(self._context)
        code = library.nft_run_cmd_from_buffer(self._context, text.encode("ascii"))
        out = library.nft_ctx_get_output_buffer(self._context) or b""
        said = library.nft_ctx_get_error_buffer(self._context) or b""
        return code, out.decode("utf-8", "replace"), said.decode("utf-8", "replace")

    def _load(self) -> ctypes.CDLL:
        if self._library is not None:
            return self._library
        try:
            library = ctypes.CDLL(self._name)
        except OSError as error:
            raise HostError(
                f"the packet filter cannot be used ({self._name} cannot be loaded), which --lock, --connmark and "
                "`sevpn bypass` need: install the package nftables, or do without them",
                operation="load-filter",
            ) from error
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_char_p
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        self._library = library
        return library


def _refused(said: str) -> HostError:
    lines = [line for line in said.splitlines() if line.strip()]
    text = lines[0][:_MAX_ERROR] if lines else "no reason given"
    reason = "".join(letter for letter in text if letter.isprintable())
    if os.strerror(errno.EPERM) in reason:
        return PrivilegeError(
            "no permission to change the packet filter: run sevpn with sudo, or with CAP_NET_ADMIN",
            operation="load-filter",
        )
    return HostError(
        f"the packet filter was not changed ({reason}): look at `nft list ruleset`, and whether this kernel has nf_tables",
        operation="load-filter",
    )
