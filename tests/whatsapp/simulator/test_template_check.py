"""Which values of a template message the simulator takes, when it knows the template's components."""

from __future__ import annotations

from typing import Any

import pytest

from resilience_whatsapp.simulator import ManualClock, SimTemplate
from tests.whatsapp.simulator.tools import Api, run

LINK = "https://example.org/a.jpg"
IMAGE = SimTemplate(
    "image",
    "fr",
    components=[
        {"type": "HEADER", "format": "IMAGE"},
        {"type": "BODY", "text": "Hello {{1}}, it is {{2}} of {{1}}."},
        {
            "type": "BUTTONS",
            "buttons": [
                {"type": "QUICK_REPLY", "text": "Yes"},
                {"type": "URL", "text": "Open", "url": "https://example.org/{{1}}"},
                {"type": "URL", "text": "Home", "url": "https://example.org/"},
                {"type": "COPY_CODE", "example": "1"},
            ],
        },
    ],
)
NAMED = SimTemplate(
    "named", "fr", components=[{"type": "BODY", "text": "Hello {{who}}, it is {{day}}."}], parameter_format="NAMED"
)
TITLED = SimTemplate(
    "titled",
    "fr",
    components=[{"type": "HEADER", "format": "TEXT", "text": "To {{1}}"}, {"type": "BODY", "text": "Hi"}],
)
BARE = SimTemplate("bare", "fr", components=[{"type": "FOOTER", "text": "no body"}])


def text(value: str = "x", **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def body(*values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "body", "parameters": list(values)}


def header(*values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "header", "parameters": list(values)}


def button(index: Any, *values: dict[str, Any], kind: str = "url") -> dict[str, Any]:
    return {"type": "button", "sub_type": kind, "index": index, "parameters": list(values)}


PICTURE = header({"type": "image", "image": {"link": LINK}})
COUPON = button("3", {"type": "coupon_code", "coupon_code": "A1"}, kind="copy_code")
WHOLE = [PICTURE, body(text(), text()), button("1", text()), COUPON]
MONEY = {"type": "currency", "currency": {"fallback_value": "$1", "code": "USD", "amount_1000": 1000}}


@pytest.mark.parametrize(
    ("name", "components", "code"),
    [
        ("image", WHOLE, None),
        ("image", [PICTURE, body(text(), MONEY), button(1, text()), COUPON], None),
        ("image", [*WHOLE, button("0", {"type": "payload", "payload": "yes"}, kind="quick_reply")], None),
        ("image", WHOLE[1:], 132012),
        ("image", [header(text()), *WHOLE[1:]], 132012),
        ("image", [header(*PICTURE["parameters"] * 2), *WHOLE[1:]], 132012),
        ("image", [header({"type": "image", "image": {"id": "5"}}), *WHOLE[1:]], 100),
        ("image", [PICTURE, body(text()), *WHOLE[2:]], 132000),
        ("image", [PICTURE, body(text(), {"type": "image", "image": {"link": LINK}}), *WHOLE[2:]], 132012),
        ("image", [PICTURE, body(text(), {"type": "currency", "currency": {"code": "USD"}}), *WHOLE[2:]], 132012),
        ("image", [PICTURE, body(text(), {"type": "date_time", "date_time": "today"}), *WHOLE[2:]], 132012),
        ("image", [PICTURE, body(text("x" * 1000), text("y" * 50)), *WHOLE[2:]], 132005),
        ("image", [PICTURE, body(text("x" * 450), text("y" * 50)), *WHOLE[2:]], None),
        ("image", [PICTURE, body(text(), text()), COUPON], 132018),
        ("image", [PICTURE, body(text(), text()), button("1", text())], 132018),
        ("image", [*WHOLE, button("2", text())], 132018),
        ("image", [*WHOLE, button("4", text())], 132018),
        ("image", [*WHOLE, button("first", text())], 132018),
        ("named", [body(text(parameter_name="day"), text(parameter_name="who"))], None),
        ("named", [body(text(parameter_name="day"), text(parameter_name="when"))], 132018),
        ("named", [body(text(), text())], 132018),
        ("named", [body(text(parameter_name="day"))], 132000),
        ("titled", [header(text("Ann"))], None),
        ("titled", [header(text("x" * 60))], 132005),
        ("titled", [], 132000),
        ("bare", [], None),
        ("bare", [header(text())], 132000),
    ],
)
def test_values_are_checked_against_the_template(name: str, components: list[Any], code: int | None) -> None:
    async def story(api: Api) -> None:
        content = {"name": name, "language": {"code": "fr"}, "components": components}
        assert await api.code(type="template", template=content) == code
        if code == 132018:
            assert await api.code(type="template", template=content, version="v22.0") == 132012

    run(story, clock=ManualClock(), templates=[IMAGE, NAMED, TITLED, BARE])


def test_the_sum_of_a_text_counts_places_that_occur_twice_twice() -> None:
    async def story(api: Api) -> None:
        components = [PICTURE, body(text("x" * 500), text("y")), *WHOLE[2:]]
        content = {"name": "image", "language": {"code": "fr"}, "components": components}
        assert await api.code(type="template", template=content) is None
        components[1] = body(text("x" * 520), text("y"))
        assert await api.code(type="template", template=content) == 132005

    run(story, clock=ManualClock(), templates=[IMAGE])
