"""All gates of a process, or of a fleet: what clients share, by scope."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from resilience_core import Bulkhead, Clock, ConfigurationError, Fleet
from resilience_whatsapp._clock import SYSTEM
from resilience_whatsapp.errors import GraphError, graph_error
from resilience_whatsapp.gates._door import ECHO, Door
from resilience_whatsapp.gates._marks import RECIPIENT_WAITS
from resilience_whatsapp.gates._pairs import BURST, Pairs
from resilience_whatsapp.gates._recipients import Recipients, TemplateKey, key_of
from resilience_whatsapp.gates._routes import FIRST_WAIT, Scope, scope_of
from resilience_whatsapp.gates._shared import Learnt, SharedGrowths, SharedMarks, SharedOffers, SharedPace
from resilience_whatsapp.gates._switch import READ_LEASE, REQUEST_LEASE, Switch, breaker_of
from resilience_whatsapp.gates._throughput import LEVELS, Throughput
from resilience_whatsapp.gates._usage import Slowdown

_HOUR = 3_600.0
_KINDS = ("messages", "management")
_CAUTIOUS = (Scope.ACCOUNT, Scope.NUMBER, Scope.TEMPLATES, Scope.MARKETING)
"""Their errors come by webhook, after messages were accepted."""
_SLOW = (Scope.TEMPLATES, Scope.MARKETING)
_RESTRICTED = 131031


class Queued(Protocol):
    """What `Gates.allowed` reads of a row of the outbox."""

    @property
    def lane(self) -> str:
        """The id of the sending number."""
        ...

    @property
    def recipient(self) -> str:
        """A number, with or without `+`, or an id."""
        ...

    @property
    def template(self) -> str | None:
        """The template's name; None for another message."""
        ...

    @property
    def language(self) -> str | None:
        """Its language."""
        ...


