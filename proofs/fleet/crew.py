"""Many processes that do as they are told: the members of a fleet.

They are forked from one warm process before any fleet exists there, which takes milliseconds where 64 new interpreters
take half a minute. Each waits for a job (a function of a module, and its arguments), does it, and answers. What must be
seen in all of them at once is in `shared`, numbers in memory that all have in common, so that no proof relies on the
Redis that it judges. Processes are ended by their number, and only those that were started here.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from proofs.fleet import plants
from resilience_core import CircuitBreaker, CircuitOpenError, CircuitTransition
from resilience_core._fleet_events import StoreDegraded
from resilience_core.fleet import SharedStore
from resilience_core.redis import RedisFleet
from resilience_core.redis import _link as _link  # loaded once, before the fork

SHARED = 8192  # numbers
EXPECTED = {
    *("ConnectionError", "TimeoutError", "ResponseError", "ReadOnlyError", "OutOfMemoryError", "NoPermissionError"),
    *("BusyLoadingError", "NoScriptError", "AuthenticationError", "ClusterDownError", "MovedError", "AskError"),
    *("MaxConnectionsError", "ConnectionResetError", "BrokenPipeError", "MasterDownError", "InvalidResponse"),
}
"""Why an agent may lose its store. Anything else is an error of ours that came in that disguise."""


class Broken(Exception):
    """The dependency failed."""


class Member:
    """What a process keeps between two jobs."""

    def __init__(self, index: int, shared: memoryview) -> None:
        self.index = index
        self.shared = shared
        self.fleets: list[RedisFleet] = []
        self.breakers: dict[str, CircuitBreaker] = {}
        self.stores: dict[str, SharedStore] = {}
        self.changes: list[tuple[str, int, str]] = []
        """Circuit, monotonic nanoseconds, state that it entered."""
        self.troubles: Counter[str] = Counter()
        """Exceptions that must not be: by class."""
        threading.excepthook = lambda args: self.trouble(args.exc_value)

    def trouble(self, error: BaseException | None) -> None:
        """Keep an exception that came where none may come."""
        self.troubles[f"{type(error).__name__}: {str(error)[:80]}"] += 1

    def fleet(self, url: str, **options: Any) -> RedisFleet:
        """Become a member."""
        fleet = RedisFleet(url, **options)
        self.fleets.append(fleet)
        fleet.subscribe(self._degraded)
        return fleet

    def _degraded(self, event: object) -> None:
        if isinstance(event, StoreDegraded) and event.reason not in EXPECTED:
            self.troubles[f"agent: {event.reason}"] += 1

    def breaker(self, name: str, fleet: RedisFleet, **options: Any) -> CircuitBreaker:
        """A circuit of the fleet, whose changes are kept with their times."""
        breaker = self.breakers[name] = CircuitBreaker(name, fleet=fleet, **options)

        def changed(event: Any) -> None:
            if isinstance(event, CircuitTransition):
                self.changes.append((name, time.monotonic_ns(), str(event.state)))

        breaker.subscribe(changed)
        return breaker

    def call(self, call: Callable[..., Any], *args: Any) -> bool:
        """Make a guarded call; whether it was made. What callers may see is `Broken` and `CircuitOpenError`."""
        try:
            call(*args)
        except Broken:
            return True
        except CircuitOpenError:
            return False
        except Exception as error:
            self.trouble(error)
        return True

    def leave(self) -> int:
        """End all fleets; how often they had lost the store."""
        losses = 0
        for fleet in self.fleets:
            losses += fleet.snapshot()["losses"]
            fleet.close()
        self.fleets, self.breakers, self.stores, self.changes = [], {}, {}, []
        return losses

    def told(self) -> dict[str, int]:
        """The exceptions so far, once."""
        told, self.troubles = dict(self.troubles), Counter()
        return told


class JobFailed(Exception):
    """A job raised, or a process ended or did not answer in time."""


class Crew:
    """So many processes, numbered from 0."""

    def __init__(self, size: int, plant: str | None = None) -> None:
        self.size = size
        self._plant = plant
        self._memory = mmap.mmap(-1, 8 * SHARED)
        self.shared: memoryview = memoryview(self._memory).cast("q")
        self._pipes: dict[int, Connection] = {}
        self.pids: dict[int, int] = {}
        gc.collect()
        gc.freeze()  # or the first collection in each child copies the memory of all
        for index in range(size):
            self.add(index)

    def add(self, index: int) -> None:
        """Start process `index`, also in the place of one that was killed."""
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                for pipe in self._pipes.values():
                    pipe.close()  # else nobody would notice that the parent has gone
                _serve(index, self.shared, theirs, self._plant)
                code = 0
            finally:
                os._exit(code)
        theirs.close()
        self._pipes[index], self.pids[index] = ours, pid

    def tell(self, index: int, job: Callable[..., Any], **arguments: Any) -> None:
        """Begin a job in one process."""
        self._pipes[index].send((job, arguments))

    def answer(self, index: int, timeout: float) -> Any:
        """What its job gave."""
        pipe = self._pipes[index]
        try:
            if not pipe.poll(timeout):
                raise JobFailed(f"process {index} gave no answer within {timeout:.0f} s")
            done, value = pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise JobFailed(f"process {index} has ended") from error
        if not done:
            raise JobFailed(f"process {index}: {value}")
        return value

    def all(
        self, job: Callable[..., Any], *, among: Iterable[int] | None = None, timeout: float = 60.0, **arguments: Any
    ) -> list[Any]:
        """The same job in all processes, or those among; their answers in order."""
        indices = list(range(self.size) if among is None else among)
        for index in indices:
            self.tell(index, job, **arguments)
        return self.answers(indices, timeout)

    def answers(self, indices: Iterable[int], timeout: float = 60.0) -> list[Any]:
        """The answers of jobs under way."""
        end = time.monotonic() + timeout
        return [self.answer(index, max(0.1, end - time.monotonic())) for index in indices]

    def send(self, index: int, number: signal.Signals) -> None:
        """Send a signal to one process."""
        os.kill(self.pids[index], number)

    def kill(self, index: int) -> None:
        """One process dies without a word."""
        pid = self.pids.pop(index)
        self._pipes.pop(index).close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def close(self) -> None:
        """End all: at the end of the pipe, and who does not hear that within two seconds is killed."""
        for pipe in self._pipes.values():
            pipe.close()
        end = time.monotonic() + 2.0
        for pid in self.pids.values():
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                time.sleep(0.01)
        self._pipes, self.pids = {}, {}
        gc.unfreeze()


def _serve(index: int, shared: memoryview, pipe: Connection, plant: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    logging.getLogger("resilience_core").addHandler(logging.NullHandler())
    logging.getLogger("resilience_core").propagate = False
    if plant is not None:
        plants.apply(plant)
    member = Member(index, shared)
    while True:
        try:
            job, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, job(member, **arguments))
        except BaseException:
            answer = (False, traceback.format_exc())
        pipe.send(answer)


# --- jobs that many proofs need --------------------------------------------------------------------------------------


def good() -> int:
    """The dependency works."""
    return 1


def join(member: Member, url: str, circuits: dict[str, dict[str, Any]], **options: Any) -> bool:
    """Make the circuits, call each once, and wait until their records are known.

    With 64 processes on a few cores an answer may take longer than the usual 0.1 s, and the store would count as lost:
    what is proved of a store that is there is proved with more patience.
    """
    fleet = member.fleet(url, **{"timeout": 3.0, **options})
    for name, rules in circuits.items():
        member.breaker(name, fleet, **rules)(good)()
    return fleet.wait_ready(20.0) and fleet.flush(20.0)


def leave(member: Member) -> tuple[dict[str, int], int]:
    """End the fleets; the exceptions that there were, and how often the store was lost."""
    losses = member.leave()
    return member.told(), losses


def sleep_until(moment: int) -> None:
    """Until a common moment, in monotonic nanoseconds."""
    while (left := moment - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)


def flush(member: Member) -> bool:
    """Have everything written."""
    return all(fleet.flush(20.0) for fleet in member.fleets)
