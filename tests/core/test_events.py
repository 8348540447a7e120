"""Who listens: subscriptions come and go in many threads, and none of them is lost."""

from __future__ import annotations

import logging
import threading

import pytest

from resilience_core import Event
from resilience_core._events import Bus


def test_who_subscribes_while_another_one_goes_is_heard() -> None:
    bus, joining = Bus(), threading.Event()
    heard: list[Event] = []

    def join() -> None:
        joining.set()
        bus.subscribe(heard.append)

    latecomer = threading.Thread(target=join)

    class Leaving:
        """Somebody else subscribes in the middle of its going."""

        def __call__(self, event: Event) -> None: ...

        def __eq__(self, other: object) -> bool:
            if not joining.is_set():
                latecomer.start()
                joining.wait()
                latecomer.join(0.1)  # as long as it takes, or until it is clear that it has to wait
            return self is other

        __hash__ = object.__hash__

    bus.subscribe(lambda event: None)
    end = bus.subscribe(Leaving())
    end()
    latecomer.join()
    bus.emit(Event("p", 1.0))
    assert len(heard) == 1
    assert len(bus.listeners) == 2


def test_a_listener_that_fails_is_told_again_if_it_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus()

    def listener(event: Event) -> None:
        raise ValueError

    with caplog.at_level(logging.ERROR, "resilience_core.events"):
        for _ in range(2):
            end = bus.subscribe(listener)
            bus.emit(Event("p", 1.0))
            bus.emit(Event("p", 1.0))
            end()
    assert len(caplog.records) == 2, "once each time, and nothing is kept of those that are gone"
