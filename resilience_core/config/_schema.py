"""The JSON Schema of a configuration, for editors: made from the classes, checked in as `schema.json`.

`python -m resilience_core.config._schema` writes the file anew; a test says whether it is current.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs

from resilience_core._machines.trip_rules import TripRule
from resilience_core._policies.retry_budget import RetryBudget
from resilience_core._validation import schema_of
from resilience_core.config._classes import SECTIONS, Option, classes_of, options_of
from resilience_core.config._layers import BUILT_IN, PRESETS
from resilience_core.config._values import UNITS

FILE = Path(__file__).with_name("schema.json")
_DURATION = {"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)?\s*({'|'.join(UNITS)})$"}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


def schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of a configuration file."""
    overlay = {
        "extends": {"type": "string", "description": "An environment of this file, or a preset."},
        "policies": _named("stack", "Stacks by name: the pipeline, and its policies, that are called so."),
        "defaults": {
            "type": "object",
            "description": "Options for every stack that has the section.",
            "properties": {section: {"$ref": f"#/$defs/{section}"} for section in SECTIONS},
            "additionalProperties": False,
        },
        "budgets": _named("budget", "Retry budgets by name; the budget of a retry or hedge names one."),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of resilience_core",
        "type": "object",
        "properties": {
            **overlay,
            "extends": {"enum": list(PRESETS), "description": "A preset."},
            "environments": {
                "type": "object",
                "description": "Overlays by name, chosen when the file is loaded.",
                "additionalProperties": {"type": "object", "properties": overlay, "additionalProperties": False},
            },
        },
        "additionalProperties": False,
        "$defs": {
            "stack": _stack(),
            "budget": _table(RetryBudget),
            **{section: _table(cls) for section, cls in SECTIONS.items()},
        },
    }


def _named(kind: str, description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "propertyNames": {"minLength": 1},
        "additionalProperties": {"$ref": f"#/$defs/{kind}"},
    }


def _stack() -> dict[str, Any]:
    sections = {
        section: {"anyOf": [{"$ref": f"#/$defs/{section}"}, {"type": "boolean"}], "description": _summary(cls)}
        for section, cls in SECTIONS.items()
    }
    return {
        "type": "object",
        "properties": {
            "extends": {"type": "string", "description": f"{', '.join(BUILT_IN)}, or another stack of this file."},
            "idempotent": {"type": "boolean", "description": "Whether a call may be carried out twice without harm."},
            "allow": {
                "type": "object",
                "description": "What the lint finds and is meant to be so: its code, and the reason.",
                "additionalProperties": {"type": "string", "minLength": 1},
            },
            **sections,
        },
        "additionalProperties": False,
    }


def _table(cls: type[Any]) -> dict[str, Any]:
    return {"type": "object", "properties": _properties(cls), "additionalProperties": False}


def _properties(cls: type[Any]) -> dict[str, Any]:
    told = _descriptions(cls)
    return {option.name: _option(option, told.get(option.name)) for option in options_of(cls).values()}


def _option(option: Option, description: str | None) -> dict[str, Any]:
    found: dict[str, Any] = _value(option)
    if option.optional and option.type is not Any:
        found = {"anyOf": [found, {"type": "null"}]}
    if description is not None:
        found["description"] = description
    default = None if option.type is RetryBudget else option.default
    if isinstance(default, (bool, int, float, str)):
        found["default"] = default
    return found


def _value(option: Option) -> dict[str, Any]:
    own = {key: value for key, value in schema_of(option.attribute.validator).items() if key != "type"}
    kind = option.type
    if option.duration:
        return {"anyOf": [{"type": "number", **own}, dict(_DURATION)]}
    if kind is RetryBudget:
        return {"type": "string"}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
        return {"type": "array", "items": _choice(classes_of(member)) if classes_of(member) else pair}
    if option.classes:
        one = _choice(option.classes)
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]} if kind is TripRule else one
    return {"type": _TYPES[kind], **own} if kind in _TYPES else {}


def _choice(classes: tuple[type[Any], ...]) -> dict[str, Any]:
    tables = [_member(cls, alone=len(classes) == 1) for cls in classes]
    return tables[0] if len(tables) == 1 else {"anyOf": tables}


def _member(cls: type[Any], alone: bool) -> dict[str, Any]:
    table = _table(cls)
    table["properties"] = {"type": {"const": cls.__name__}, **table["properties"]}
    table["description"] = _summary(cls)
    required = [option.name for option in options_of(cls).values() if option.default is attrs.NOTHING]
    table["required"] = required if alone else ["type", *required]
    return table


def _summary(cls: type[Any]) -> str:
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())


def _descriptions(cls: type[Any]) -> dict[str, str]:
    """What the class's docstring says of its options, that of its base where it leaves some out."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        args = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(each.__doc__ or ""), re.DOTALL | re.MULTILINE)
        entries = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", args[1] if args else "", re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found


def as_text() -> str:
    """The schema as the checked-in file has it."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(), "utf-8")
