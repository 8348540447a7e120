"""Whatever JSON arrives, the simulator takes or refuses it: it never breaks on it."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from resilience_whatsapp.simulator.clock import ManualClock
from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.state.media import MediaStore
from resilience_whatsapp.simulator.state.world import World
from resilience_whatsapp.simulator.templates.life import InAccount, TemplateLife
from resilience_whatsapp.simulator.validation import Rules, refusal_of
from tests._cost import size
from tests.whatsapp.simulator.test_template_check import IMAGE, NAMED, PICTURE, TITLED, WHOLE

ODD: list[Any] = [None, 0, 5, -1, 1.5, True, "", "x", "{{1}}", [], {}, [[]], [5], [{}], {"type": "image"}, {"id": 5}]
CREATE = {
    "name": "new",
    "language": "fr",
    "category": "AUTHENTICATION",
    "components": [
        {"type": "HEADER", "format": "TEXT", "text": "Title"},
        {"type": "BODY", "text": "Code {{1}} for {{name}} now"},
        {"type": "FOOTER", "code_expiration_minutes": 10},
        {"type": "BUTTONS", "buttons": [{"type": "OTP", "otp_type": "COPY_CODE", "text": "Copy"}, {"type": "URL"}]},
    ],
}


def mutated(payload: Any, draws: random.Random) -> Any:
    """The payload with some of its values replaced or left out."""
    found = copy.deepcopy(payload)
    for _ in range(draws.randint(1, 3)):
        at: Any = found
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draws.choice(keys)
            inner = at[key]
            if isinstance(inner, dict | list) and inner and draws.random() < 0.8:
                at = inner
                continue
            if draws.random() < 0.2:
                del at[key]
            else:
                at[key] = copy.deepcopy(draws.choice(ODD))
            break
    return found


def message(kind: str, content: Any) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "to": "+33612345678", "type": kind, kind: content}


@pytest.mark.parametrize(
    "payload",
    [
        message("template", {"name": "image", "language": {"code": "fr"}, "components": WHOLE}),
        message("template", {"name": "titled", "language": {"code": "fr"}, "components": [PICTURE]}),
        message("image", {"id": "1", "caption": "x"}),
        message("interactive", {"type": "button", "header": {"type": "image", "image": {"id": "1"}}}),
    ],
    ids=["template", "header", "image", "interactive"],
)
def test_any_message_is_taken_or_refused(payload: Any) -> None:
    draws = random.Random(7)
    world = World()
    number = world.add_number(world.add_account(world.add_portfolio()))

    def media(kind: str, content: dict[str, Any]) -> Refusal | None:
        return MediaStore().refusal_of(kind, content, number, 0.0)

    rules = Rules([IMAGE, NAMED, TITLED], number.digits, media=media)
    codes = set()
    for _ in range(size(20_000, 1_500)):
        refused = refusal_of(mutated(payload, draws), rules)
        codes.add(None if refused is None else refused.code)
    assert len(codes) > 2


def test_any_template_is_created_or_refused_and_can_be_sent_and_told() -> None:
    draws = random.Random(7)
    life = TemplateLife(ManualClock(), lambda account, field, value: None)
    world = World()
    account = world.add_account(world.add_portfolio())
    made = 0
    for index in range(size(20_000, 1_500)):
        account.templates.clear()
        answer = life.create(account, {**mutated(CREATE, draws), "name": f"new_{index}"})
        if isinstance(answer, Refusal):
            continue
        made += 1
        (template,) = account.templates
        ready = InAccount(template, account)
        assert isinstance(life.edit(ready, mutated(CREATE, draws)), Refusal), "it is pending"
        content = {"name": template.name, "language": {"code": template.language}, "components": WHOLE[1:]}
        approved = copy.copy(template)
        object.__setattr__(approved, "status", "APPROVED")
        account.templates[:] = [approved]
        refusal_of(message("template", content), Rules(account.templates, "1"))
        life.edit(InAccount(approved, account), mutated(CREATE, draws))
        life.delete(account, {"name": template.name})
    assert made > 100
