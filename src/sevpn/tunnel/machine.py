# SPDX-License-Identifier: Apache-2.0
"""The life of a tunnel: states, and one pure function that leads from each to the next.

Layer: tunnel; pure. Runs in: the control thread; `supervisor.py` is its shell.

         ┌──────┐ TurnOn  ┌───────────┐ AddressesKnown ┌────────────┐
         │ Down ├────────>│ Resolving ├───────────────>│ Connecting │
         └──────┘         └───────────┘                └─────┬──────┘
            ^               ^                                │ HelloSeen
            │               │ TimerFired               ┌─────v──────────┐
            │          ┌────┴────┐     StepFailed      │ Authenticating │
            │          │ Waiting │<─────────────┐      └─────┬──────────┘
            │          └─────────┘  (any state  │            │ SessionOpened
            │                        up to      │      ┌─────v───┐
     Left   │                        Connected) ├──────┤ Leasing │<─────────┐
    ┌───────┴───────┐                           │      └─────┬───┘          │
    │ Disconnecting │<── TurnOff, or a failure  │            │ LeaseObtained│
    └───────┬───────┘    that ends the tunnel   │      ┌─────v───────┐      │
            │                                   ├──────┤ Configuring │      │
            v                                   │      └─────┬───────┘      │
       Down, Failed                             │            │ HostConfigured
                                                │      ┌─────v───┐          │ LeaseLost
                                                ├──────┤ Proving │          │
                                                │      └─────┬───┘          │
                                                │            │ Proven       │
                                                │      ┌─────v─────┐        │
                                                └──────┤ Connected ├────────┘
                                         SessionLost   └──┬─────^──┘
                                                          │     │ Resumed
                             SessionLost, Heal, where     │     │
                             the server may still know    │   ┌─┴────────┐
                             the session                  └──>│ Resuming │
                                                              └─┬────────┘
                                                                └─> as if it had not been tried

Each action is begun by the shell and reported back as one event. An event that
comes late (the end of something that was given up) changes nothing. What is
retried and what ends the tunnel is `policy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from sevpn.errors import SevpnError
from sevpn.tunnel.policy import End, Rules, Run, decide

__all__ = [
    "STABLE_S",
    "Action",
    "AddressesKnown",
    "Authenticating",
    "CloseSession",
    "ConfigureHost",
    "Configuring",
    "Connected",
    "Connecting",
    "Disconnecting",
    "Down",
    "Event",
    "Failed",
    "Heal",
    "HelloSeen",
    "HostConfigured",
    "LeaseChanged",
    "LeaseLost",
    "LeaseObtained",
    "Leasing",
    "LeaveAndRestore",
    "Left",
    "ObtainLease",
    "OpenSession",
    "Prove",
    "Proven",
    "Proving",
    "ReleaseHost",
    "Resolving",
    "ResumeSession",
    "Resumed",
    "Resuming",
    "SessionLost",
    "SessionOpened",
    "SetTimer",
    "State",
    "Step",
    "StepFailed",
    "TimerFired",
    "TurnOff",
    "TurnOn",
    "Waiting",
    "step",
]

STABLE_S = 10.0
"""A session that lasted this long forgets earlier failures: our own choice.

