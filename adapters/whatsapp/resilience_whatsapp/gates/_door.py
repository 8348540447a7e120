"""The gates of one client: asked before each request, told of how it ended, and of what webhooks say.

    message -> credential, permission, account, number, app -> recipient -> throughput -> pair -> bulkhead -> request
    management call -> credential, permission, app, management -> pause by usage -> bulkhead -> request

Where all is well a message reads a handful of attributes and takes one permit of each pacer. Nothing here ever waits
but the pacers, within their `max_wait`, and the one request that finds out whether something was repaired.

What must never happen: a management call that keeps a message back, except for a token that is refused; a permit
that is not given back.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar

from attrs import define, field

from resilience_core import (
    Bulkhead,
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    CircuitTransition,
    Event,
    Judgement,
    RateLimitedError,
    RejectionReason,
    Verdict,
)
from resilience_whatsapp._error_table import ErrorClass
from resilience_whatsapp.errors import GraphError, GraphTemplateError
from resilience_whatsapp.gates._closed import GateClosedError
from resilience_whatsapp.gates._recipients import TemplateKey, key_of
from resilience_whatsapp.gates._routes import FIRST_WAIT, Scope, scope_of
from resilience_whatsapp.gates._switch import Permit, Probe, Switch
from resilience_whatsapp.gates._usage import read_usage

if TYPE_CHECKING:
    from resilience_whatsapp.gates._gates import Gates
    from resilience_whatsapp.gates._shared import Learnt
    from resilience_whatsapp.templates._quarantine import Quarantine

Kind: TypeAlias = Literal["messages", "management"]
T = TypeVar("T")
_NO_KWARGS: dict[str, Any] = {}
_NOTHING = Judgement(Verdict.IGNORED)
_WORKED = Judgement(Verdict.SUCCESS)
ECHO = 5.0
"""Seconds that a message may have been on its way before a webhook tells how it ended: refusals that come within them
are of one burst."""


@define
class _Visit:
    """One request on its way through the gates."""

    kind: Kind
    began: float
    recipient: str = ""
    template: TemplateKey | None = None
    flow: str | None = None
    token: str | None = None
    """What the request goes with, where that is a text."""
    permits: list[tuple[Switch, Permit]] = field(factory=list)
    slot: Any = None


class Door:
    """What `Gates.attach` makes for a client."""

    def __init__(self, gates: Gates, http_client: Any) -> None:
        self._gates = gates
        self._clock = gates.clock
        self._http = http_client
        self.number: str = str(getattr(http_client, "phone_number_id", ""))
        self.account: str | None = getattr(http_client, "waba_id", None)
        self.waba: str = self.account or self.number
        self.category_of: Callable[[str, str], str | None] = lambda name, language: None
        self.quarantine: Quarantine | None = None
        self._slowdown = gates.slowdown_of(self.waba)
        self.throughput = gates.throughput_of(self.number)
        self._pairs = gates.pairs
        self._recipients = gates.recipients
        self._bulkheads: Mapping[str, Bulkhead] = gates.bulkheads
        self._learnt = gates.learnt
        self._followed: tuple[int, str | None] | None = None  # version of what is learnt, and token
        probe = self._probe_number if callable(getattr(http_client, "get_number_status", None)) else None
        account = probe
        if callable(getattr(http_client, "get_account_health", None)) and self.account is not None:
            account = self._probe_account
        self._probes: dict[Scope, Probe] = {}
        self._switches: dict[tuple[Scope, Kind | None], Switch] = {
            (Scope.PERMISSION, "messages"): gates.switch(Scope.PERMISSION, f"{self.number}.messages", shared=False),
            (Scope.PERMISSION, "management"): gates.switch(Scope.PERMISSION, f"{self.waba}.management", shared=False),
            (Scope.APP, "messages"): gates.switch(Scope.APP, "messages"),
            (Scope.APP, "management"): gates.switch(Scope.APP, "management"),
            (Scope.MANAGEMENT, "management"): gates.switch(Scope.MANAGEMENT, self.waba),
        }
        if probe is not None and account is not None:
            # What nobody can look at is not latched: nothing would ever open it.
            self._switches |= {
                (Scope.CREDENTIAL, None): gates.switch(Scope.CREDENTIAL, self.number, latched=True, shared=False),
                (Scope.ACCOUNT, "messages"): gates.switch(Scope.ACCOUNT, self.waba, latched=True),
                (Scope.NUMBER, "messages"): gates.switch(Scope.NUMBER, self.number, latched=True),
                (Scope.TEMPLATES, "messages"): gates.switch(Scope.TEMPLATES, self.waba, latched=True),
                (Scope.MARKETING, "messages"): gates.switch(Scope.MARKETING, self.waba, latched=True),
            }
            of_account = partial(self._looked, account)
            self._probes = {
                Scope.CREDENTIAL: partial(self._let_in, probe),
                Scope.NUMBER: partial(self._looked, probe),
                **dict.fromkeys((Scope.ACCOUNT, Scope.TEMPLATES, Scope.MARKETING), of_account),
            }
        kinds: tuple[Kind, ...] = ("messages", "management")
        self._asked: dict[Kind, tuple[Switch, ...]] = {
            kind: tuple(switch for (_, only), switch in self._switches.items() if only in (None, kind))
            for kind in kinds
        }
        # Whoever may have to wait, and a bulkhead, need the longer way.
        waits = gates.max_wait > 0 or gates.shared or "messages" in self._bulkheads
        self._rests: tuple[Callable[[], bool], ...] = (
            *(switch.breaker.at_rest for switch in self._asked["messages"]),
            (lambda: False) if waits else self._recipients.at_rest,
        )
        listeners = getattr(http_client, "header_listeners", None)
        if isinstance(listeners, list):
            hear = _weakly(self._hear_headers)
            listeners.append(hear)
            weakref.finalize(self, listeners.remove, hear).atexit = False

    def follow(self, breaker: CircuitBreaker) -> None:
        """Begin slowly each time that this circuit closes, as long as there is this client."""
        weakref.finalize(self, breaker.subscribe(_weakly(self._hear_breaker))).atexit = False

    # --- requests ------------------------------------------------------------------------------------------------

    async def send(self, request: Callable[..., Awaitable[T]], payload: Mapping[str, Any], *args: Any) -> T:
        """Make the request for a message, if all gates are open."""
        visit: _Visit | None = None
        began = self._clock.now()
        pacer, pairs = self.throughput, self._pairs
        turn: Any = None
        for at_rest in self._rests:
            if not at_rest():
                quiet = False
                break
        else:
            quiet = pacer is None or not pacer.moving
        token: str | None = None
        if quiet:  # the usual case, in as few steps as can be: nothing is shut, and nothing would wait
            token = self._token_text()
            try:
                if pacer is not None:
                    turn = pacer.limiter.enter((), _NO_KWARGS)
                if pairs is not None:
                    pairs.limiter.enter((self.number, _recipient_of(payload)), _NO_KWARGS)
            except RateLimitedError as error:
                scope = self._scope_of(error)
                if scope is Scope.PAIR and turn is not None:
                    turn.give_back(turn.mark())  # or one who writes to one user too often would keep all back
                _refuse(scope, error, None, latched=False)
        else:
            visit = self._visit(payload, began)
            await self._enter(visit)
        try:
            answer = await request(payload, *args)
        except BaseException as error:
            if visit is None:
                visit = self._visit(payload, began)
                visit.token = token
            self._failed(visit, error)
            raise
        if visit is not None:
            self._settle(visit)
        if pacer is not None and pacer.growth.hits:
            pacer.succeeded(began)
        if pairs is not None and pairs.growths:
            pairs.succeeded(self.number, _recipient_of(payload), began)
        return answer

    def _scope_of(self, error: RateLimitedError) -> Scope:
        pacer = self.throughput
        return Scope.THROUGHPUT if pacer is not None and error.name == pacer.limiter.name else Scope.PAIR

    async def manage(self, request: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Make another request, one that counts for the limits of management."""
        visit = _Visit("management", self._clock.now())
        await self._enter(visit)
        try:
            answer = await request(*args)
        except BaseException as error:
            self._failed(visit, error)
            raise
        self._settle(visit)
        return answer

    def _settle(self, visit: _Visit) -> None:
        for switch, permit in visit.permits:
            switch.release(permit, good=True)
        if visit.slot is not None:
            self._bulkheads[visit.kind].settle(visit.slot, _WORKED)

    def _failed(self, visit: _Visit, error: BaseException) -> None:
        if visit.slot is not None:
            self._bulkheads[visit.kind].settle(visit.slot, _NOTHING)
        concerned: Switch | None = None
        if isinstance(error, GraphError):
            told = error.retry_after
            concerned, wait = self._learn(error, visit)
            if wait > 0 and told is None and error.error_class is ErrorClass.THROTTLE:
                error.retry_after = wait  # the retry waits as long as the gate does, or gives up at once
        # An answer shows that other gates may be open; but not one of a platform in trouble, or to a token it refuses.
        answered = (
            isinstance(error, GraphError)
            and error.error_class is not ErrorClass.TRANSIENT
            and scope_of(error) is not Scope.CREDENTIAL
        )
        for switch, permit in visit.permits:
            if switch is not concerned:
                switch.release(permit, good=answered)

    def _visit(self, payload: Mapping[str, Any], began: float) -> _Visit:
        visit = _Visit("messages", began, _recipient_of(payload))
        told = payload.get("template")
        if isinstance(told, Mapping):
            language = told.get("language")
            code = language.get("code") if isinstance(language, Mapping) else language
            visit.template = str(told.get("name")), str(code)
        elif "interactive" in payload:
            visit.flow = _flow_of(payload["interactive"])
        return visit

    async def _enter(self, visit: _Visit) -> None:
        if self._learnt is not None:
            await self._follow_fleet(self._learnt)
        try:
            for switch in self._asked[visit.kind]:
                if not switch.breaker.at_rest() and self._applies(switch, visit.template):
                    await self._ask(switch, visit)
            if visit.kind == "management":
                await self._pause()
            else:
                if not self._recipients.at_rest():
                    template = visit.template
                    marketing = self._is_marketing(template)
                    self._recipients.enter((visit.recipient, template, visit.flow, marketing), {})
                await self._take_turns(visit)
            bulkhead = self._bulkheads.get(visit.kind)
            if bulkhead is not None:
                visit.slot = await bulkhead.enter_async((), {})
            visit.token = self._token_text()
        except BaseException:
            for switch, permit in visit.permits:
                switch.release(permit, good=False)
            raise

    async def _follow_fleet(self, learnt: Learnt) -> None:
        """Take over what other processes have learnt of the number and the token, if that is another than before."""
        if not learnt.ready:
            await learnt.first_word()
        switch, token = self._switches.get((Scope.CREDENTIAL, None)), self._token_text()
        if switch is not None and switch.told and switch.breaker.at_rest():
            self._accepted(switch)
        now = learnt.numbers.version, token
        if now == self._followed:
            return
        self._followed = now
        if self.throughput is not None:
            self.throughput.hear()
        if switch is None or token is None:
            return
        self._look_at_token(switch)
        code = learnt.refused(self.number, token)
        if code is not None and switch.breaker.at_rest():
            switch.token, switch.told = hash(token), True
            switch.shut(code, None)
        elif code is None and switch.told:
            switch.told = False
            if switch.breaker.state is not CircuitState.FORCED_OPEN:
                switch.breaker.reset(reason="another process found it good")

    def _refused(self, switch: Switch, token: str | None, code: int | None) -> None:
        """The API refused the token: others that have it need not ask.

        Not if another one has taken its place since: then the gate opens as soon as somebody comes.
        """
        switch.token = self._token_now() if token is None else hash(token)
        if self._learnt is not None and token is not None and token == self._token_text():
            switch.told = True
            self._learnt.refuse(self.number, token, code)

    def _accepted(self, switch: Switch) -> None:
        """The gate of credentials was opened: so it is for all that have the token."""
        token = self._token_text()
        if switch.told and self._learnt is not None and token is not None and switch.token == hash(token):
            self._learnt.accept(self.number, token)
        switch.told = False

    def _applies(self, switch: Switch, template: TemplateKey | None) -> bool:
        if switch.scope is Scope.TEMPLATES:
            return template is not None
        return switch.scope is not Scope.MARKETING or self._is_marketing(template)

    def _is_marketing(self, template: TemplateKey | None) -> bool:
        category = None if template is None else self.category_of(*template)
        return self._recipients.is_marketing(template, category)

    async def _ask(self, switch: Switch, visit: _Visit) -> None:
        if switch.scope is Scope.CREDENTIAL:
            self._look_at_token(switch)
        try:
            permit = await switch.ask(self._probes.get(switch.scope))
        except CircuitOpenError as error:
            _refuse(switch.scope, error, switch.code, latched=switch.latched)
        if switch.told and switch.breaker.at_rest():
            self._accepted(switch)
        if permit is not None:
            visit.permits.append((switch, permit))

    async def _take_turns(self, visit: _Visit) -> None:
        pacer, pairs, pair = self.throughput, self._pairs, (self.number, visit.recipient)
        early = pairs is not None and pairs.limiter.wait_for(*pair) > self._gates.max_wait
        if pairs is not None and early:  # refused before it takes a turn of the number
            await self._pace(Scope.PAIR, pairs.limiter, pair)
        if pacer is not None:
            if pacer.moving:
                pacer.follow(visit.began)
            await self._pace(Scope.THROUGHPUT, pacer.limiter, ())
        if pairs is not None and not early:
            await self._pace(Scope.PAIR, pairs.limiter, pair)

    async def _pace(self, scope: Scope, limiter: Any, key: tuple[str, ...]) -> None:
        try:
            await limiter.enter_async(key, {})
        except RateLimitedError as error:
            _refuse(scope, error, None, latched=False)

    async def _pause(self) -> None:
        wait = self._slowdown.take(self._clock.now(), self._gates.management_max_wait)
        if wait < 0:
            inputs = {"scope": Scope.MANAGEMENT.value, "code": None, "latched": False}
            name = self._switches[Scope.MANAGEMENT, "management"].breaker.name
            raise GateClosedError(name, RejectionReason.THROTTLED, -1.0 - wait, None, inputs)
        if wait > 0:
            await self._clock.async_sleep(wait)

    # --- what closes them ------------------------------------------------------------------------------------------

    def observe(self, error: GraphError, recipient: str = "", template: TemplateKey | None = None) -> None:
        """An error that a webhook tells, about a message that was accepted."""
        began = self._clock.now() - ECHO
        self._learn(error, _Visit("messages", began, key_of(recipient), template))
        if isinstance(error, GraphTemplateError) and template is not None and self.quarantine is not None:
            self.quarantine.put(template, error)

    def _learn(self, error: GraphError, visit: _Visit) -> tuple[Switch | None, float]:
        """Close the gate that the error concerns; the switch that was shut, and the seconds to wait."""
        scope = scope_of(error)
        if scope is Scope.THROUGHPUT:
            return None, 0.0 if self.throughput is None else self.throughput.hit(visit.began, error.retry_after)
        if scope is Scope.PAIR:
            if self._pairs is None or not visit.recipient:
                return None, 0.0
            return None, self._pairs.hit(self.number, visit.recipient, visit.began, error.retry_after)
        if scope is Scope.RECIPIENT:
            code = error.code or 0
            wait = max(self._gates.recipient_waits.get(code, 0.0), error.retry_after or 0.0)
            self._recipients.learn(visit.recipient, code, wait, visit.template, visit.flow)
            return None, 0.0
        switch = None if scope is None else self._switches.get((scope, visit.kind))
        if scope is Scope.CREDENTIAL:
            switch = self._switches.get((scope, None))
            if switch is not None:
                self._refused(switch, visit.token, error.code)
        if scope is Scope.MANAGEMENT:
            switch = self._switches[scope, "management"]
        if switch is None:
            return None, 0.0
        permit = next((permit for own, permit in visit.permits if own is switch), None)
        switch.shut(error.code, error.retry_after or FIRST_WAIT.get(error.code or 0), permit)
        return switch, switch.breaker.retry_after() or 0.0

    def restrict(self, code: int | None, seconds: float | None) -> None:
        """The account is restricted, for so many seconds if that is known."""
        switch = self._switches.get((Scope.ACCOUNT, "messages"))
        if switch is not None:
            switch.shut(code, seconds)

    def _hear_headers(self, headers: Mapping[str, str]) -> None:
        for usage in read_usage(headers, self.account):
            self._slowdown.told(usage, self._clock.now())

    def _hear_breaker(self, event: Event) -> None:
        """The circuit of the client closes: everything that waits comes at once."""
        if self.throughput is None or not isinstance(event, CircuitTransition):
            return
        if event.state == CircuitState.CLOSED and event.previous_state == CircuitState.HALF_OPEN:
            self.throughput.restart()

    # --- what opens them -------------------------------------------------------------------------------------------

    async def read_level(self) -> str | None:
        """What the API calls the throughput of the number; None where the HTTP client cannot ask, or is not told."""
        if not callable(getattr(self._http, "get_number_status", None)):
            return None
        level: str | None = (await self._http.get_number_status()).throughput
        return level

    async def _probe_number(self) -> bool:
        status = await self._http.get_number_status()
        return status.health is None or not status.health.blocked

    async def _probe_account(self) -> bool:
        health = await self._http.get_account_health()
        return not health.blocked

    async def _looked(self, read: Probe) -> bool:
        """Whether a read finds it repaired, or may not look: then messages find out, or it would be shut for ever."""
        token = self._token_text()
        try:
            return await read()
        except GraphError as error:
            scope = scope_of(error)
            if scope is Scope.CREDENTIAL:
                visit = _Visit("messages", self._clock.now(), token=token)
                self._learn(error, visit)
                await self._ask(self._switches[scope, None], visit)  # shut: which says nothing of this gate
            elif scope is Scope.PERMISSION or error.error_class is ErrorClass.REQUEST:
                return True
            raise

    async def _let_in(self, read: Probe) -> bool:
        """Whether the token is good: the API answers, and were it only that this is not permitted."""
        token = self._token_text()
        try:
            await read()
        except GraphError as error:
            if scope_of(error) is Scope.CREDENTIAL:
                self._refused(self._switches[Scope.CREDENTIAL, None], token, error.code)
                return False
            return error.error_class not in (ErrorClass.TRANSIENT, ErrorClass.THROTTLE)
        return True

    def _token_text(self) -> str | None:
        token = getattr(self._http, "token", None)
        return token if isinstance(token, str) else None

    def _token_now(self) -> int | None:
        token = self._token_text()
        return None if token is None else hash(token)

    def _look_at_token(self, switch: Switch) -> None:
        if switch.token is not None and self._token_now() != switch.token:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """There is another token: what the old one lacked says nothing of it."""
        for (scope, _), switch in self._switches.items():
            if scope in (Scope.CREDENTIAL, Scope.PERMISSION) and not switch.breaker.at_rest():
                switch.breaker.reset(reason="a new token")
                switch.told = False

    def _vouch(self) -> None:
        """Somebody says that the token is good: so it is for all that have it, whoever found it refused."""
        token = self._token_text()
        if self._learnt is not None and token is not None and self._learnt.refused(self.number, token) is not None:
            self._learnt.accept(self.number, token)

    def new_token(self) -> None:
        """By hand."""
        self._vouch()
        self._begin_anew()

    def open(self, scope: Scope) -> None:
        """By hand."""
        if scope is Scope.CREDENTIAL:
            self._vouch()
        for (of, _), switch in self._switches.items():
            if of is scope:
                switch.breaker.reset(reason="opened by hand")
                switch.told = False

    # --- looking in ------------------------------------------------------------------------------------------------

    async def wait(self, recipient: str, template: TemplateKey | None) -> float:
        """Seconds until a message may be sent, `inf` for a mark without end; 0 for now. Takes no permit."""
        if self._learnt is not None:
            await self._follow_fleet(self._learnt)
        recipient = key_of(recipient)
        waits = [0.0]
        for switch in self._asked["messages"]:
            if not switch.breaker.at_rest() and self._applies(switch, template):
                if switch.scope is Scope.CREDENTIAL:
                    self._look_at_token(switch)
                waits.append(await switch.wait(self._probes.get(switch.scope)))
                if switch.told and switch.breaker.at_rest():
                    self._accepted(switch)
        if not self._recipients.at_rest():
            waits.append(self._recipients.wait(recipient, template, None, self._is_marketing(template)))
        if self.throughput is not None:
            waits.append(self.throughput.limiter.wait_for())
        if self._pairs is not None:
            waits.append(self._pairs.limiter.wait_for(self.number, recipient))
        if template is not None and self.quarantine is not None:
            known = self.quarantine.error_for(template)
            waits.append(0.0 if known is None else known.retry_after or 0.0)
        return max(waits)

    def usage(self) -> float:
        """The share of the limits of management that is used, in percent, as the API told last."""
        return self._slowdown.percent


def _weakly(method: Callable[[T], None]) -> Callable[[T], None]:
    """The method, as long as somebody else has its object."""
    held = weakref.WeakMethod(method)

    def call(value: T) -> None:
        found = held()
        if found is not None:
            found(value)

    return call


def _recipient_of(payload: Mapping[str, Any]) -> str:
    return key_of(payload.get("to") or payload.get("recipient") or "")


def _flow_of(interactive: Any) -> str | None:
    action = interactive.get("action") if isinstance(interactive, Mapping) else None
    told = action.get("parameters") if isinstance(action, Mapping) else None
    found = (told.get("flow_id") or told.get("flow_name")) if isinstance(told, Mapping) else None
    return None if found is None else str(found)


def _refuse(scope: Scope, error: CallRejected, code: int | None, *, latched: bool) -> NoReturn:
    inputs = {**error.inputs, "scope": scope.value, "code": code, "latched": latched}
    wait = None if error.retry_after == math.inf else error.retry_after
    raise GateClosedError(error.name, error.reason, wait, error.last_failure, inputs) from None
