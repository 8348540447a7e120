"""Facts for the doctor: what is installed, what is wrong with the pipelines, and who takes the telemetry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resilience_core.registry import Named

PACKAGES = (
    "resilience-framework",
    "anyio",
    "attrs",
    "cattrs",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "redis",
    "trio",
    "aiohttp",
)
"""Distributions that matter; those behind cattrs are optional, but for the API of OpenTelemetry."""


def environment() -> dict[str, Any]:
    """Versions of Python, of the system, and of the packages that are used where they are installed."""
    import platform  # here, as all else below: only the doctor pays for it

    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def findings(policies: Iterable[Named]) -> list[dict[str, Any]]:
    """What is wrong with the pipelines among `policies`, as `lint` tells it; nothing twice."""
    from resilience_core._lint import lint
    from resilience_core._pipeline import Pipeline

    found: dict[tuple[str, str], dict[str, Any]] = {}
    for policy in policies:
        if isinstance(policy, Pipeline):
            for each in lint(policy):
                told = {name: getattr(each, name) for name in ("code", "severity", "where", "message", "fix", "docs")}
                found.setdefault((each.code, each.where), told)
    return list(found.values())


def providers() -> dict[str, str | None]:
    """The classes of the providers that take metrics and spans of policies; None where nobody does."""
    from resilience_core._telemetry import telemetry

    told = zip(("metrics", "traces"), telemetry.providers(), strict=True)
    return {signal: None if provider is None else type(provider).__name__ for signal, provider in told}
