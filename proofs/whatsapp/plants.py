"""Faults that can be planted in the framework: each must make its bar say `missed`, or the proof proves nothing.

They are planted in the sender processes and in the receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen


def _put(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def _gates_with(**changed: Any) -> None:
    from resilience_whatsapp.gates import _gates

    init = _gates.Gates.__init__
    _put(_gates.Gates, "__init__", lambda self, **options: init(self, **{**options, **changed}))


def unknown_is_sent_again() -> None:
    """What nobody answered is taken for what was not sent."""
    from resilience_whatsapp.outbox import _machine

    _put(_machine, "_unknown", lambda row, reason, now, rules: _machine._again(row, now + 1.0, reason))


def echo_ignored() -> None:
    """Webhooks settle nothing."""
    from resilience_whatsapp.outbox import _machine

    _put(_machine, "echoed", lambda row, *args, **kwargs: row)


def second_send_not_counted() -> None:
    """A message that may have been sent twice does not say so; no echo tells of the first one."""
    from resilience_whatsapp.outbox import _machine

    echo_ignored()
    accepted = _machine.accepted

    def silent(row: Any, *args: Any) -> Any:
        return evolve(accepted(row, *args), possible_duplicate=False)

    _put(_machine, "accepted", silent)


def rows_forgotten() -> None:
    """Some messages are not kept, though the caller is told that they are."""
    from resilience_whatsapp.outbox import SQLiteStore

    add = SQLiteStore.add

    async def forget(self: Any, row: Any) -> Any:
        return row if hash(row.key) % 50 == 0 else await add(self, row)

    _put(SQLiteStore, "add", forget)


def queue_not_sent() -> None:
    """What is queued stays queued."""
    from resilience_whatsapp.outbox import SQLiteStore

    async def nothing(self: Any, *args: Any) -> list[Any]:
        return []

    _put(SQLiteStore, "take", nothing)


def said_to_be_sent() -> None:
    """What was refused for a time is said to be accepted."""
    from resilience_whatsapp.outbox import _machine

    _put(_machine, "_judged", lambda row, *args: _machine.accepted(row, "", 0, 0, 0.0))


def trouble_is_final() -> None:
    """One error of the platform, and the message is given up."""
    from resilience_whatsapp.outbox import _machine

    _put(_machine, "_judged", lambda row, *args: _machine._over(row, _machine.DEAD, "given up"))


def pairs_not_paced() -> None:
    """As many messages to one user as there are."""
    _gates_with(pair_burst=None)


def number_not_paced() -> None:
    """As many messages as there are, queued or not; and that the limit of the number was met keeps none back."""
    from resilience_whatsapp.outbox import _drain, _machine, _pace

    _gates_with(throughput=None)
    _put(_drain.Drainer, "learn", lambda *args: None)
    _put(_machine, "MAX_THROTTLE_WAIT", 0.0)
    _put(_pace.Pace, "grant", lambda self, now, most: most)
    _put(_pace.Pace, "wait", lambda self, now: 0.0)


def limits_open_the_circuit() -> None:
    """Whatever the API refuses counts as trouble of the platform, and no gate keeps the next message back."""
    from resilience_core import Judgement, Verdict
    from resilience_whatsapp import client

    classify = vars(client)["classify_graph"]

    def judged(error: Any) -> Any:
        found = classify(error)
        refused = found.verdict in (Verdict.THROTTLED, Verdict.PERMANENT, Verdict.IGNORED)
        return Judgement(Verdict.TRANSIENT, reason=found.reason) if refused else found

    init = client.ResilientWhatsAppClient.__init__

    def without(self: Any, *args: Any, **options: Any) -> None:
        options["gates"] = None
        init(self, *args, **options)

    _put(client, "classify_graph", judged)
    _put(client.ResilientWhatsAppClient, "__init__", without)


def circuit_stays_closed() -> None:
    """Nothing opens it."""
    from resilience_core import CircuitBreaker
    from resilience_whatsapp.settings import BREAKER_NAME, Settings

    def patient(self: Any, name: str = BREAKER_NAME, *, fleet: Any = None) -> Any:
        return CircuitBreaker(name, failure_threshold=10**6, fleet=fleet)

    _put(Settings, "circuit_breaker", patient)


@frozen
class Plant:
    """A fault, and the bar that must see it."""

    bar: str
    apply: Callable[[], None]
    options: tuple[str, ...] = ()
    """For the small form: what it needs to be seen."""


PLANTS = {
    plant.apply.__name__: plant
    for plant in (
        Plant("twice", unknown_is_sent_again),
        Plant("unknown", echo_ignored),
        Plant("twice", second_send_not_counted),
        Plant("lost", rows_forgotten),
        Plant("lost", queue_not_sent),
        Plant("lost", said_to_be_sent),
        Plant("lost", trouble_is_final),
        Plant("limits", pairs_not_paced, ("--hot", "0.5")),
        Plant("limits", number_not_paced, ("--throughput", "4", "--speed", "8")),
        Plant("circuit", limits_open_the_circuit, ("--messages", "2000", "--shortest", "200", "--speed", "10")),
        Plant("circuit", circuit_stays_closed),
    )
}


def apply(name: str) -> None:
    """Break this process in the way of that name."""
    PLANTS[name].apply()
