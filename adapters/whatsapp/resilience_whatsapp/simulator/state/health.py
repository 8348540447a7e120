"""`health_status` of numbers, accounts and templates: whether a message could be sent, and what stands in its way.

The errors have the codes that a send would be answered with; the documentation tells the shape, not the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from resilience_whatsapp.simulator.codes import title
from resilience_whatsapp.simulator.state.world import Account, Block, Number, Token
from resilience_whatsapp.simulator.templates.definitions import SimTemplate

_GRADES = ("AVAILABLE", "LIMITED", "BLOCKED")
_TEMPLATES = {"APPROVED": None, "PAUSED": 132015, "DISABLED": 132016}


@frozen
class _Entity:
    kind: str
    id: str
    blocking: list[int] = field(factory=list)
    limiting: list[int] = field(factory=list)
    remarks: list[str] = field(factory=list)

    @property
    def grade(self) -> str:
        if self.blocking:
            return "BLOCKED"
        return "LIMITED" if self.limiting or self.remarks else "AVAILABLE"

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"entity_type": self.kind, "id": self.id, "can_send_message": self.grade}
        if self.remarks:
            row["additional_info"] = self.remarks
        codes = [*self.blocking, *self.limiting]
        if codes:
            row["errors"] = [
                {
                    "error_code": code,
                    "error_description": title(code),
                    "possible_solution": "Change the state of the simulator.",
                }
                for code in codes
            ]
        return row


def of_number(number: Number, token: Token, now: float) -> dict[str, Any]:
    """The health of a number."""
    return _health([_number(number, now), *_above(number.account, token, now)])


def of_account(account: Account, token: Token, now: float) -> dict[str, Any]:
    """The health of an account."""
    return _health(_above(account, token, now))


def of_template(template: SimTemplate, account: Account, token: Token, now: float) -> dict[str, Any]:
    """The health of a template."""
    code = _TEMPLATES.get(template.status, 132001)
    entity = _Entity("MESSAGE_TEMPLATE", template.id_in(account.id), [] if code is None else [code])
    return _health([entity, *_above(account, token, now)])


def _number(number: Number, now: float) -> _Entity:
    entity = _Entity("PHONE_NUMBER", number.id, _codes(number.block, now))
    code = number.standing.code()
    if code is not None:
        entity.blocking.append(code)
    elif number.standing.name_status == "PENDING_REVIEW":
        entity.remarks.append("The display name has not been approved yet.")
    return entity


def _above(account: Account, token: Token, now: float) -> list[_Entity]:
    entity = _Entity("WABA", account.id, _codes(account.block, now))
    if account.standing.payment != "ok":
        entity.blocking.append(131042)
    if account.standing.closed_countries:
        entity.limiting.append(130497)
    if not account.standing.marketing:
        entity.limiting.append(131063)
    return [entity, _Entity("BUSINESS", account.portfolio.id), _Entity("APP", token.app_id)]


def _codes(block: Block | None, now: float) -> list[int]:
    return [] if block is None or (block.until is not None and now >= block.until) else [block.code]


def _health(entities: Iterable[_Entity]) -> dict[str, Any]:
    rows = list(entities)
    worst = max((entity.grade for entity in rows), key=_GRADES.index)
    return {"can_send_message": worst, "entities": [entity.as_json() for entity in rows]}
