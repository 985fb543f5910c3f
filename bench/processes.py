# SPDX-License-Identifier: Apache-2.0
"""What a process costs: processor time, its busiest thread, resident memory.

The time of each thread is known to the nanosecond from its `schedstat`; the share of
it that was spent in the kernel, from hundredths of a second. What the kernel does for
a process while it runs, the network's soft interrupts included, is counted as the
process's. A thread that ends between two looks takes its time with it.

Source: proc_pid_stat(5), proc_pid_status(5); Linux, Documentation/scheduler/sched-stats.rst.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_WATCH_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor time, seconds: since the start of a process, or between two moments."""

    user_s: float
    """In the program, to a hundredth."""

    system_s: float
    """In the kernel, to a hundredth."""

    threads: dict[int, float]
    """Both together, of each thread, exactly."""

    @property
    def total_s(self) -> float:
        """Of all threads."""
        return sum(self.threads.values())

    @property
    def kernel_s(self) -> float:
        """Of it in the kernel."""
        both_s = self.user_s + self.system_s
        return self.total_s * self.system_s / both_s if both_s else 0.0

    @property
    def busiest_s(self) -> float:
        """Of the thread that worked most."""
        return max(self.threads.values(), default=0.0)

    def since(self, before: Usage) -> Usage:
        """Return what has been used since *before*."""
        return Usage(
            self.user_s - before.user_s,
            self.system_s - before.system_s,
            {
                thread: used - before.threads.get(thread, 0.0)
                for thread, used in self.threads.items()
            },
        )


def usage(pid: int) -> Usage:
    """Return what a process has used so far."""
    threads: dict[int, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it ends while we look
            threads[int(task.name)] = _thread_s(task)
    return Usage(*parse_stat(Path(f"/proc/{pid}/stat").read_text()), threads)


def _thread_s(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:  # a kernel without it
        return sum(parse_stat((task / "stat").read_text()))


def parse_stat(text: str) -> tuple[float, float]:
    """Return user and system seconds of a line of /proc/PID/stat."""
    # The name before may contain anything: pid (name) state …
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S


def resident_mib(pid: int) -> float:
    """Return VmRSS, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def watch_memory(pid: int) -> Generator[list[float]]:
    """Note VmRSS, MiB, five times a second while the block runs, and once at least."""
    seen: list[float] = []
    is_over = threading.Event()

    def note() -> None:
        while True:
            seen.append(resident_mib(pid))
            if is_over.wait(_WATCH_S):
                return

    watcher = threading.Thread(target=note)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()
