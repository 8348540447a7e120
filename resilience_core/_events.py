"""What the policies tell about their unhappy moments: frozen values, delivered outside of every lock.

A listener cannot hurt a call: what it raises is logged once per listener and goes no further. It runs in the caller's
thread or task, so it must be quick and must not wait.

The log (`_event_log.py`) hears every event, too, in the logger and at the level of its class. An event that neither a
listener nor the log wants is not made at all: `Bus.hears` is asked first. Rejections have a way of their own
(`_weave/rejections.py`), because there may be a million of them in a minute.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from resilience_core._errors import RejectionReason
from resilience_core._fork import renewed_after_fork

logging.getLogger("resilience_core").addHandler(logging.NullHandler())  # who sets up no log is told nothing on stderr
logger = logging.getLogger("resilience_core.events")
_CIRCUIT_BREAKER = logging.getLogger("resilience_core.circuit_breaker")
_REJECTIONS = logging.getLogger("resilience_core.rejections")
_RETRY = logging.getLogger("resilience_core.retry")
_TIMEOUT = logging.getLogger("resilience_core.timeout")
_FALLBACK = logging.getLogger("resilience_core.fallback")
_CACHE = logging.getLogger("resilience_core.cache")
_HEDGE = logging.getLogger("resilience_core.hedge")
_CHAOS = logging.getLogger("resilience_core.chaos")
_CONFIG = logging.getLogger("resilience_core.config")
_LIMITS = logging.getLogger("resilience_core.limits")
CONTROL = logging.getLogger("resilience_core.control")
"""Where it is logged that somebody set a state by hand."""


@frozen
class Event:
    """Something that a policy did other than passing a good call through."""

    logger: ClassVar[logging.Logger] = logger
    """Where it is logged."""
    level: ClassVar[int] = logging.DEBUG
    """The highest level at which such an event is logged: where the logger does not want that, none is made."""

    policy: str
    """Name of the policy that tells it."""
    at: float
    """Seconds of the policy's clock."""


@frozen
class CircuitTransition(Event):
    """A circuit changed its state; `reason` is a value of `resilience.transition.reason`.

    For a state entered by hand, `actor`, `note` and `until` say who did it, why, and until when (clock seconds).
    """

    logger: ClassVar[logging.Logger] = _CIRCUIT_BREAKER
    level: ClassVar[int] = logging.WARNING

    previous_state: str
    state: str
    reason: str
    actor: str | None = None
    note: str | None = None
    until: float | None = None
    lasted: float | None = None
    """Seconds that the circuit was in the previous state; None where nobody knows since when."""


@frozen
class Rejection(Event):
    """A call was not made, or would not have been if the policy's `enforce` were 1."""

    logger: ClassVar[logging.Logger] = _REJECTIONS

    reason: RejectionReason
    operation: str
    retry_after: float | None = None
    enforced: bool = True
    """False in shadow mode: the call was made all the same."""


@frozen
class RetryScheduled(Event):
    """An attempt failed and another one follows after `delay` seconds."""

    logger: ClassVar[logging.Logger] = _RETRY
    level: ClassVar[int] = logging.INFO

    operation: str
    attempt: int
    """Number of the attempt that failed, from 1."""
    delay: float
    delay_source: str
    """`backoff` or `retry_after`."""
    error: BaseException = field(repr=False)
    attempts_made: int = 0
    """Attempts of the innermost function so far when retries are nested: the product of their attempts' numbers."""


@frozen
class RetrySuppressed(Event):
    """An attempt failed and no other one follows; `reason` as in `resilience.retry.suppressed`."""

    logger: ClassVar[logging.Logger] = _RETRY

    operation: str
    attempt: int
    reason: str
    error: BaseException = field(repr=False)


@frozen
class TimeoutExpired(Event):
    """A call was given up after `seconds`."""

    logger: ClassVar[logging.Logger] = _TIMEOUT
    level: ClassVar[int] = logging.INFO

    operation: str
    seconds: float
    scope: str = "total"
    """`attempt` where a policy around may try again, else `total`."""


@frozen
class FallbackUsed(Event):
    """A fallback answered in place of a failed call."""

    logger: ClassVar[logging.Logger] = _FALLBACK
    level: ClassVar[int] = logging.INFO

    operation: str
    kind: str
    """`value`, `call` or `cache`."""
    error: BaseException = field(repr=False)