class Gates:
    """Limits and latches beside the circuit breaker, one for each scope; give it to `ResilientWhatsAppClient(gates=)`.

    One object may serve several clients: what is the account's or the app's is one gate for all numbers of it.

    Args:
        name: the beginning of the names of all gates, in metrics, in the registry and in the fleet.
        throughput: messages a second, in and out, that each number may exchange: 80, or 20 for a number that is also
            used with the app. `observe_throughput` tells another level. None switches the pacer off.
        throughput_share: of that, what is used (0 to 1).
        pair_burst: messages to one user that may go at once; after them one every 6 s. The platform lends 45; one less
            is a margin for messages that overtake each other. None switches the pacer off.
        max_wait: seconds (0 rejects at once) that a message may wait for its turn at throughput and pair, at each.
        management_max_wait: seconds that a management call may wait when most of the limit is used.
        recipient_waits: seconds, by error code, for which messages to a recipient are kept back; `inf` until told
            otherwise, 0 not at all.
        bulkheads: how many requests of a kind (`messages`, `management`) may be under way at once.
        fleet: a `RedisFleet(secret=...)`: throughput and pairs have one limit in all its members, what shuts the app,
            an account or a number shuts it for all, and one of them finds out; and what one has learnt of recipients,
            rates and tokens all know.
        clock: time; default the system's.

    Raises:
        ConfigurationError: an option cannot be, or the fleet has no secret (recipients are in Redis as HMACs of it).
    """

    def __init__(
        self,
        *,
        name: str = "whatsapp_gate",
        throughput: float | None = LEVELS["STANDARD"],
        throughput_share: float = 0.85,
        pair_burst: int | None = BURST,
        max_wait: float = 0.0,
        management_max_wait: float = 30.0,
        recipient_waits: Mapping[int, float] = RECIPIENT_WAITS,
        bulkheads: Mapping[str, Bulkhead] | None = None,
        fleet: Fleet | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check("name", bool(name), "a text that is not empty")
        _check("throughput", throughput is None or _positive(throughput), "a positive number, or None")
        _check("throughput_share", _positive(throughput_share) and throughput_share <= 1, "above 0 and at most 1")
        burst: Any = pair_burst
        burst_fits = burst is None or (type(burst) is int and burst >= 1)
        _check("pair_burst", burst_fits, "a whole number from 1, or None")
        _check("max_wait", _seconds(max_wait), "seconds from 0")
        _check("management_max_wait", _seconds(management_max_wait), "seconds from 0")
        waits: Any = recipient_waits
        fits = isinstance(waits, Mapping) and all(_number(seconds) and seconds >= 0 for seconds in waits.values())
        _check("recipient_waits", fits, "a mapping of error codes to seconds from 0")
        unknown = [kind for kind in recipient_waits if kind not in RECIPIENT_WAITS]
        _check("recipient_waits", not unknown, f"of the codes {', '.join(map(str, RECIPIENT_WAITS))}")
        found: Any = dict(bulkheads or {})
        good = all(kind in _KINDS and isinstance(each, Bulkhead) for kind, each in found.items())
        _check("bulkheads", good, f"a mapping of {' or '.join(_KINDS)} to Bulkhead")
        self.bulkheads: Mapping[str, Bulkhead] = found
        self.name = name
        self.max_wait = max_wait
        self.management_max_wait = management_max_wait
        self.recipient_waits: Mapping[int, float] = {**recipient_waits}
        self._throughput, self._share = throughput, throughput_share
        self._fleet = fleet
        self.shared: bool = fleet is not None
        self.clock: Clock = clock or SYSTEM
        self.learnt: Learnt | None = None if fleet is None else Learnt(name, fleet, self.clock)
        growths: SharedGrowths | None = None
        known: dict[str, Any] = {}
        if self.learnt is not None:
            growths = SharedGrowths(self.learnt.pairs, self.clock)
            known["marks"] = SharedMarks(self.learnt.recipients, self.clock)
            known["marketing"] = SharedOffers(self.learnt.numbers, self.clock)
        self.recipients: Recipients = Recipients(f"{name}.recipients", clock=self.clock, **known)
        self.pairs: Pairs | None = None
        if pair_burst is not None:
            self.pairs = Pairs(
                f"{name}.pair", pair_burst, max_wait=max_wait, clock=self.clock, fleet=fleet, growths=growths
            )
        self._lock = threading.Lock()
        self._switches: dict[str, Switch] = {}
        self._pacers: dict[str, Throughput] = {}
        self._slowdowns: dict[str, Slowdown] = {}
        self._known_doors: tuple[weakref.ref[Door], ...] = ()

    # --- for the client ----------------------------------------------------------------------------------------------

    def attach(self, http_client: Any) -> Door:
        """The gates of one client."""
        door = Door(self, http_client)
        with self._lock:
            # Weakly: these gates may outlive many clients.
            self._known_doors = (*(ref for ref in self._known_doors if ref() is not None), weakref.ref(door))
        return door

    def slowdown_of(self, account: str) -> Slowdown:
        """The pauses between management calls of an account."""
        with self._lock:
            return self._slowdowns.setdefault(account, Slowdown())

    def switch(self, scope: Scope, key: str, *, latched: bool = False, shared: bool = True) -> Switch:
        """The gate of a scope and an object; the same one for all clients."""
        name = f"{self.name}.{scope.value}.{key}"
        with self._lock:
            switch = self._switches.get(name)
            if switch is None:
                first = _HOUR if scope in _SLOW else 60.0
                fleet = self._fleet if shared else None
                breaker = breaker_of(
                    name,
                    first,
                    max(first, _HOUR),
                    lease=READ_LEASE if latched else REQUEST_LEASE,
                    cautious=scope in _CAUTIOUS,
                    clock=self.clock,
                    fleet=fleet,
                )
                switch = self._switches[name] = Switch(scope, breaker, latched)
        return switch

    def throughput_of(self, number: str) -> Throughput | None:
        """The pacer of a number; None where there is none."""
        if self._throughput is None:
            return None
        with self._lock:
            pacer = self._pacers.get(number)
            if pacer is None:
                pacer = self._pacers[number] = Throughput(
                    f"{self.name}.throughput.{number}",
                    self._throughput,
                    self._share,
                    max_wait=self.max_wait,
                    clock=self.clock,
                    fleet=self._fleet,
                    pace=None if self.learnt is None else SharedPace(self.learnt.numbers, number, self.clock),
                )
        return pacer

    async def discover(self) -> None:
        """Read the throughput of each number from the API, one request each; for start-up.

        Not for numbers that are also used with the app: the API may call their 20 messages a second STANDARD, too.

        Raises:
            GraphError, AmbiguousOutcomeError, aiohttp.ClientError, TimeoutError: the read failed; nothing has changed.
        """
        levels: dict[str, str | None] = {}
        for door in self._doors_of(None):
            if levels.get(door.number) is None:
                levels[door.number] = await door.read_level()
        for number, level in levels.items():
            if level is not None:
                self.observe_throughput(level, phone_number_id=number)

    # --- for the outbox ----------------------------------------------------------------------------------------------

    async def allowed(self, row: Queued) -> float | None:
        """None if the row may be sent now; else seconds after which to ask again, `inf` until told otherwise.

        Takes no permit: the send does. Finds out whether what is latched was repaired, if that is due.
        """
        template = None if row.template is None or row.language is None else (row.template, row.language)
        waits = [await door.wait(row.recipient, template) for door in self._doors_of(row.lane)]
        return max(waits, default=0.0) or None

    # --- what webhooks tell --------------------------------------------------------------------------------------

    def observe_webhook_error(
        self,
        code: int,
        *,
        phone_number_id: str | None = None,
        waba_id: str | None = None,
        recipient: str | None = None,
        template: TemplateKey | None = None,
    ) -> None:
        """An error that came by webhook: it closes the gate that it would have closed as an answer.

        Args:
            code: the API's number.
            phone_number_id, waba_id: whose; without both it is taken for that of all clients.
            recipient: to whom the message was: a number, with or without `+`, or an id.
            template: its name and language.
        """
        error = graph_error(code, None, False, None)
        scope = scope_of(error)
        if scope is Scope.RECIPIENT:  # of all numbers, and once
            self.recipients.learn(key_of(recipient or ""), code, self.recipient_waits.get(code, 0.0), template, None)
            return
        of_account = scope in _OF_ACCOUNTS and waba_id is not None
        # Another number of the account has the same trouble.
        doors = self._doors_of(None if of_account else phone_number_id, waba_id)
        for door in doors:
            door.observe(error, recipient or "", template)
        # Whoever does not know its account may be of it, and may not.
        if self.shared and not [door for door in doors if not of_account or door.account == waba_id]:
            self._tell_fleet(error, phone_number_id, waba_id, recipient)

    def _tell_fleet(self, error: GraphError, number: str | None, account: str | None, recipient: str | None) -> None:
        """Close the gate of a number or an account that no client here has for sure, but perhaps some elsewhere."""
        scope, began = scope_of(error), self.clock.now() - ECHO
        if scope is Scope.THROUGHPUT:
            for pacer in self._pacers_of(number):
                pacer.hit(began, error.retry_after)
        elif scope is Scope.PAIR:
            if self.pairs is not None and number and recipient:
                self.pairs.hit(number, key_of(recipient), began, error.retry_after)
        else:
            keys = {Scope.APP: "messages", Scope.NUMBER: number, **dict.fromkeys(_OF_ACCOUNTS, account)}
            if scope is not None and (key := keys.get(scope)):
                switch = self.switch(scope, key, latched=scope is not Scope.APP)
                switch.shut(error.code, FIRST_WAIT.get(error.code or 0))

    def observe_restriction(self, *, waba_id: str | None = None, until: float | None = None) -> None:
        """The account is restricted (`account_update`): no message is sent until a probe says otherwise.

        `until` is seconds since the epoch, where the webhook tells it.
        """
        seconds = None if until is None else until - self.clock.wall()
        if seconds is not None and seconds <= 0:
            return  # webhooks may come days later
        doors = self._doors_of(None, waba_id)
        for door in doors:
            door.restrict(_RESTRICTED, seconds)
        if self.shared and waba_id is not None and not any(door.account == waba_id for door in doors):
            self.switch(Scope.ACCOUNT, waba_id, latched=True).shut(_RESTRICTED, seconds)

    def observe_throughput(self, level: str | float, *, phone_number_id: str | None = None) -> None:
        """The throughput of a number: `STANDARD`, `HIGH`, or messages a second; another text changes nothing.

        As `NumberStatus.throughput` tells it; the webhook `THROUGHPUT_UPGRADE` means `HIGH`.
        """
        rate = LEVELS.get(level) if isinstance(level, str) else level
        if rate is not None and _positive(rate):
            for pacer in self._pacers_of(phone_number_id):
                pacer.use_level(rate)

    def observe_inbound(
        self, *, phone_number_id: str | None = None, recipient: str | Sequence[str] | None = None
    ) -> None:
        """A message came in: it counts for the throughput, and who wrote it can be reached.

        `recipient` is the number, the id, or both of who wrote.
        """
        for pacer in self._pacers_of(phone_number_id):
            pacer.came_in()
        for each in (recipient,) if isinstance(recipient, str) else recipient or ():
            self.recipients.forget(key_of(each), marketing=False)

    def observe_preference(self, recipient: str, *, stopped: bool) -> None:
        """A user stopped marketing messages, or takes them again (`user_preferences`)."""
        key = key_of(recipient)
        if stopped:
            self.recipients.learn(key, 131050, self.recipient_waits.get(131050, 0.0), None, None)
        else:
            self.recipients.forget(key, marketing=True)

    # --- by hand ------------------------------------------------------------------------------------------------------

    def new_token(self, *, phone_number_id: str | None = None) -> None:
        """There is another token: gates that the old one closed open.

        Needed where the token comes of a function; a text that was replaced is noticed.
        """
        for door in self._doors_of(phone_number_id):
            door.new_token()

    def open(self, scope: str, *, phone_number_id: str | None = None) -> None:
        """Open the gates of a scope by hand, such as `account` after a repair; the API closes them again if it must.

        Raises:
            ConfigurationError: no such scope, or one that has nothing to open.
        """
        found = next((each for each in Scope if each.value == scope), None)
        switches = [each.value for each in Scope if each not in _NOT_SWITCHED]
        _check("scope", found is not None and scope in switches, f"one of {', '.join(switches)}")
        assert found is not None
        for door in self._doors_of(phone_number_id):
            door.open(found)

    # --- looking in ------------------------------------------------------------------------------------------------

    def snapshot(self) -> list[dict[str, Any]]:
        """All gates as plain values: `name`, `scope`, `open`, `retry_after` (seconds), `code`, and numbers of its own.

        No recipient is in it.
        """
        rows: list[dict[str, Any]] = []
        with self._lock:
            switches, pacers = list(self._switches.items()), list(self._pacers.items())
        for name, switch in switches:
            state = switch.breaker.state.value
            row = _row(name, switch.scope, state == "closed", switch.breaker.retry_after())
            rows.append({**row, "code": None if state == "closed" else switch.code, "state": state})
        for _, pacer in pacers:
            wait = pacer.limiter.wait_for()
            row = _row(pacer.limiter.name, Scope.THROUGHPUT, wait == 0, wait or None)
            rows.append({**row, "level": pacer.learned.level, "rate": pacer.learned.rate(self.clock.now())})
        if self.pairs is not None:
            told = self.pairs.limiter.snapshot()
            row = _row(self.pairs.limiter.name, Scope.PAIR, True, None)
            rows.append(
                {**row, "pairs": told["keys"], "waiting": len(self.pairs.growths), "rejected": told["rejected"]}
            )
        row = _row(self.recipients.name, Scope.RECIPIENT, True, None)
        return [*rows, {**row, **self.recipients.snapshot()}]

    def _pacers_of(self, number: str | None) -> list[Throughput]:
        """Each once, however many clients the number has. In a fleet those that send for it may be elsewhere."""
        if self.shared and number:
            self.throughput_of(number)
        with self._lock:
            return [pacer for of, pacer in self._pacers.items() if number in (None, of)]

    def _doors_of(self, number: str | None, waba: str | None = None) -> list[Door]:
        return [
            door
            for ref in self._known_doors
            if (door := ref()) is not None
            and (number is None or door.number == number)
            and (waba is None or door.account in (None, waba))  # a client that knows no account may be of it
        ]


_OF_ACCOUNTS = (Scope.ACCOUNT, Scope.TEMPLATES, Scope.MARKETING)
_NOT_SWITCHED = (Scope.THROUGHPUT, Scope.PAIR, Scope.RECIPIENT, Scope.TEMPLATE)


def _row(name: str, scope: Scope, is_open: bool, wait: float | None) -> dict[str, Any]:
    return {"name": name, "scope": scope.value, "open": is_open, "retry_after": wait, "code": None}


def _check(field: str, good: bool, expected: str) -> None:
    if not good:
        raise ConfigurationError(f"Gates: {field} must be {expected}")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _positive(value: Any) -> bool:
    return _number(value) and 0 < value < math.inf


def _seconds(value: Any) -> bool:
    return _number(value) and 0 <= value < math.inf
