"""Configuration: from TOML, mappings and environment variables, checked as a whole, changed while it runs."""

from typing import TYPE_CHECKING, Any

from resilience_core.config._layers import PRESETS
from resilience_core.config._problems import InvalidConfiguration, Problem

if TYPE_CHECKING:
    from resilience_core.config._configuration import Configuration, Stack
    from resilience_core.config._load import check, from_legacy, from_mapping, from_toml, load
    from resilience_core.config._schema import schema
    from resilience_core.config._show import show
    from resilience_core.config._watch import Watcher

__all__ = [
    "PRESETS",
    "Configuration",
    "InvalidConfiguration",
    "Problem",
    "Stack",
    "Watcher",
    "check",
    "from_legacy",
    "from_mapping",
    "from_toml",
    "load",
    "schema",
    "show",
]

# On first use, because they bring cattrs, which takes as long as the whole core.
_LAZY = {
    "Configuration": "_configuration",
    "Stack": "_configuration",
    "Watcher": "_watch",
    "check": "_load",
    "from_legacy": "_load",
    "from_mapping": "_load",
    "from_toml": "_load",
    "load": "_load",
    "schema": "_schema",
    "show": "_show",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value
