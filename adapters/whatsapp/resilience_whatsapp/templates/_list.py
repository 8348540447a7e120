"""The list of approved templates as the service hands it out: with its source and its age."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from attrs import frozen

from resilience_whatsapp.graph import Template

TemplateSource: TypeAlias = Literal["api", "cache", "default"]

DEFAULT_TEMPLATES = (
    Template(name="welcome_message", language="fr", status="APPROVED", category="UTILITY"),
    Template(name="order_confirmation", language="fr", status="APPROVED", category="UTILITY"),
)
"""What is assumed to exist when neither the API nor the cache can tell."""


@frozen
class TemplateList:
    """Approved templates; iterates and indexes as a tuple does."""

    templates: tuple[Template, ...]
    source: TemplateSource
    """`api`: asked just now; `cache`: as of `age` seconds ago, of this process or another one; `default`: built in."""
    age: float | None
    """Seconds since the API told them; None for the built-in ones."""

    def __iter__(self) -> Iterator[Template]:
        return iter(self.templates)

    def __len__(self) -> int:
        return len(self.templates)

    def __getitem__(self, index: int) -> Template:
        return self.templates[index]

    def __contains__(self, wanted: object) -> bool:
        """Whether it has this template, given as a `Template` or as `(name, language)`."""
        return any(wanted in (template, (template.name, template.language)) for template in self)