@frozen
class StaleServed(Event):
    """A cache answered with a value of `age` seconds: fetching a new one failed with `error`, or is under way."""

    logger: ClassVar[logging.Logger] = _CACHE
    level: ClassVar[int] = logging.INFO

    operation: str
    age: float
    error: BaseException | None = field(default=None, repr=False)


@frozen
class HedgeStarted(Event):
    """An attempt was late and a further one, number `attempt` (from 2), was started."""

    logger: ClassVar[logging.Logger] = _HEDGE

    operation: str
    attempt: int


@frozen
class HedgeWon(Event):
    """A call for which `attempts` were started has its answer, from the attempt number `winner`."""

    logger: ClassVar[logging.Logger] = _HEDGE

    operation: str
    attempts: int
    winner: int = 1


@frozen
class ChaosInjected(Event):
    """A fault was injected on purpose: `latency`, `error` or `result`."""

    logger: ClassVar[logging.Logger] = _CHAOS

    operation: str
    fault: str


@frozen
class Reconfigured(Event):
    """A policy got other options while in use: pairs of before and after, by name, as plain values."""

    logger: ClassVar[logging.Logger] = _CONFIG
    level: ClassVar[int] = logging.INFO

    changes: tuple[tuple[str, Any, Any], ...]


@frozen
class LimitChanged(Event):
    """An adaptive limit changed, and why."""

    logger: ClassVar[logging.Logger] = _LIMITS

    previous: int
    limit: int
    reason: str


Listener: TypeAlias = Callable[[Event], None]

LOUDEST: dict[type[Event], int] = {}
"""What `resilience_core.logs.set_levels` put in the place of some classes' `level`."""


def logged(kind: type[Event]) -> bool:
    """Whether the log may want an event of that class."""
    level = LOUDEST.get(kind, kind.level)
    return kind.logger.isEnabledFor(level) or (kind is CircuitTransition and CONTROL.isEnabledFor(level))


_changing = renewed_after_fork(threading.RLock())
"""Held while listeners come or go, or one that comes could be lost to one that goes. Reentrant: the garbage collector
ends subscriptions, too, wherever a thread is."""


class Bus:
    """The listeners of one policy. Reading is lock-free: subscribing replaces the tuple."""

    __slots__ = ("_failed", "listeners", "silent_until", "tally")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._failed: tuple[int, ...] = ()  # a tuple, because nearly every bus stays without
        # What the log was told of rejections: read in the hot path of an open circuit, written by `rejections.py`.
        self.silent_until: float = -inf
        self.tally: Any = None

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every event from now on; call what is returned to stop that."""
        with _changing:
            self.listeners = (*self.listeners, listener)

        def unsubscribe() -> None:
            with _changing:
                remaining = list(self.listeners)
                if listener in remaining:
                    remaining.remove(listener)
                self.listeners = tuple(remaining)
                self._failed = tuple(failed for failed in self._failed if failed != id(listener))

        return unsubscribe

    def hears(self, kind: type[Event]) -> bool:
        """Whether anybody wants events of that class; one that nobody wants is not made."""
        return bool(self.listeners or everywhere.listeners) or logged(kind)

    def emit(self, event: Event) -> None:
        """Deliver `event` to this bus's listeners, to those of the whole process, and to the log."""
        self.tell(event)
        if logged(type(event)):
            from resilience_core._event_log import log_event  # here, not above: nobody logs while all is well

            log_event(event)

    def tell(self, event: Event) -> None:
        """As `emit`, but for the log: for those who log it in words of their own."""
        self.deliver(event)
        if self is not everywhere:
            everywhere.deliver(event)

    def deliver(self, event: Event) -> None:
        """Deliver `event` to this bus's listeners only."""
        for listener in self.listeners:
            self._deliver(listener, event)

    def _deliver(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception as error:
            if id(listener) not in self._failed:
                self._failed = (*self._failed, id(listener))
                _complain(listener, event, error)


def _complain(listener: Listener, event: Event, error: Exception) -> None:
    from resilience_core._event_log import say

    # By its name: the repr of a bound method or a partial shows what it is bound to.
    name = getattr(listener, "__qualname__", None) or type(listener).__qualname__
    text = f"Listener {name!r} failed on {type(event).__name__}; it is kept, and this is told once"
    say("resilience.listener.failed", text, error=error)


everywhere = Bus()
"""Hears every policy of the process."""


def subscribe(listener: Listener) -> Callable[[], None]:
    """Tell `listener` of every event of every policy in this process; call what is returned to stop that."""
    return everywhere.subscribe(listener)
