"""The resources of the Graph API, each in a module of its own; `routing` says how to add one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from resilience_whatsapp.simulator.resources import (
    accounts,
    apps,
    media,
    messages,
    numbers,
    template_lists,
    templates,
)

if TYPE_CHECKING:
    from aiohttp import web

    from resilience_whatsapp.simulator.api import GraphApi
    from resilience_whatsapp.simulator.routing import Route

MODULES: tuple[ModuleType, ...] = (messages, template_lists, numbers, accounts, apps, media, templates)
"""In the order in which they are asked whether they know an id."""


def routes(api: GraphApi) -> Iterator[Route]:
    """The routes of all resources."""
    for module in MODULES:
        yield from module.routes(api)


def raw_routes(api: GraphApi) -> Iterator[web.RouteDef]:
    """What they serve besides, outside the Graph API's paths."""
    for module in MODULES:
        more: Callable[[GraphApi], list[web.RouteDef]] | None = getattr(module, "raw_routes", None)
        if more is not None:
            yield from more(api)