A session that is proven and cut again and again backs off like one that fails.
"""

# --- states ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Down:
    """Off, and nothing of ours is on the host."""


@dataclass(frozen=True, slots=True)
class Resolving:
    """The server's name is being looked up."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """TCP and TLS are being set up, up to the server's Hello."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Authenticating:
    """The login is on its way; the server thinks."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Leasing:
    """There is a session; an address is being asked for through it."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Configuring:
    """Addresses, routes and DNS are being set on the host."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Proving:
    """All is set; something has yet to come back through the tunnel."""

    run: Run
    """What has happened so far."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The tunnel carries traffic."""

    run: Run
    """What has happened so far; forgotten once the session has lasted."""

    since: float
    """When it was proven, in seconds on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Resuming:
    """All connections are gone; the session is being taken up again, the host untouched."""

    run: Run
    """What has happened so far."""

    since: float
    """When the session was proven, in seconds on the monotonic clock."""

    cause: SevpnError | str
    """What has happened to the connections: how the last one was lost, or what the
    network underneath has done."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt failed or a session was lost; the next attempt has its time."""

    run: Run
    """What has happened so far."""

    retry_at: float
    """When to try again, in seconds on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Disconnecting:
    """The lease is given back, the session closed, the host restored."""

    error: SevpnError | None
    """Why; `None` because the user wants it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Ended by a failure; nothing of ours is on the host."""

    error: SevpnError
    """Which one."""


State = (
    Down
    | Resolving
    | Connecting
    | Authenticating
    | Leasing
    | Configuring
    | Proving
    | Connected
    | Resuming
    | Waiting
    | Disconnecting
    | Failed
)
_Trying = Resolving | Connecting | Authenticating | Leasing | Configuring | Proving

# --- events ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnOn:
    """The user wants the tunnel."""


@dataclass(frozen=True, slots=True)
class TurnOff:
    """The user, or a signal, wants it no more."""


@dataclass(frozen=True, slots=True)
class Heal:
    """Drop what there is and begin again now."""

    reason: str | None = None
    """What has happened underneath, so that the connections are dead already; `None`:
    the user wants it."""

    can_resume: bool = False
    """Whether the server may still know the session."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer of :class:`SetTimer` ran out; it may be an old one."""


@dataclass(frozen=True, slots=True)
class AddressesKnown:
    """The server's name has been resolved."""


@dataclass(frozen=True, slots=True)
class HelloSeen:
    """The server said Hello; the login is sent."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The server said Welcome."""


@dataclass(frozen=True, slots=True)
class LeaseObtained:
    """An address is there, by DHCP in this session or by options."""


@dataclass(frozen=True, slots=True)
class LeaseChanged:
    """A renewal brought other settings than before."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The address may not be used any more; another is being asked for."""


@dataclass(frozen=True, slots=True)
class HostConfigured:
    """Addresses, routes and DNS are set and read back."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Something came back; or nothing did and nothing depends on it."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The action under way failed."""

    error: SevpnError
    """How."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The session's last connection ended by itself."""

    error: SevpnError
    """How."""

    can_resume: bool = False
    """Whether the server may still know the session."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The session goes on, and something has come back through it."""


@dataclass(frozen=True, slots=True)
class Left:
    """The host is restored, as far as it could be."""


Event = (
    TurnOn
    | TurnOff
    | Heal
    | TimerFired
    | AddressesKnown
    | HelloSeen
    | SessionOpened
    | LeaseObtained
    | LeaseChanged
    | LeaseLost
    | HostConfigured
    | Proven
    | StepFailed
    | SessionLost
    | Resumed
    | Left
)

# --- actions -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Resolve, pin the host route, dial, log in; reports its progress."""


@dataclass(frozen=True, slots=True)
class ObtainLease:
    """Have an address for this session, or report failure in bounded time."""


@dataclass(frozen=True, slots=True)
class ConfigureHost:
    """Bring the host into the state that lease and settings want."""


@dataclass(frozen=True, slots=True)
class Prove:
    """Ask through the tunnel until something comes back, or time is up."""


@dataclass(frozen=True, slots=True)
class ResumeSession:
    """Drop the connections, open another one for the same session, and prove it."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Give up what is under way and close the session, if there is one."""

    polite: bool = True
    """Whether to tell the server; nobody is told by a way that has gone."""


