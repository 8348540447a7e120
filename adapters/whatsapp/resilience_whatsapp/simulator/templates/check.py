"""Whether the values of a template message fit the template, as the API judges it.

| code | what does not fit |
|---|---|
| 132000 | the number of values of header or body |
| 132012 | the kind of a value: a text where the header is an image, a currency without its amount |
| 132018 | names of values, values of buttons; before v23.0 the API had no such code, and 132012 stands for it |
| 132005 | the text is too long once the values are in it: 1,024 characters of the body, 60 of the header |
| 131008, 131009 | a value that is none |

The documentation gives the meaning of these codes, not the exact line between them: the line is ours. A template
that was given by numbers (`SimTemplate(parameters=2)`) is checked by numbers; carousels and offers are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.templates.definitions import SimTemplate

MAX_BODY = 1024
MAX_HEADER = 60
PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_FIRST_WITH_132018 = (23, 0)
_FILES = {"IMAGE": "image", "VIDEO": "video", "DOCUMENT": "document", "LOCATION": "location", "GIF": "video"}
_PARTS = {"currency": ("fallback_value", "code", "amount_1000"), "date_time": ("fallback_value",)}


def refusal_of(given: list[dict[str, Any]], template: SimTemplate, version: tuple[int, int]) -> Refusal | None:
    """Why the components of a message do not fit the template; None if they do."""
    values = {kind: _values(given, kind) for kind in ("header", "body")}
    for kind, found in values.items():
        if isinstance(found, Refusal):
            return found
        refused = next((each for each in (_malformed(kind, value) for value in found) if each is not None), None)
        if refused is not None:
            return refused
    return _against(given, template, _Code(template.components is not None, version), values)


class _Code:
    """How strictly, and with which code."""

    def __init__(self, strict: bool, version: tuple[int, int]) -> None:
        self.strict = strict
        self.validation = 132018 if version >= _FIRST_WITH_132018 else 132012


def _against(
    given: list[dict[str, Any]], template: SimTemplate, code: _Code, values: Mapping[str, Any]
) -> Refusal | None:
    parts = {str(each.get("type", "")).upper(): each for each in template.definition}
    refused = _header(parts.get("HEADER"), values["header"], code)
    if refused is None and "BODY" in parts:
        refused = _text("body", parts["BODY"], values["body"], MAX_BODY, code)
    if refused is None and code.strict:
        refused = _buttons(parts.get("BUTTONS", {}).get("buttons") or [], given, code)
    return refused


def _values(components: list[dict[str, Any]], kind: str) -> list[Any] | Refusal:
    found: list[Any] = []
    for component in components:
        if str(component.get("type", "")).lower() == kind:
            parameters = component.get("parameters") or []
            if not isinstance(parameters, list):
                return Refusal(131009, f"{kind}: parameters must be a list")
            found += parameters
    return found


def values_of(component: Mapping[str, Any]) -> list[Any]:
    """The values of one component; none when it has no list of them."""
    values = component.get("parameters")
    return values if isinstance(values, list) else []


def _malformed(where: str, parameter: Any) -> Refusal | None:
    if not isinstance(parameter, dict) or not isinstance(parameter.get("type"), str):
        return Refusal(131008, f"{where}: a parameter requires a type")
    kind = parameter["type"]
    value = parameter.get(kind)
    if not value:
        return Refusal(131008, f"{where}: a parameter of type {kind} requires a value")
    if kind == "text" and not isinstance(value, str):
        return Refusal(131009, f"{where}: a parameter of type text must be a text")
    return None


def _header(header: Mapping[str, Any] | None, given: list[Any], code: _Code) -> Refusal | None:
    if header is None:
        return _count("header", 0, given)
    wanted = _FILES.get(str(header.get("format", "TEXT")))
    if wanted is None:
        return _text("header", header, given, MAX_HEADER, code)
    if [value["type"] for value in given] != [wanted]:
        received = given[0]["type"].upper() if given else "UNKNOWN"
        return Refusal(132012, f"header: Format mismatch, expected {header['format']}, received {received}")
    return None


def _text(where: str, part: Mapping[str, Any], given: list[Any], longest: int, code: _Code) -> Refusal | None:
    text = str(part.get("text", ""))
    places = list(dict.fromkeys(PLACE.findall(text)))
    refused = _count(where, len(places), given)
    if refused is not None or not code.strict:
        return refused
    odd = [value["type"] for value in given if value["type"] not in ("text", *_PARTS)]
    if odd:
        return Refusal(132012, f"{where}: Format mismatch, expected TEXT, received {odd[0].upper()}")
    for value in given:
        inner = value[value["type"]]
        missing = [name for name in _PARTS.get(value["type"], ()) if not isinstance(inner, dict) or name not in inner]
        if missing:
            return Refusal(132012, f"{where}: a parameter of type {value['type']} requires {', '.join(missing)}")
    if not all(place.isdigit() for place in places):
        names = [value.get("parameter_name") for value in given]
        missing = [place for place in places if place not in names]
        if missing:
            return Refusal(code.validation, f"{where}: no parameter is named {', '.join(missing)}")
    by_name = {str(value.get("parameter_name")): value for value in given}
    shown = [_shown(by_name.get(place) or given[places.index(place)]) for place in PLACE.findall(text)]
    if len(PLACE.sub("", text)) + sum(map(len, shown)) > longest:
        return Refusal(132005, f"{where}: the text with its parameters is longer than {longest} characters")
    return None


def _shown(value: Mapping[str, Any]) -> str:
    return str(value["text"] if value["type"] == "text" else value[value["type"]]["fallback_value"])


def _count(where: str, expected: int, given: list[Any]) -> Refusal | None:
    if len(given) == expected:
        return None
    details = f"{where}: number of localizable_params ({len(given)}) does not match the expected number of params "
    return Refusal(132000, f"{details}({expected})")


def _buttons(buttons: list[Any], given: list[dict[str, Any]], code: _Code) -> Refusal | None:
    by_index = {str(each.get("index")): each for each in given if str(each.get("type", "")).lower() == "button"}
    if not by_index.keys() <= {str(index) for index in range(len(buttons))}:
        return Refusal(code.validation, f"buttons: the template has {len(buttons)} buttons; there is none at an index")
    for index, button in enumerate(buttons):
        kind = str(button.get("type", "")).upper()
        needs = kind == "COPY_CODE" or (kind == "URL" and PLACE.search(str(button.get("url", ""))) is not None)
        values = values_of(by_index.get(str(index), {}))
        if needs and not values:
            return Refusal(code.validation, f"buttons: Button at index {index} of type {kind} requires a parameter")
        if kind == "URL" and not needs and values:
            return Refusal(code.validation, f"buttons: Button at index {index} of type {kind} takes no parameter")
    return None
