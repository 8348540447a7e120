"""One call for each condition that needs a person: a token that expired, an account that cannot pay or is restricted.

With such a condition every message fails, and mostly by webhook after it was accepted: a call for each would wake
somebody a thousand times. A condition is an error class, a scope, whose it is, and a code; it calls once and then not
again before the cool-down is over.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection

from attrs import frozen

from resilience_core import Clock, ConfigurationError
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp._envelope import text_of
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import GraphError
from resilience_whatsapp.webhooks import AccountError, AccountUpdate, StatusUpdate, WebhookUpdate

__all__ = ["PERMANENT", "Alarms", "Condition"]

PERMANENT = frozenset({ErrorClass.AUTH, ErrorClass.POLICY, ErrorClass.SENDER})
"""The classes of errors that do not end by themselves."""
MAX_CONDITIONS = 1_000
_BAD_EVENTS = ("ACCOUNT_RESTRICTION", "ACCOUNT_VIOLATION", "DISABLED_UPDATE", "ACCOUNT_DELETED", "ACCOUNT_OFFBOARDED")
_logger = logging.getLogger("resilience_whatsapp.alarms")


@frozen
class Condition:
    """What is wrong. Nothing in it is personal."""

    error_class: ErrorClass
    scope: str
    """What it applies to: `token`, `waba`, `phone_number`, ..."""
    code: int | None
    """The Graph code; None for what the platform told as news of the account."""
    event: str | None
    """The news: `ACCOUNT_RESTRICTION`, `DISABLED_UPDATE`, ..."""
    waba_id: str | None
    phone_number_id: str | None


class Alarms:
    """Calls `pager` once for each condition and cool-down, in this process.

    Args:
        pager: a function, which must be quick, or a coroutine function, which may take its time: nobody waits for it.
            Gets the `Condition`. If it raises, the log says so, and the next message with the condition calls it again.
        cool_down: seconds.
        classes: which errors call; default `PERMANENT`.
        clock: gives the time; default that of the policies.

    Raises:
        ConfigurationError: a cool-down below 0.
    """

    def __init__(
        self,
        pager: Callable[[Condition], Awaitable[None] | None],
        *,
        cool_down: float = 3600.0,
        classes: Collection[ErrorClass] = PERMANENT,
        clock: Clock | None = None,
    ) -> None:
        if not cool_down >= 0:
            raise ConfigurationError("Alarms: cool_down must be seconds from 0")
        self._pager = pager
        self._cool_down = cool_down
        self._classes = frozenset(classes)
        self._clock = clock or SYSTEM
        self._last: OrderedDict[Condition, float] = OrderedDict()
        self._calls: set[asyncio.Task[None]] = set()

    def on_error(self, error: BaseException, *, waba_id: str | None = None, phone_number_id: str | None = None) -> None:
        """Tell of an error that a send or another request ended with. Others than those of `classes` call nobody."""
        if not isinstance(error, GraphError) or error.error_class not in self._classes:
            return
        # The number is told only where it is what is wrong: else each number of an account would call for itself.
        number = phone_number_id if error.scope == "phone_number" else None
        self._call(Condition(error.error_class, error.scope, error.code, None, waba_id, number))

    def on_update(self, update: WebhookUpdate) -> None:
        """A listener of webhooks."""
        if isinstance(update, (StatusUpdate, AccountError)):
            for error in update.errors:
                self.on_error(error, waba_id=update.waba_id, phone_number_id=update.phone_number_id)
        elif isinstance(update, AccountUpdate) and _is_bad(update) and ErrorClass.POLICY in self._classes:
            self._call(Condition(ErrorClass.POLICY, "waba", None, update.event, update.waba_id, None))

    async def finished(self) -> None:
        """Wait until nobody is being called any more."""
        while self._calls:
            await asyncio.wait(self._calls)

    def _call(self, condition: Condition) -> None:
        now = self._clock.now()
        last = self._last.get(condition)
        if last is not None and now - last < self._cool_down:
            return
        self._last[condition] = now
        self._last.move_to_end(condition)
        if len(self._last) > MAX_CONDITIONS:
            self._last.popitem(last=False)
        try:
            answer = self._pager(condition)
        except Exception as error:
            self._failed(condition, error)
            return
        if inspect.isawaitable(answer):
            call = asyncio.get_running_loop().create_task(self._wait(condition, answer))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _wait(self, condition: Condition, answer: Awaitable[None]) -> None:
        try:
            await answer
        except Exception as error:
            self._failed(condition, error)

    def _failed(self, condition: Condition, error: Exception) -> None:
        self._last.pop(condition, None)
        told = {"error": type(error).__name__, "code": condition.code, "scope": condition.scope}
        _logger.error("The pager could not be called", extra=told)


def _is_bad(update: AccountUpdate) -> bool:
    state = text_of(update.content.get("ban_info"), "waba_ban_state")
    return update.event in _BAD_EVENTS and state != "REINSTATE"
