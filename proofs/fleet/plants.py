"""Faults that can be planted in what is proved: each must make its bar say `missed`, or the proof proves nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen

from resilience_core._machines import shared_circuit
from resilience_core._machines.circuit import Circuit, CircuitState
from resilience_core.fleet import _circuit, _names
from resilience_core.fleet._circuit import SharedCircuit
from resilience_core.redis import _link

FOR_EVER = 10**18


def _script(name: str, *changes: tuple[str, str]) -> None:
    """Another text for a script; the change must be one."""
    original = _link.script

    def script(asked: str) -> tuple[str, str]:
        text, known = original(asked)
        if asked != name:
            return text, known
        for old, new in changes:
            assert old in text, f"{name}.lua has no {old!r} any more: plant the fault elsewhere"
            text = text.replace(old, new)
        return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    _link.script = script  # type: ignore[assignment]
    script(name)


def fence_removed() -> None:
    """Results count whatever era they belong to."""
    count, settle = shared_circuit.Failures.apply, Circuit.settle

    def apply(self: Any, record: Any, now: int, draw: Any) -> Any:
        return count(evolve(self, epoch=record.epoch), record, now, draw)

    def settle_any(self: Any, permit: int, *args: Any) -> None:
        settle(self, permit if self.state is CircuitState.HALF_OPEN else self.generation, *args)

    shared_circuit.Failures.apply = apply  # type: ignore[method-assign]
    Circuit.settle = settle_any  # type: ignore[method-assign,assignment]
    Circuit.knows = lambda self, permit: True  # type: ignore[method-assign]


def lease_fence_removed() -> None:
    """Results of a probe count whatever lease it had."""
    shared_circuit._held = lambda record, lease: record.lease
    shared_circuit.ProbesSucceeded.apply = (  # type: ignore[method-assign]
        lambda self, record, now, draw: shared_circuit.Record(CircuitState.CLOSED, draw(), now, "probe_succeeded")
    )
    follow, settle = SharedCircuit._follow_open, Circuit._settle_probe

    def settle_late(self: Any, *args: Any) -> None:
        self.probe_until = float("inf")
        settle(self, *args)

    Circuit._settle_probe = settle_late  # type: ignore[method-assign,assignment]

    def keep_probing(self: Any, record: Any, now: float, ahead: float, first: bool) -> None:
        if self._breaker._circuit.state is not CircuitState.HALF_OPEN:
            follow(self, record, now, ahead, first)

    SharedCircuit._follow_open = keep_probing  # type: ignore[method-assign]


def lease_never_expires() -> None:
    """Whoever has the lease has it for ever."""
    shared_circuit.Lease.takeover_at = property(lambda self: FOR_EVER)  # type: ignore[assignment]
    SharedCircuit._passed_on = lambda self, held: []  # type: ignore[method-assign]


def takeover_at_once() -> None:
    """Who asks for the lease has it."""
    shared_circuit.Lease.takeover_at = property(lambda self: 0)  # type: ignore[assignment]


def read_then_write() -> None:
    """Written without a look at what has been written meanwhile."""
    _script("swap", ("if (text or '') ~= ARGV[1] then", "if false then"))


def no_ttl() -> None:
    """Records without an end."""
    _script("swap", (", 'PX', ARGV[3])", ")"))


def batch_returned_twice() -> None:
    """What was not used is given back twice."""
    _script("take", ("local askers, extra, returned =", "local askers, extra, once ="))
    _script("take", ("local close =", "local returned = 2 * once\nlocal close ="))


def client_clock() -> None:
    """A limit by the time of whoever asks."""
    _script("take", ("if time['err'] then", "if true then"))


def slots_never_come_back() -> None:
    """The slots of who is gone stay taken."""
    _script("slots", ("tonumber(expires) > now and ", ""))


def slots_for_everybody() -> None:
    """What others have is not looked at."""
    _script("slots", ("math.min(want, limit - others)", "math.min(want, limit)"))


def tokens_for_everybody() -> None:
    """What is spent is not taken off."""
    _script("budget", ("balance = balance - given", ""))


def command_per_call() -> None:
    """Every call has the record read."""
    admitted, watch = SharedCircuit.admitted, Circuit.watch

    def ask(self: Any, circuit: Any, now: float, lasts: float) -> None:
        admitted(self, circuit, now, lasts)
        self._poll_at = 0.0
        self._fleet.agent.wake()

    SharedCircuit.admitted = ask  # type: ignore[method-assign]
    Circuit.watch = lambda self, watched: watch(self, True)  # type: ignore[method-assign]


def store_error_raised() -> None:
    """Who is rejected asks the store himself."""
    rejected = SharedCircuit.rejected

    def ask(self: Any, circuit: Any) -> None:
        rejected(self, circuit)
        link = self._fleet.open_link()
        try:
            link.run([self._reading()])
        finally:
            link.close()

    SharedCircuit.rejected = ask  # type: ignore[method-assign]


def poison_raises() -> None:
    """Records are trusted."""
    vars(_circuit)["from_text"] = lambda text: shared_circuit._record(json.loads(text))


def names_collide() -> None:
    """Names are keys in lower case."""
    encoded = _names.encoded
    _names.encoded = lambda name: encoded(name).lower()


def version_ignored() -> None:
    """Records of any version are read as if they were of this one."""
    read = shared_circuit.from_text

    def read_any(text: str) -> Any:
        try:
            content = json.loads(text)
            return read(json.dumps({**content, "version": shared_circuit.VERSION}))
        except (ValueError, TypeError, RecursionError):
            return None

    vars(_circuit)["from_text"] = read_any


def no_news() -> None:
    """Nobody listens; what others did is seen with the next poll."""
    SharedCircuit.heard = lambda self, channel, content, now: None  # type: ignore[method-assign]


def eras_ignored() -> None:
    """What was written before all forgot is taken after it, too."""
    _script("keep", ("if not anew and era ~= ARGV[1] then return {0} end", ""))


@frozen
class Plant:
    """A fault, and the bar that must see it."""

    bar: str
    apply: Callable[[], None]


PLANTS = {
    plant.apply.__name__: plant
    for plant in (
        Plant("6,7", store_error_raised),
        Plant("8", takeover_at_once),
        Plant("9", lease_never_expires),
        Plant("9", lease_fence_removed),
        Plant("10", read_then_write),
        Plant("12", fence_removed),
        Plant("14", no_ttl),
        Plant("15", poison_raises),
        Plant("16", names_collide),
        Plant("17", client_clock),
        Plant("17", batch_returned_twice),
        Plant("18", command_per_call),
        Plant("19", version_ignored),
        Plant("slots", slots_never_come_back),
        Plant("slots", slots_for_everybody),
        Plant("retries", tokens_for_everybody),
        Plant("news", no_news),
        Plant("values", eras_ignored),
    )
}


def apply(name: str) -> None:
    """Break this process in the way of that name."""
    PLANTS[name].apply()
