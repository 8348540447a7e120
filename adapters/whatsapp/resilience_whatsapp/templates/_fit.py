"""Whether the values of a template message fit the template, as far as the listing of templates can tell.

Refuses only what the API surely would (error 132000 and its kin). What the listing does not say, or what is written in
a form that is not understood here, is for the API to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from resilience_whatsapp.errors import InvalidMessageError

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_FILES = ("IMAGE", "VIDEO", "DOCUMENT", "LOCATION")
"""Formats of a header that take one value."""
_Rows: TypeAlias = Sequence[Mapping[str, Any]]


def check_fit(given: Any, listed: Any) -> None:
    """Compare a message's components, as the API gets them, with the template's, as the API lists them.

    Raises:
        InvalidMessageError: naming the component, and how many values it takes and got; never a value.
    """
    parts, own = _by_type(given), _by_type(listed)
    if parts is None or not own:
        return
    _check_header(parts, own)
    _check_body(parts, own)
    _check_buttons(parts.get("BUTTON", ()), own.get("BUTTONS", ()))


def _by_type(components: Any) -> dict[str, list[Mapping[str, Any]]] | None:
    """The components by their type in capitals; None where one is not understood."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for component in components:
        kind = component.get("type") if isinstance(component, Mapping) else None
        if not isinstance(kind, str) or not isinstance(component.get("parameters", []), (list, tuple)):
            return None
        found.setdefault(kind.upper(), []).append(component)
    return found


def _check_header(parts: Mapping[str, _Rows], own: Mapping[str, _Rows]) -> None:
    given = _values(parts.get("HEADER", ()))
    listed = own.get("HEADER")
    if listed is None:
        _check_places("header", [], given)
    elif listed[0].get("format") in _FILES:
        _check_count("header", 1, len(given))
    else:
        _check_text("header", listed[0], given)


def _check_body(parts: Mapping[str, _Rows], own: Mapping[str, _Rows]) -> None:
    for listed in own.get("BODY", ()):
        _check_text("body", listed, _values(parts.get("BODY", ())))


def _check_text(where: str, listed: Mapping[str, Any], given: list[Any]) -> None:
    text = listed.get("text")
    if isinstance(text, str):
        _check_places(where, list(dict.fromkeys(_PLACE.findall(text))), given)


def _check_places(where: str, places: list[str], given: list[Any]) -> None:
    _check_count(where, len(places), len(given))
    if all(place.isdigit() for place in places):
        return
    names = {value.get("parameter_name") for value in given if isinstance(value, Mapping)}
    missing = [place for place in places if place not in names]
    if missing:
        # The names are those of the template, not those that the caller gave.
        raise InvalidMessageError(
            f"TemplateMessage: the template's {where} has named parameters, and none is given for "
            f"{', '.join(missing)}; give each TextParameter its name"
        )


def _check_buttons(given: _Rows, listed: _Rows) -> None:
    rows: list[Any] = [row.get("buttons") for row in listed]
    by_index = {str(button.get("index")): button for button in given}
    if not all(isinstance(row, list) for row in rows) or not all(re.fullmatch("[0-9]", index) for index in by_index):
        return
    buttons = [button for row in rows for button in row]
    beyond = sum(int(index) >= len(buttons) for index in by_index)
    if beyond:
        raise InvalidMessageError(
            f"TemplateMessage: the template has {_count(len(buttons), 'button')}, counted from 0; "
            f"{len(by_index)} given, {beyond} of them beyond the last one"
        )
    for index, button in enumerate(buttons):
        url = button.get("url") if isinstance(button, Mapping) and button.get("type") == "URL" else None
        if isinstance(url, str):
            values = by_index.get(str(index), {}).get("parameters", ())
            _check_count(f"button {index} (a link)", 1 if _PLACE.search(url) else 0, len(values))


def _values(components: _Rows) -> list[Any]:
    return [value for component in components for value in component.get("parameters", ())]


def _check_count(where: str, expected: int, given: int) -> None:
    if given != expected:
        raise InvalidMessageError(
            f"TemplateMessage: the template's {where} takes {_count(expected, 'parameter')}, {given} given"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
