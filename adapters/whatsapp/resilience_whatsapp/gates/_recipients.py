"""The gate of recipients, countries and flows that cannot be reached for now, and of marketing that is not wanted."""

from __future__ import annotations

import math
import threading
from typing import Any, ClassVar, NoReturn, TypeAlias

from attrs import define, field, setters

from resilience_core import Gate, Judgement, Rejection, RejectionReason
from resilience_whatsapp.gates._closed import GateClosedError
from resilience_whatsapp.gates._marks import MARKETING_ONLY, OF_COUNTRY, OF_FLOW, Mark, Marks, country_of
from resilience_whatsapp.gates._routes import Scope
from resilience_whatsapp.gates._shared import SharedMarks, SharedOffers

TemplateKey: TypeAlias = tuple[str, str]
_MOST_TEMPLATES = 1_000


_TWO_FORMS = ("55", "52")  # Brazil, Mexico
_MOBILES_WERE = "6789"  # what a number of 8 digits of a mobile phone in Brazil begins with


def key_of(recipient: str) -> str:
    """A recipient as the gates know it: a number has no `+`, as in webhooks, and one form of the two that it may have.

    The API writes numbers of Brazil and Mexico in its own way, so that webhooks tell another one than was sent to.
    """
    if recipient[:1] == "+":
        recipient = recipient[1:]
    return _short_form(recipient) if recipient[:2] in _TWO_FORMS else recipient


def _short_form(number: str) -> str:
    """Without the 9 of mobile phones in Brazil (55 11 9 8765 4321), and the 1 of those in Mexico (52 1 ...)."""
    if len(number) == 13 and number.isdigit():
        if number[:3] == "521":
            return number[:2] + number[3:]
        if number[:2] == "55" and number[4] == "9" and number[5] in _MOBILES_WERE:
            return number[:4] + number[5:]
    return number


@define(eq=False, on_setattr=setters.frozen)
class Recipients(Gate):
    """Keeps messages back that would be refused for their recipient. Knows recipients in memory, or as HMACs only."""

    kind: ClassVar[str] = "whatsapp_recipients"

    name: str
    _marks: Marks | SharedMarks = field(kw_only=True, repr=False, factory=Marks)
    _marketing: set[TemplateKey] | SharedOffers = field(kw_only=True, repr=False, factory=set)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)

    def at_rest(self) -> bool:
        """Whether nothing is marked."""
        return not self._marks

    def snapshot(self) -> dict[str, Any]:
        """How many marks there are, and how many messages were kept back."""
        return {"marks": len(self._marks), "rejected": self._rejected}

    def learn(self, recipient: str, code: int, seconds: float, template: TemplateKey | None, flow: str | None) -> None:
        """The API refused a message to `recipient` with this code; that holds for so many seconds."""
        key = _key(code, recipient, template, flow)
        if key is not None and seconds > 0:
            with self._lock:
                if code in MARKETING_ONLY and template is not None and len(self._marketing) < _MOST_TEMPLATES:
                    self._marketing.add(template)
                now = self.clock.now()
                self._marks.drop_ended(now)
                self._marks.put(key, code, now + seconds)

    def is_marketing(self, template: TemplateKey | None, category: str | None) -> bool:
        """Whether it is a marketing template, as far as is known."""
        if template is None:
            return False
        return category.upper() == "MARKETING" if category is not None else template in self._marketing

    def forget(self, recipient: str, *, marketing: bool) -> None:
        """The recipient wrote, or wants marketing again: marks of that kind end."""
        with self._lock:
            self._marks.remove(("marketing" if marketing else "recipient", recipient))

    def wait(self, recipient: str, template: TemplateKey | None, flow: str | None, marketing: bool) -> float:
        """Seconds for which a message is kept back, `inf` until told otherwise; 0 if it is not."""
        mark = self._find(recipient, template, flow, marketing)
        return 0.0 if mark is None else mark.until - self.clock.now()

    def enter(self, args: tuple[Any, ...], kwargs: Any) -> None:
        """Admit a message: `args` are recipient, template, flow and whether it is marketing.

        Raises:
            GateClosedError: it would be refused.
        """
        mark = self._find(*args)
        if mark is not None:
            self._reject(mark)

    def settle(self, permit: None, judgement: Judgement) -> None:
        """Nothing is held."""

    def _find(self, recipient: str, template: TemplateKey | None, flow: str | None, marketing: bool) -> Mark | None:
        marks, now = self._marks, self.clock.now()
        keys: list[tuple[str, ...]] = [("recipient", recipient), ("country", country_of(recipient))]
        if marketing:
            keys.append(("marketing", recipient))
        if template is not None or flow is not None:
            keys.append(("flow", *(template or ()), flow or ""))
        return next((mark for key in keys if (mark := marks.find(key, now)) is not None), None)

    def _reject(self, mark: Mark) -> NoReturn:
        self._rejected += 1
        now, reason = self.clock.now(), RejectionReason.RATE_LIMITED
        wait = None if mark.until == math.inf else mark.until - now
        if self.bus.hears(Rejection):
            self.bus.emit(Rejection(self.name, now, reason, "send", wait, True))
        inputs = {"scope": Scope.RECIPIENT.value, "code": mark.code, "latched": wait is None}
        raise GateClosedError(self.name, reason, wait, None, inputs)


def _key(code: int, recipient: str, template: TemplateKey | None, flow: str | None) -> tuple[str, ...] | None:
    if code == OF_FLOW:
        return ("flow", *(template or ()), flow or "") if template is not None or flow is not None else None
    if not recipient:
        return None
    if code == OF_COUNTRY:
        return "country", country_of(recipient)
    return "marketing" if code in MARKETING_ONLY else "recipient", recipient