@dataclass(frozen=True, slots=True)
class ReleaseHost:
    """Take addresses, routes and DNS off the host; TAP and host route stay."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Report :class:`TimerFired`."""

    at: float
    """At this time, in seconds on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class LeaveAndRestore:
    """Give the lease back, close the session politely, restore the host."""


Action = (
    OpenSession
    | ObtainLease
    | ConfigureHost
    | Prove
    | ResumeSession
    | CloseSession
    | ReleaseHost
    | SetTimer
    | LeaveAndRestore
)


@dataclass(frozen=True, slots=True)
class Step:
    """What an event leads to."""

    state: State
    """The state from now on."""

    actions: tuple[Action, ...] = ()
    """What the shell has to begin, in this order."""


# --- the function ------------------------------------------------------------


def step(
    state: State, event: Event, *, now: float, rules: Rules, jitter: float
) -> Step:
    """Say what *event* leads to in *state*.

    Args:
        state: Where the tunnel is.
        event: What happened.
        now: Seconds on the monotonic clock.
        rules: What the user wants of retries.
        jitter: Uniformly random in [-1, 1]; spreads the delays of many clients.

    Returns:
        The next state and what to begin. Never raises.
    """
    match state:
        case Down() | Failed():
            return _step_off(state, event, now)
        case (
            Resolving()
            | Connecting()
            | Authenticating()
            | Leasing()
            | Configuring()
            | Proving()
        ):
            return _step_trying(state, event, now=now, rules=rules, jitter=jitter)
        case Connected():
            return _step_connected(state, event, now=now, rules=rules, jitter=jitter)
        case Resuming():
            return _step_resuming(state, event, now=now, rules=rules, jitter=jitter)
        case Waiting():
            return _step_waiting(state, event, now)
        case Disconnecting():
            return _step_disconnecting(state, event)
        case _:
            assert_never(state)


def _step_off(state: Down | Failed, event: Event, now: float) -> Step:
    match event:
        case TurnOn():
            return Step(Resolving(Run(started_at=now)), (OpenSession(),))
        case TurnOff() | Heal() | TimerFired() | Left() | Resumed():
            return Step(state)
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | SessionLost()
            | StepFailed()
        ):
            return Step(state)
        case (
            LeaseObtained() | LeaseChanged() | LeaseLost() | HostConfigured() | Proven()
        ):
            return Step(state)
        case _:
            assert_never(event)


def _step_trying(
    state: _Trying, event: Event, *, now: float, rules: Rules, jitter: float
) -> Step:
    match event:
        case TurnOff():
            return Step(Disconnecting(None), (LeaveAndRestore(),))
        case Heal(reason):
            return _begin_again(state.run, reason)
        case StepFailed(error) | SessionLost(error):
            return _after_failure(state.run, error, now=now, rules=rules, jitter=jitter)
        case LeaseLost() if isinstance(state, Configuring | Proving):
            return Step(Leasing(state.run), (ReleaseHost(), ObtainLease()))
        case LeaseChanged() if isinstance(state, Configuring | Proving):
            return Step(Configuring(state.run), (ConfigureHost(),))
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | LeaseObtained()
            | HostConfigured()
            | Proven()
        ):
            return _step_forward(state, event, now)
        case (
            TurnOn() | TimerFired() | Left() | LeaseChanged() | LeaseLost() | Resumed()
        ):
            return Step(
                state
            )  # already wanted; an old timer; news of a lease that is not in use
        case _:
            assert_never(event)


def _step_forward(
    state: _Trying,
    event: AddressesKnown
    | HelloSeen
    | SessionOpened
    | LeaseObtained
    | HostConfigured
    | Proven,
    now: float,
) -> Step:
    """Go on by one stage; what belongs to another stage is late and changes nothing."""
    match state, event:
        case Resolving(), AddressesKnown():
            return Step(Connecting(state.run))
        case Connecting(), HelloSeen():
            return Step(Authenticating(state.run))
        case Authenticating(), SessionOpened():
            return Step(Leasing(state.run), (ObtainLease(),))
        case Leasing(), LeaseObtained():
            return Step(Configuring(state.run), (ConfigureHost(),))
        case Configuring(), HostConfigured():
            return Step(Proving(state.run), (Prove(),))
        case Proving(), Proven():
            return Step(Connected(state.run.succeeded(), since=now))
        case _:
            return Step(state)


def _step_connected(
    state: Connected, event: Event, *, now: float, rules: Rules, jitter: float
) -> Step:
    match event:
        case TurnOff():
            return Step(Disconnecting(None), (LeaveAndRestore(),))
        case Heal(str(reason), can_resume=True):
            return Step(Resuming(state.run, state.since, reason), (ResumeSession(),))
        case Heal(reason):
            return _begin_again(_rested(state, now), reason)
        case SessionLost(error, can_resume=True):
            return Step(Resuming(state.run, state.since, error), (ResumeSession(),))
        case SessionLost(error) | StepFailed(error):
            run = _rested(state, now)
            return _after_failure(run, error, now=now, rules=rules, jitter=jitter)
        case LeaseLost():
            return Step(Leasing(state.run), (ReleaseHost(), ObtainLease()))
        case LeaseChanged():
            return Step(Configuring(state.run), (ConfigureHost(),))
        case TurnOn() | TimerFired() | Left():
            return Step(state)
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | LeaseObtained()
            | HostConfigured()
            | Proven()
            | Resumed()
        ):
            return Step(state)  # the late end of something that was given up
        case _:
            assert_never(event)


def _step_resuming(
    state: Resuming, event: Event, *, now: float, rules: Rules, jitter: float
) -> Step:
    match event:
        case Resumed():
            return Step(Connected(state.run, state.since))
        case Heal(str(reason), can_resume=True):
            # The network has moved once more: what is under way goes nowhere.
            return Step(Resuming(state.run, state.since, reason), (ResumeSession(),))
        case Heal(reason):
            return _begin_again(_rested(state, now), reason)
        case StepFailed() | SessionLost() | LeaseLost():
            run = _rested(state, now)
            if isinstance(state.cause, str):
                return _begin_again(run, state.cause)
            return _after_failure(run, state.cause, now=now, rules=rules, jitter=jitter)
        case TurnOff():
            return Step(Disconnecting(None), (LeaveAndRestore(),))
        case TurnOn() | TimerFired() | Left() | LeaseChanged():
            return Step(state)
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | LeaseObtained()
            | HostConfigured()
            | Proven()
        ):
            return Step(state)  # the late end of something that was given up
        case _:
            assert_never(event)


def _step_waiting(state: Waiting, event: Event, now: float) -> Step:
    match event:
        case TimerFired() if now >= state.retry_at:
            return Step(Resolving(state.run), (OpenSession(),))
        case Heal():
            return Step(Resolving(state.run), (OpenSession(),))
        case TurnOff():
            return Step(Disconnecting(None), (LeaveAndRestore(),))
        case TurnOn() | TimerFired() | Left() | Resumed():
            return Step(state)  # already wanted; a timer that was set earlier
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | SessionLost()
            | StepFailed()
        ):
            return Step(state)  # the late end of an attempt that was given up
        case (
            LeaseObtained() | LeaseChanged() | LeaseLost() | HostConfigured() | Proven()
        ):
            return Step(state)
        case _:
            assert_never(event)


def _step_disconnecting(state: Disconnecting, event: Event) -> Step:
    match event:
        case Left():
            return Step(Down() if state.error is None else Failed(state.error))
        case TurnOn() | TurnOff() | Heal() | TimerFired() | Resumed():
            return Step(state)  # nothing stops a restoration that has begun
        case (
            AddressesKnown()
            | HelloSeen()
            | SessionOpened()
            | SessionLost()
            | StepFailed()
        ):
            return Step(state)
        case (
            LeaseObtained() | LeaseChanged() | LeaseLost() | HostConfigured() | Proven()
        ):
            return Step(state)
        case _:
            assert_never(event)


def _rested(state: Connected | Resuming, now: float) -> Run:
    """Forget earlier failures if this session has lasted."""
    return state.run.rested() if now - state.since >= STABLE_S else state.run


def _begin_again(run: Run, reason: str | None) -> Step:
    close = CloseSession(polite=reason is None)
    return Step(Resolving(run), (close, ReleaseHost(), OpenSession()))


def _after_failure(
    run: Run, error: SevpnError, *, now: float, rules: Rules, jitter: float
) -> Step:
    run = run.failed(error.failure)
    answer = decide(error.failure, run, rules, now=now, jitter=jitter)
    if isinstance(answer, End):
        return Step(Disconnecting(error), (LeaveAndRestore(),))
    at = now + answer.delay_s
    return Step(Waiting(run, at), (CloseSession(), ReleaseHost(), SetTimer(at)))
