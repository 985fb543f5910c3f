# SPDX-License-Identifier: Apache-2.0
"""Retry or end: the failure table, and the back-off between attempts.

Layer: tunnel; pure. Runs in: the control thread.

What is done about a failure depends on its kind and on whether the tunnel has
ever been proven: before the first proof most failures are mistakes that a person
is waiting to correct; after it the same settings have worked and the world has
changed. The table is docs/reference/exit-codes.md; :func:`decide` is that table.

    failure       before the first proof         after a proof
    ------------  -----------------------------  -------------------------------
    secret        end                            end at the third in a row
    config        end                            end
    refused       end                            end
    temporary     retry for 60 s, then end       retry
    unreachable   end unless retries are set     retry
    peer          end                            retry
    untrusted     end                            retry
    host, bug     end                            end
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from sevpn.errors import Failure

__all__ = ["FOREVER", "PATIENCE_S", "End", "Retry", "Rules", "Run", "decide"]

FOREVER = -1
"""As :attr:`Rules.retries`: never give up on what may pass."""

PATIENCE_S = 60.0
"""How long a temporary failure is retried before the first proof."""

_SECRET_ATTEMPTS = 3
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user wants of retries."""

    delay_s: float | None = None
    """First delay; `None` means 5 s, and at once after a proven session."""

    max_delay_s: float = 60.0
    """The longest delay."""

    retries: int | None = None
    """Attempts after a failed one before the first proof, :data:`FOREVER`, or `None`
    for the table."""

    once: bool = False
    """End at the first failure before the first proof, whatever it is."""


@dataclass(frozen=True, slots=True)
class Run:
    """What has happened so far; the memory of :func:`decide`."""

    started_at: float
    """When the tunnel was turned on, in seconds on the monotonic clock."""

    proven: bool = False
    """Whether the tunnel has been proven at least once."""

    failures: int = 0
    """Failures in a row, since the last session that lasted."""

    refusals: int = 0
    """How many of these were a refused secret."""

    def failed(self, failure: Failure) -> Run:
        """Return the memory after one more failure."""
        return Run(
            started_at=self.started_at,
            proven=self.proven,
            failures=self.failures + 1,
            refusals=self.refusals + (failure is Failure.SECRET),
        )

    def succeeded(self) -> Run:
        """Return the memory after a proof: the secret was right."""
        return Run(started_at=self.started_at, proven=True, failures=self.failures)

    def rested(self) -> Run:
        """Return the memory after a session that lasted."""
        return Run(started_at=self.started_at, proven=self.proven)


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again."""

    delay_s: float
    """After so many seconds; 0 is at once."""


@dataclass(frozen=True, slots=True)
class End:
    """Give up: the tunnel ends with this failure."""


def decide(
    failure: Failure, run: Run, rules: Rules, *, now: float, jitter: float
) -> Retry | End:
    """Say what follows a failure.

    Args:
        failure: What kind it was.
        run: The memory with this failure in it.
        rules: What the user wants.
        now: Seconds on the monotonic clock.
        jitter: Uniformly random in [-1, 1].
    """
    if _is_final(failure, run):
        return End()
    if not run.proven and not _is_worth_waiting(failure, run, rules, now):
        return End()
    return Retry(_delay(run, rules, jitter))


def _is_final(failure: Failure, run: Run) -> bool:
    """Whether no retry can help."""
    match failure:
        case Failure.CONFIG | Failure.REFUSED | Failure.HOST | Failure.BUG:
            return True
        case Failure.SECRET:
            return not run.proven or run.refusals >= _SECRET_ATTEMPTS
        case Failure.PEER | Failure.UNTRUSTED:
            return not run.proven
        case Failure.TEMPORARY | Failure.UNREACHABLE:
            return False
        case _:
            assert_never(failure)


def _is_worth_waiting(failure: Failure, run: Run, rules: Rules, now: float) -> bool:
    """Whether a tunnel that has never been proven tries again."""
    if rules.once:
        return False
    if rules.retries is None:
        return failure is Failure.TEMPORARY and now - run.started_at < PATIENCE_S
    return rules.retries == FOREVER or run.failures <= rules.retries


def _delay(run: Run, rules: Rules, jitter: float) -> float:
    """Return the pause: it doubles from the first delay to the longest, ±20 %."""
    step = run.failures - 1
    if rules.delay_s is None and run.proven:
        if step == 0:
            return 0.0
        step -= 1
    first = 5.0 if rules.delay_s is None else rules.delay_s
    # 2**20 s is beyond any maximum; the bound keeps the power small.
    return min(first * 2.0 ** min(step, 20), rules.max_delay_s) * (1 + _JITTER * jitter)
