"""Reading configurations: from a TOML file, a text, a mapping, or the mapping of an older program."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from attrs import evolve

from resilience_core._validation import did_you_mean, shown
from resilience_core.config._configuration import Configuration, Stack
from resilience_core.config._environment import CHOICE
from resilience_core.config._layers import layers_of, not_a_table
from resilience_core.config._problems import InvalidConfiguration, Problem
from resilience_core.config._resolve import resolve
from resilience_core.config._values import LARGEST, too_long

_DEEPEST = 50
_TOLD = 5
"""Keys of a path that is told of a table nested too deeply."""
LARGEST_FILE = 1024 * 1024
"""Bytes of a configuration file; a larger one is none."""
_LEGACY: dict[str, dict[str, str]] = {
    "circuit_breaker": {
        "failure_threshold": "failure_threshold",
        "success_threshold": "success_threshold",
        "timeout": "recovery_timeout",
    },
    "retry": {
        "max_attempts": "max_attempts",
        "base_delay_ms": "base_delay",
        "multiplier": "multiplier",
        "max_delay_ms": "max_delay",
    },
}
"""The keys of the older mapping, and the options that they stand for."""
_LEGACY_KEYS = (*_LEGACY, "total_timeout")
_LONGEST = 1e300
"""Milliseconds: finite, and no integer that is too large for a float."""


def load(
    path: str | os.PathLike[str], *, environment: str | None = None, env: Mapping[str, str] | None = None
) -> Configuration:
    """Read a TOML file.

    Args:
        path: of the file, at most 1 MiB of UTF-8.
        environment: the overlay to use, `[environments.<name>]` of the file or a preset; default what
            `RESILIENCE_ENVIRONMENT` in `env` says, else none.
        env: environment variables that override the file (`RESILIENCE__POLICIES__...`), usually `os.environ`; they are
            read only when they are given.

    Raises:
        InvalidConfiguration: it cannot be read, or anything in it is wrong; tells everything at once.
    """
    return _result(*_loaded(path, environment, env))


def from_toml(
    text: str, *, environment: str | None = None, env: Mapping[str, str] | None = None, source: str = "the text"
) -> Configuration:
    """The same from a TOML text; `source` says in problems where it is from."""
    document, problems = _parsed(text, source)
    return _result(*_read(document, source, environment, env, problems))


def from_mapping(
    mapping: Any,
    *,
    environment: str | None = None,
    env: Mapping[str, str] | None = None,
    source: str = "the mapping",
) -> Configuration:
    """The same from plain values; also takes the older mapping, as `from_legacy` with the name "whatsapp_api"."""
    if isinstance(mapping, Mapping) and mapping and set(mapping) <= set(_LEGACY_KEYS):
        return from_legacy(mapping, source=source)
    return _result(*_read(mapping, source, environment, env, []))


def check(
    path: str | os.PathLike[str], *, environment: str | None = None, env: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """Everything that is wrong with a file; nothing for a good one. Without `environment`, in all of its overlays."""
    document, problems = _parsed_file(path)
    source = Path(path).name
    overlays = document.get("environments")
    chosen: list[str | None] = [environment]
    if environment is None and isinstance(overlays, Mapping):
        chosen += [str(name) for name in overlays]
    found: dict[Problem, None] = dict.fromkeys(problems)
    for each in chosen:
        found |= dict.fromkeys(_read(document, source, each, env, [])[1])
    return tuple(found)


def from_legacy(
    mapping: Mapping[str, Any], name: str = "whatsapp_api", *, source: str = "the mapping"
) -> Configuration:
    """The configuration that an older program's mapping stands for: one stack called `name`.

    Keys: `circuit_breaker` with `failure_threshold`, `success_threshold`, `timeout` (seconds); `retry` with
    `max_attempts`, `base_delay_ms`, `multiplier`, `max_delay_ms` (milliseconds); `total_timeout` (seconds). Durations
    may be timedeltas. Only what it names is set.

    Raises:
        InvalidConfiguration: as `load`; paths are those of the mapping itself.
    """
    unprintable = list(_unprintable(mapping, (), source))
    if unprintable:
        raise InvalidConfiguration(unprintable, source)
    sections, paths, problems = _translated(mapping, source)
    stack = f"policies.{name}"
    if not sections and not problems:
        return Configuration({name: Stack(name, {})}, source=source)
    configuration, found, _ = _read({"policies": {name: sections}}, source, None, None, [])
    for problem in found if sections else ():
        path = problem.path.removeprefix(stack).removeprefix(".")
        problems.append(evolve(problem, path=paths.get(path, path)))
    return _result(configuration, problems, source)


def _translated(mapping: Any, source: str) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[Problem]]:
    """An older mapping as sections of a stack, where each option stood, and what cannot be translated."""
    sections: dict[str, dict[str, Any]] = {}
    paths = {"timeout": "total_timeout", "timeout.seconds": "total_timeout"}
    problems: list[Problem] = []
    if not isinstance(mapping, Mapping):
        return {}, paths, [Problem("", f"must be a mapping, not {shown(mapping)}", _can_have(_LEGACY_KEYS), source)]
    for key, content in mapping.items():
        if key == "total_timeout":
            sections["timeout"] = {"seconds": content}
        elif key not in _LEGACY:
            problems.append(_unknown_key(str(key), str(key), _LEGACY_KEYS, source))
        elif not isinstance(content, Mapping):
            fix = _can_have(_LEGACY[key])
            problems.append(Problem(str(key), f"must be a mapping, not {shown(content)}", fix, source))
        else:
            sections[key] = _translated_section(key, content, paths, problems, source)
    return sections, paths, problems


def _translated_section(
    section: str, content: Mapping[str, Any], paths: dict[str, str], problems: list[Problem], source: str
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in content.items():
        path = f"{section}.{key}"
        option = _LEGACY[section].get(key)
        if option is None:
            problems.append(_unknown_key(path, str(key), _LEGACY[section], source))
            continue
        paths[f"{section}.{option}"] = path
        if key.endswith("_ms") and not isinstance(value, timedelta):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
                problems.append(
                    Problem(path, f"must be a number of milliseconds, 0 or more, not {shown(value)}", "", source)
                )
                continue
            value = value / 1000
        options[option] = value
    return options


def _unknown_key(path: str, key: str, known: Iterable[str], source: str) -> Problem:
    return Problem(path, f"unknown key{did_you_mean(key, known)}", _can_have(known), source)


def _can_have(known: Iterable[str]) -> str:
    return f"There can be {', '.join(known)}"


# --- the steps -------------------------------------------------------------------------------------------------------


def _result(configuration: Configuration, problems: list[Problem], source: str) -> Configuration:
    if problems:
        raise InvalidConfiguration(problems, source)
    return configuration


def _loaded(
    path: str | os.PathLike[str], environment: str | None, env: Mapping[str, str] | None
) -> tuple[Configuration, list[Problem], str]:
    document, problems = _parsed_file(path)
    return _read(document, Path(path).name, environment, env, problems)


def _read(
    document: Any, source: str, environment: str | None, env: Mapping[str, str] | None, problems: list[Problem]
) -> tuple[Configuration, list[Problem], str]:
    """The configuration in a document, and everything that is wrong with it; what is wrong already ends the matter."""
    problems = problems or list(_unprintable(document, (), source))
    if not problems and not isinstance(document, Mapping):
        problems = [not_a_table((), document, source)]
    if problems:
        return Configuration({}, source=source), problems, source
    chosen, asked = environment, ("environment", "the call")
    if environment is None and env is not None:
        chosen, asked = env.get(CHOICE) or None, (CHOICE, "environment variables")
    layers, problems = layers_of(document, source, chosen, asked)
    configuration, found = resolve(layers, env, source)
    return configuration, problems + found, source


def _unprintable(value: Any, path: tuple[str, ...], source: str) -> Iterator[Problem]:
    """What could not even be told: numbers that TOML does not know either, and tables without end."""
    if too_long(value):
        yield Problem(".".join(path), "is a number of more than 64 bits", f"It can be at most {LARGEST}", source)
    elif len(path) > _DEEPEST:
        yield Problem(".".join(path[:_TOLD]), "is nested too deeply", f"It can be {_DEEPEST} tables deep", source)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            long = too_long(key)
            yield from _unprintable(key if long else each, (*path, "?" if long else str(key)), source)
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _unprintable(each, (*path, str(index)), source)


def _parsed_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Problem]]:
    source = Path(path).name
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return {}, [
            Problem("", f"there is no file {str(path)!r}", "A relative path begins at the working directory", source)
        ]
    except IsADirectoryError:
        return {}, [Problem("", f"{str(path)!r} is a directory", "Name the file in it", source)]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        told = getattr(error, "strerror", error)
        return {}, [Problem("", f"{str(path)!r} cannot be read: {told}", "", source)]
    if len(content) > LARGEST_FILE:
        return {}, [Problem("", f"the file is larger than {LARGEST_FILE} bytes", "Is it the right file?", source)]
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        return {}, [Problem("", f"the file is not UTF-8 (byte {error.start})", "Save it as UTF-8", source)]
    return _parsed(text, source)


def _parsed(text: str, source: str) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return tomllib.loads(text), []
    except RecursionError:
        return {}, [Problem("", "this is no TOML: it is nested too deeply", "", source)]
    except ValueError as error:  # mostly a TOMLDecodeError
        fix = "A text stands in quotes" if "Invalid value" in str(error) else ""
        return {}, [Problem("", f"this is no TOML: {error}", fix, source)]
