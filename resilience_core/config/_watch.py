"""A configuration file is watched for changes: what is good is applied, what is not changes nothing and is told."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from resilience_core import _validation as check
from resilience_core._clock import SYSTEM
from resilience_core._config_events import ConfigurationRefused, ConfigurationReloaded
from resilience_core._errors import ConfigurationError
from resilience_core._event_log import log_event
from resilience_core._events import everywhere
from resilience_core._fork import renewed_after_fork
from resilience_core._telemetry import telemetry
from resilience_core._validation import Seconds
from resilience_core.config._load import LARGEST_FILE, load
from resilience_core.registry import Registry
from resilience_core.registry import registry as whole_registry


class Watcher:
    """Applies a configuration file whenever it has changed. Nothing is watched until `start()`.

    A file that is wrong changes nothing: it is logged as an error, told as `ConfigurationRefused`, kept as `error`, and
    the next change is looked at as before. What fails for another reason is tried again at every look. A thread that is
    started here does not outlive a fork.

    Args:
        path: of the file, as for `load`.
        environment: the overlay to use.
        env: environment variables that override the file.
        interval: seconds (or timedelta) between two looks.
        registry: where the policies are that are to be set.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        environment: str | None = None,
        env: Mapping[str, str] | None = None,
        interval: Seconds = 2.0,
        registry: Registry = whole_registry,
    ) -> None:
        self._path = Path(path)
        self._environment = environment
        self._env = env
        self._interval = check.seconds("Watcher: interval", interval)
        self._registry = registry
        self._seen: bytes | None = None  # of the content that was looked at last
        self._lock = renewed_after_fork(threading.Lock())
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.error: ConfigurationError | None = None
        """Why the file as it is now was refused; None for a good one."""

    def poll(self) -> bool:
        """Look once; whether a changed file was applied. The first look always applies it."""
        with self._lock:
            seen = self._fingerprint()
            if seen == self._seen:
                return False
            return self._apply(seen)

    def _fingerprint(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return hashlib.sha256(file.read(LARGEST_FILE + 1)).digest()
        except (OSError, ValueError) as error:  # a ValueError: there can be no file of that name
            return repr(error).encode()

    def _apply(self, seen: bytes) -> bool:
        name = self._path.name
        try:
            configuration = load(self._path, environment=self._environment, env=self._env)
            changed = self._registry.apply(configuration)
        except (ConfigurationError, TypeError) as error:
            self._seen = seen  # it is as wrong at the next look
            self._refuse(error, None)
            return False
        except Exception as error:  # a hook or a store of somebody else: it may go well at the next look
            self._refuse(error, error)
            return False
        self._seen = seen
        self.error = None
        telemetry.count_reload("success")
        everywhere.emit(ConfigurationReloaded(name, SYSTEM.now(), tuple(changed)))
        return True

    def _refuse(self, error: Exception, told_with: Exception | None) -> None:
        name = self._path.name
        # Of what somebody else's code raised, the class: its text could have anything in it.
        told = str(error) if told_with is None else type(error).__qualname__
        refused = error if isinstance(error, ConfigurationError) else ConfigurationError(told)
        problems = tuple(str(problem) for problem in getattr(refused, "problems", ())) or (str(refused),)
        event = ConfigurationRefused(name, SYSTEM.now(), problems)
        all_of_it = re.sub(r"\s*\n\s*", " ", "; ".join(problems))
        log_event(event, text=f"Configuration {name!r} is refused, nothing has changed: {all_of_it}", error=told_with)
        self.error = refused.with_traceback(None)  # it is kept: the frames of its traceback must not be
        telemetry.count_reload("error")
        everywhere.deliver(event)

    def start(self) -> None:
        """Look every `interval` seconds from now on, in a thread that does not keep the process alive."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._stop.clear()
                self._thread = threading.Thread(target=self._watch, name="resilience-config", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        while True:
            self.poll()
            if self._stop.wait(self._interval):
                return

    def close(self) -> None:
        """Look no more; waits for a look that is under way."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
