"""Where a `StaleCache` keeps its values: in memory, in a file, or wherever a user's store puts them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from resilience_core._event_log import say
from resilience_core._schema import POLICY


@runtime_checkable
class CacheStore(Protocol):
    """Keeps values with the time they were fetched, in seconds since the epoch. May forget any of them at any time.

    Keys are strings. It is called from any thread, and its errors never fail a call: they are logged, and count as
    nothing found.
    """

    def get(self, key: str) -> tuple[Any, float] | None:
        """The value and when it was fetched."""
        ...

    def set(self, key: str, value: Any, stored_at: float) -> None:
        """Keep a value."""
        ...

    def delete(self, key: str) -> None:
        """Forget one."""
        ...

    def clear(self) -> None:
        """Forget all."""
        ...


class MemoryStore:
    """Keeps the `max_entries` values used last, in memory. What a `StaleCache` without `store=` and `file=` uses."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self.entries: OrderedDict[Hashable, tuple[Any, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    def resize(self, max_entries: int) -> None:
        """Keep so many from now on."""
        with self._lock:
            self._max_entries = max_entries
            while len(self.entries) > max_entries:
                self.entries.popitem(last=False)

    def get(self, key: Hashable) -> tuple[Any, float] | None:
        """The value and when it was stored."""
        with self._lock:
            found = self.entries.get(key)
            if found is not None:
                self.entries.move_to_end(key)
            return found

    def set(self, key: Hashable, value: Any, stored_at: float) -> None:
        """Keep a value, and drop the one used longest ago beyond the bound."""
        with self._lock:
            self.entries[key] = (value, stored_at)
            self.entries.move_to_end(key)
            if len(self.entries) > self._max_entries:
                self.entries.popitem(last=False)

    def delete(self, key: Hashable) -> None:
        """Forget one."""
        with self._lock:
            self.entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self.entries.clear()


class FileStore(MemoryStore):
    """The same, written to a JSON file after every change: what `StaleCache(file=...)` uses, and several can share.

    Args:
        max_entries: values kept; beyond, the one used longest ago is dropped.
        path: the file. One that cannot be read or written is logged, and fails no call.
        name: what the log calls it.
        encode: turns a value into what JSON can carry.
        decode: the reverse. If it raises for any value of the file, nothing of the file is used.
    """

    def __init__(
        self,
        max_entries: int,
        path: Path,
        name: str,
        encode: Callable[[Any], Any],
        decode: Callable[[Any], Any],
    ) -> None:
        super().__init__(max_entries)
        self._path = path
        self._name = name
        self._encode = encode
        self._decode = decode
        self._writing = threading.Lock()
        self._load()

    def set(self, key: Hashable, value: Any, stored_at: float) -> None:
        """Keep a value."""
        super().set(key, value, stored_at)
        self._save()

    def delete(self, key: Hashable) -> None:
        """Forget one."""
        super().delete(key)
        self._save()

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self._save()

    def _load(self) -> None:
        import json  # here, not above: few caches have a file

        try:
            stored = json.loads(self._path.read_text("utf-8"))
            for key, (value, stored_at) in stored["entries"].items():
                self.entries[key] = (self._decode(value), float(stored_at))
        except FileNotFoundError:
            return
        except Exception as error:
            self._failed("read and is ignored", error)
            self.entries.clear()

    def _save(self) -> None:
        import json

        try:
            with self._writing:
                with self._lock:
                    kept = list(self.entries.items())
                entries = {key: [self._encode(value), stored_at] for key, (value, stored_at) in kept}
                # Written beside and moved, so that a crash leaves the old file or the new one.
                beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
                beside.write_text(json.dumps({"version": 1, "entries": entries}), "utf-8")
                beside.replace(self._path)
        except Exception as error:
            self._failed("written", error)

    def _failed(self, what: str, error: Exception) -> None:
        text = f"The cache file of {self._name!r} cannot be {what}"
        say("resilience.cache.store_failed", text, {POLICY: self._name}, error=error)
