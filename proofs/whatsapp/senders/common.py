"""What every sender does: it takes its part of the load, each message when it is due, and notes what became of it.

The notes are a file of one line a message, written when the sender knows. A sender that was killed goes on after them:
what is noted is not sent again. That is the best that a program without an outbox can do.

All times are the API's: see `proofs.whatsapp.scaled`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from proofs.whatsapp.load import Job, read

Send = Callable[[Job], Awaitable[str]]
"""Sends one message; gives the state that the sender believes it to be in."""


@define
class Task:
    """What one process has to do."""

    base_url: str
    phone_number_id: str
    waba_id: str
    token_file: Path = field(converter=Path)
    """Its content may change: the old token expires."""
    directory: Path = field(converter=Path)
    share: int
    of: int
    speed: float
    """Seconds of the API's time in a second."""
    epoch: float
    """Since 1970: the moment at which the API's time and the real one are the same."""
    options: dict[str, Any]
    """What only one kind of sender needs."""

    @property
    def notes(self) -> Path:
        """Where this sender notes what became of messages."""
        return self.directory / f"notes-{self.share}"

    async def begin(self) -> float:
        """Wait until all are ready; gives the moment from which what is due is counted."""
        (self.directory / f"ready-{self.share}").touch()
        file = self.directory / "began"
        while not file.exists():
            await asyncio.sleep(0.02 * self.speed)
        return float(file.read_text())

    def token(self) -> str:
        """The one that is good now, as far as the operators have told."""
        return self.token_file.read_text()

    def jobs_left(self) -> list[Job]:
        """Without those that are noted."""
        done = set()
        if self.notes.exists():
            done = {json.loads(line)["id"] for line in self.notes.read_text().splitlines() if line.endswith("}")}
        return [job for job in read(self.directory / "load", self.share, self.of) if job.id not in done]


async def send_all(task: Task, send: Send, at_once: int) -> None:
    """Each message when it is due, `at_once` at a time."""
    began = await task.begin()
    free = asyncio.Semaphore(at_once)
    with task.notes.open("a", buffering=1) as notes:

        async def one(job: Job) -> None:
            try:
                state = await send(job)
            finally:
                free.release()
            notes.write(json.dumps({"id": job.id, "state": state}) + "\n")

        async with asyncio.TaskGroup() as group:
            for job in task.jobs_left():
                wait = began + job.due - time.time()
                if wait > 0.0:
                    await asyncio.sleep(wait)
                await free.acquire()
                group.create_task(one(job))
