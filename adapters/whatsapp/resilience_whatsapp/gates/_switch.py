"""A gate that an error shuts: a circuit breaker of the core, which one failure opens.

    open --error--> shut, until the wait is over --probe--> open, for a fifth of the calls at first
                      ^------- twice as long --------| bad

The probe of a latch (credential, account, number) is a read of `health_status`: no message finds out. Other gates have
no such read; there the next request is the probe.

What must never happen: that all who wait find out at once (the breaker gives one permit, in a fleet one for all);
that an error of before, or of a request under way, makes the wait grow (its permit is of an older generation).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from attrs import define, field

from resilience_core import (
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Clock,
    Fleet,
    Judgement,
    RampStep,
    RecoveryBackoff,
    Verdict,
)
from resilience_whatsapp.gates._routes import Scope

Probe: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether it is repaired; may raise, which says no, and a `CallRejected` says nothing."""
Permit: TypeAlias = Any

PROBE_TIMEOUT = 10.0
READ_LEASE, REQUEST_LEASE = 20.0, 120.0
"""Longer than a probe takes: a read, or a request with its time-outs and its wait for a turn."""
_DAY = 86_400.0
_SHARE, _CAUTIOUS = 0.2, 30.0  # health may say more than is so; the errors of messages come a second later
_UNKNOWN_WAIT = 60.0
_SHUT = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.FORCED_OPEN)
_GOOD = Judgement(Verdict.SUCCESS)
_NOTHING = Judgement(Verdict.IGNORED)


def breaker_of(
    name: str, first: float, most: float, *, lease: float, cautious: bool, clock: Clock, fleet: Fleet | None
) -> CircuitBreaker:
    """The circuit breaker of a gate that stays shut for `first` seconds, and then up to `most`.

    `lease` is the seconds after which a probe that never ended makes room for another one. `cautious`: a good probe may
    say more than is so, and lets a part of the messages through at first.
    """
    ramp: Any = (RampStep(_SHARE, _CAUTIOUS),) if cautious else ()
    return CircuitBreaker(
        name,
        failure_threshold=1,
        success_threshold=1,
        recovery_timeout=first,
        recovery_backoff=RecoveryBackoff(max_timeout=most, jitter=0.0),
        max_retry_after=_DAY,
        probe_timeout=lease,
        ramp=ramp,
        clock=clock,
        fleet=fleet,
    )


@define(eq=False)
class Switch:
    """One gate."""

    scope: Scope
    breaker: CircuitBreaker
    latched: bool = False
    """Whether a read finds out if it may open: of the client that asks, as another one may have been closed."""
    code: int | None = field(default=None, init=False)
    """Of the error that shut it last, where this process met it."""
    token: int | None = field(default=None, init=False, repr=False)
    """Of the gate of credentials: the hash of the token that was refused, where it is a text."""
    told: bool = field(default=False, init=False, repr=False)
    """Of the same: whether the fleet knows that."""

    def shut(self, code: int | None, wait: float | None, permit: Permit = None) -> None:
        """An error of the API shuts it, for `wait` seconds at least; with the permit of the request that met it."""
        breaker, reason = self.breaker, "told" if code is None else f"graph {code}"
        while not permit:
            try:
                permit = breaker.enter((), {})
            except CircuitOpenError:
                if breaker.state is not CircuitState.CLOSED:
                    return  # shut already; or it lets a part through, and one of the next tries gets a permit
        self.code = code
        breaker.settle(permit, Judgement(Verdict.TRANSIENT, retry_after=wait, reason=reason))

    def release(self, permit: Permit, good: bool) -> None:
        """A request that was admitted has ended otherwise; `good`: it shows that the gate may be open."""
        self.breaker.settle(permit, _GOOD if good else _NOTHING)

    async def ask(self, probe: Probe | None) -> Permit:
        """Ask for admission: a permit to settle, or None where none is needed.

        Raises:
            CircuitOpenError: it is shut.
            CallRejected: by the probe.
        """
        breaker = self.breaker
        permit = breaker.enter((), {})
        if probe is None:
            return permit
        if breaker.state is not CircuitState.HALF_OPEN:
            breaker.settle(permit, _NOTHING)
            return None
        await self._find_out(permit, probe)
        return breaker.settle(breaker.enter((), {}), _NOTHING)

    async def wait(self, probe: Probe | None) -> float:
        """Seconds for which it is shut, 0 if it is not; finds out if that is due."""
        if self.breaker.state not in _SHUT:
            return 0.0
        if probe is None:
            left = self.breaker.retry_after()
            return _UNKNOWN_WAIT if left is None and self.breaker.state is CircuitState.FORCED_OPEN else left or 0.0
        try:
            await self.ask(probe)
        except CallRejected as error:
            return _UNKNOWN_WAIT if error.retry_after is None else error.retry_after
        return 0.0

    async def _find_out(self, permit: Permit, probe: Probe) -> None:
        verdict = Verdict.IGNORED  # of a caller who was cancelled
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                verdict = Verdict.SUCCESS if await probe() else Verdict.TRANSIENT
        except CallRejected:
            raise
        except Exception:
            verdict = Verdict.TRANSIENT
        finally:
            self.breaker.settle(permit, Judgement(verdict, reason="probe"))
