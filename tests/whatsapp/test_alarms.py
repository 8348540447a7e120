"""A condition that needs a person calls once and not again before the cool-down is over."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from resilience_core import ConfigurationError
from resilience_core.testing import VirtualClock
from resilience_whatsapp import ErrorClass, GraphAuthError
from resilience_whatsapp.alarms import MAX_CONDITIONS, Alarms, Condition
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.webhooks import AccountError, AccountUpdate, InboundMessage, StatusUpdate
from tests.whatsapp.fakes import FakeClock, Stub, service_over

PAYMENT = graph_error(131042, None, False, None)


def failed(*codes: int, waba_id: str = "waba") -> StatusUpdate:
    errors = tuple(graph_error(code, None, False, None) for code in codes)
    ids: Any = {"waba_id": waba_id, "phone_number_id": "7"}
    return StatusUpdate(topic="messages", wamid="w", status="failed", errors=errors, **ids)


def test_a_thousand_messages_with_one_condition_call_once_for_each_cool_down() -> None:
    clock, calls = VirtualClock(), list[Condition]()

    async def main() -> None:
        alarms = Alarms(calls.append, cool_down=600.0, clock=clock)
        for _ in range(3):
            for _ in range(1_000):
                alarms.on_update(failed(131042, 131026))
            clock.advance(300.0)

    asyncio.run(main())
    assert calls == [Condition(ErrorClass.SENDER, "waba", 131042, None, "waba", None)] * 2


def test_conditions_differ_by_code_account_and_where_it_is_the_number_number() -> None:
    calls = list[Condition]()

    async def pager(condition: Condition) -> None:
        calls.append(condition)

    async def main() -> None:
        alarms = Alarms(pager)
        for update in (failed(131042), failed(131042, waba_id="other"), failed(131031), failed(131045)):
            alarms.on_update(update)
        alarms.on_update(AccountError(topic="account", errors=(graph_error(190, None, False, None),)))
        alarms.on_update(InboundMessage(topic="messages", wamid="m", kind="text"))
        alarms.on_error(graph_error(190, None, False, 401))
        alarms.on_error(graph_error(130429, None, False, 429))
        alarms.on_error(RuntimeError())
        await alarms.finished()

    asyncio.run(main())
    assert [(call.code, call.waba_id, call.phone_number_id) for call in calls] == [
        (131042, "waba", None),
        (131042, "other", None),
        (131031, "waba", None),
        (131045, "waba", "7"),
        (190, None, None),
    ]


def test_bad_news_of_the_account_call_and_good_ones_do_not() -> None:
    calls = list[Condition]()

    async def main() -> None:
        for alarms in (Alarms(calls.append), Alarms(calls.append, classes=[ErrorClass.AUTH])):
            for event, content in (
                ("ACCOUNT_RESTRICTION", {}),
                ("DISABLED_UPDATE", {"ban_info": {"waba_ban_state": "REINSTATE"}}),
                ("VERIFIED_ACCOUNT", {}),
            ):
                alarms.on_update(AccountUpdate(topic="account_update", event=event, content=content))

    asyncio.run(main())
    assert [call.event for call in calls] == ["ACCOUNT_RESTRICTION"]


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_a_pager_that_fails_is_called_again_and_harms_nobody(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def pager(_: Condition) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("+33612345678")

    async def slow(condition: Condition) -> None:
        await asyncio.sleep(0)
        pager(condition)

    async def main() -> None:
        alarms = Alarms(pager if kind == "function" else slow)
        for _ in range(3):
            alarms.on_error(PAYMENT)
            alarms.on_error(PAYMENT)
            await alarms.finished()

    with caplog.at_level(logging.ERROR, "resilience_whatsapp.alarms"):
        asyncio.run(main())
    # The function fails before the second error of the first round, the other one while it is told.
    assert (calls, len(caplog.records)) == (2, 1)
    assert "33612345678" not in caplog.text


def test_nobody_waits_for_a_pager_that_hangs() -> None:
    async def main() -> None:
        held = asyncio.Event()

        async def hang(_: Condition) -> None:
            await held.wait()

        alarms = Alarms(hang)
        alarms.on_update(failed(131042))
        held.set()
        await alarms.finished()

    asyncio.run(main())


def test_a_service_tells_the_errors_of_its_sends() -> None:
    calls = list[Condition]()
    expired = graph_error(190, None, False, 401)
    service = service_over(Stub(expired), FakeClock(), alarms=Alarms(calls.append))
    for _ in range(2):
        with pytest.raises(GraphAuthError):
            asyncio.run(service.send_text("ann", "+33612345678", "Hi"))
    assert calls == [Condition(ErrorClass.AUTH, "token", 190, None, None, None)]


def test_the_memory_for_conditions_is_bounded() -> None:
    async def main() -> None:
        calls = list[Condition]()
        alarms = Alarms(calls.append)
        for number in range(MAX_CONDITIONS + 1):
            alarms.on_error(PAYMENT, waba_id=str(number))
        alarms.on_error(PAYMENT, waba_id="0")
        assert len(calls) == MAX_CONDITIONS + 2

    asyncio.run(main())
    with pytest.raises(ConfigurationError, match="cool_down"):
        Alarms(print, cool_down=-1.0)
