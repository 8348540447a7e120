"""Where the list of templates, and those that are set aside, are kept: in memory, in a file, with a fleet in Redis.

Redis' content is everybody's, so nothing of it is taken that is not as we would have written it. There is nothing in it
but what the API says of templates, and error codes: no recipient, no token.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from attrs import Factory, asdict, field, frozen

from resilience_core import FileStore, MemoryStore
from resilience_core.fleet import BaseFleet, SharedStore
from resilience_whatsapp.graph import Template

TemplateKey: TypeAlias = tuple[str, str]
"""A template's name and its language."""

NAME = "whatsapp_templates"
LIST = "'approved'"
"""The key that the cache has for its one entry, which the files of before have, too."""
SET_ASIDE = "set aside"
FETCHING = "fetching"
FETCHING_FOR = 15.0
"""Seconds for which others wait for a member that fetches the list."""
FIRST_WORD = 1.0
"""Seconds that a member waits for what Redis has: the agent's word that Redis is lost comes long before."""
LIVES = 24 * 3600.0
MAX_SET_ASIDE = 1_000
_PRIVATE = ("example", "phone_number")
_LONGEST = 512  # characters of a name


@frozen(eq=False)
class Listing:
    """One fetched listing; compared by identity, which tells a new one from the same one served again."""

    templates: tuple[Template, ...]
    # What messages are compared with; without those that the API has contradicted since.
    by_key: dict[TemplateKey, Template] = field(
        init=False,
        default=Factory(lambda self: {(each.name, each.language): each for each in self.templates}, takes_self=True),
    )


def as_plain(value: Any) -> Any:
    """A value as JSON can carry it."""
    return [asdict(template) for template in value.templates] if isinstance(value, Listing) else value


def as_shared(value: Any) -> Any:
    """The same for Redis: without samples and numbers to call, which nobody needs there."""
    return _without_private(as_plain(value))


def _without_private(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_private(each) for key, each in value.items() if key not in _PRIVATE}
    return [_without_private(each) for each in value] if isinstance(value, (list, tuple)) else value


def from_plain(plain: Any) -> Any:
    """The reverse.

    Raises:
        ValueError, TypeError: it is nothing of ours.
    """
    if isinstance(plain, list):
        return Listing(tuple(map(_template, plain)))
    if isinstance(plain, (str, dict)):  # who fetches, and why a template is set aside: looked at where they are used
        return plain
    raise ValueError("neither a listing nor what we know of a template")


def _template(row: Any) -> Template:
    template = Template(**row)
    texts: list[Any] = [template.name, template.language, template.status, template.category or ""]
    components: Any = template.components
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in texts) or not isinstance(components, list):
        raise ValueError("not a template")
    if template.status.upper() != "APPROVED":
        raise ValueError("not an approved template")
    return template


class Aside(Protocol):
    """Keeps why templates are set aside, each with the time, in seconds since the epoch."""

    def get(self, key: str) -> tuple[Any, float] | None: ...

    def set(self, key: str, value: Any, stored_at: float) -> None: ...

    def delete(self, key: str) -> None: ...

    def clear(self) -> None: ...

    def __len__(self) -> int: ...


class AsideInMemory(MemoryStore):
    """In memory, and written to the file of the list, where there is one."""

    def __init__(self, file: MemoryStore | None = None) -> None:
        super().__init__(MAX_SET_ASIDE)
        self._file = file
        found = None if file is None else file.get(SET_ASIDE)
        rows = found[0] if found is not None and isinstance(found[0], dict) else {}
        for key, row in list(rows.items())[-MAX_SET_ASIDE:]:
            if isinstance(row, list) and len(row) == 2 and isinstance(row[1], (int, float)):
                self.entries[key] = (row[0], float(row[1]))

    def set(self, key: Any, value: Any, stored_at: float) -> None:
        super().set(key, value, stored_at)
        self._save(stored_at)

    def delete(self, key: Any) -> None:
        super().delete(key)
        self._save(0.0)

    def clear(self) -> None:
        super().clear()
        self._save(0.0)

    def _save(self, at: float) -> None:
        if self._file is not None:
            self._file.set(SET_ASIDE, {key: list(each) for key, each in list(self.entries.items())}, at)


class TemplateStore:
    """The store of the cache that has the list; `aside` is that of the templates that are set aside.

    Args:
        file: where both outlive the process.
        fleet: shares both with all its members that send for the same account. Then the file is for a start without
            Redis, and has the list only.
        account: the id of the WhatsApp Business Account.
        on_forgotten: called, in the fleet's thread, when another member has forgotten the list.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None,
        fleet: BaseFleet | None,
        account: str | None,
        on_forgotten: Callable[[], Any],
    ) -> None:
        self._kept = MemoryStore(2) if file is None else _file_store(file)
        self._on_forgotten = on_forgotten
        self._me = uuid.uuid4().hex
        self._shared: SharedStore | None = None
        if fleet is None:
            self.aside: Aside = AsideInMemory(None if file is None else self._kept)
            return
        options: dict[str, Any] = {"fleet": fleet, "encode": as_shared, "decode": from_plain, "lives": LIVES}
        self._shared = SharedStore(f"{NAME}.{account}", on_clear=self._forgotten_by_others, **options)
        self.aside = SharedStore(f"{NAME}_set_aside.{account}", max_entries=MAX_SET_ASIDE, **options)
        found = self._kept.get(LIST)
        if found is not None:
            self._shared.seed(LIST, *found)

    # --- what the cache needs --------------------------------------------------------------------------------------

    def get(self, key: str) -> tuple[Any, float] | None:
        """The list and when it was fetched."""
        found = self._kept.get(key) if self._shared is None else self._shared.get(key)
        return found if found is not None and isinstance(found[0], Listing) else None

    def set(self, key: str, value: Any, stored_at: float) -> None:
        """A list that was fetched."""
        self._kept.set(key, value, stored_at)
        if self._shared is not None:
            self._shared.set(key, value, stored_at)
            self._shared.delete(FETCHING)

    def delete(self, key: str) -> None:
        """Forget it, and what the members of the fleet fetch at the moment."""
        self._kept.delete(key)
        if self._shared is not None:
            self._shared.clear()

    def clear(self) -> None:
        """The same: there is one list."""
        self.delete(LIST)

    def __len__(self) -> int:
        return int(self.get(LIST) is not None)

    def _forgotten_by_others(self) -> None:
        self._kept.delete(LIST)
        self._on_forgotten()

    # --- one fetch for a fleet -------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Tell the others that this member fetches the list."""
        if self._shared is not None:
            self._shared.set(FETCHING, self._me, now)

    def give_up(self) -> None:
        """Tell them that it does not any more."""
        if self._shared is not None:
            self._shared.delete(FETCHING)

    async def wait_for_others(self, has_it: Callable[[], bool], now: Callable[[], float]) -> None:
        """Wait until Redis has told what it has, and for another member that fetches the list, if there is one.

        Args:
            has_it: whether there is a fresh list.
            now: the time, in seconds since the epoch.
        """
        shared = self._shared
        if shared is None or has_it():
            return
        fleet = shared.fleet
        if not shared.known:
            await shared.wait_for(lambda: shared.known or fleet.state == "degraded", FIRST_WORD)

        def settled() -> bool:
            found = shared.get(FETCHING)
            fetching = found is not None and found[0] != self._me and now() - found[1] < FETCHING_FOR
            return has_it() or not fetching

        await shared.wait_for(settled, FETCHING_FOR)


def _file_store(file: str | os.PathLike[str]) -> FileStore:
    return FileStore(2, Path(file), NAME, as_plain, from_plain)
