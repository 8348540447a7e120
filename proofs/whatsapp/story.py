"""What happens to the API, and to the senders, while the load is sent: the same for every kind of sender.

All times are seconds of the API's time after the beginning.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import define, field, frozen

from proofs.whatsapp import load
from proofs.whatsapp.world import SHIPPING_UPDATE, TOKENS, World, cpu_of, end, start

RATE, SHORTEST = 64.0, 60.0
"""Messages that fall due in a second; fewer if it were over in less than a minute."""
THROUGHPUT = 80.0
"""Messages a second that the number may send."""
PROGRAMS = {
    "ours": "proofs.whatsapp.senders.ours",
    "naive": "proofs.whatsapp.senders.naive",
    "pywa": "proofs.whatsapp.senders.pywa_client",
}
SENDERS = 4
HEARD_PATIENCE = 120.0
"""Seconds for which the last webhooks are awaited: what is not taken is told again after longer and longer waits."""
START_PATIENCE = 60.0
"""Real seconds until all processes must be ready."""
THROTTLED_TO = 0.6
"""The throughput of the number for a while, as a part of what falls due."""
LIMITS = {"messaging": None, "marketing": None}
"""Those of the API that would end the story after 250 messages, or need a day, are left out."""


@frozen
class Moments:
    """When what happens, as parts of the time in which messages fall due."""

    brown_out: tuple[float, float] = (0.08, 0.18)
    first_kill: float = 0.14
    dead: float = 0.24
    second_kill: float = 0.26
    receiver_killed: float = 0.50
    redis_killed: tuple[float, float] = (0.55, 0.60)
    new_token: float = 0.62
    paused: tuple[float, float] = (0.68, 0.72)
    app: tuple[float, float] = (0.74, 0.76)
    throttled: tuple[float, float] = (0.80, 0.86)
    platform: tuple[float, float] = (0.90, 0.92)


MOMENTS = Moments()


def length_of(messages: int, shortest: float = SHORTEST) -> float:
    """Seconds in which so many fall due."""
    return max(shortest, messages / RATE)


def dead_for(length: float) -> float:
    """A minute; less in a story that is itself not much longer."""
    return min(60.0, 0.2 * length)


def faults(length: float) -> list[Mapping[str, Any]]:
    """The fault menu, over a story of that many seconds."""

    def between(part: tuple[float, float], **fault: Any) -> Mapping[str, Any]:
        return {"times": None, "at": part[0] * length, "lasts": (part[1] - part[0]) * length, **fault}

    always = {"times": None}
    return [
        {"kind": "dead", "at": MOMENTS.dead * length, "lasts": dead_for(length)},
        # Accepted, and the answer is lost.
        {"kind": "reset_after_accept", "share": 0.01, **always},
        {"kind": "html", "status": 502, "accepted": True, "share": 0.01, **always},
        {"kind": "cut_after_accept", "size": 40, "seconds": 15.0, "share": 0.005, **always},
        {"kind": "hang_after_accept", "seconds": 15.0, "share": 0.005, **always},
        {"kind": "no_messages", "share": 0.002, **always},
        # Not accepted, in ways that do not say so.
        {"kind": "reset_before_read", "share": 0.005, **always},
        {"kind": "html", "status": 502, "share": 0.005, **always},
        {"kind": "string_error", "status": 500, "share": 0.002, **always},
        {"kind": "trickle", "seconds": 4.0, "share": 0.005, **always},
        # For a while the platform is in trouble, in each of its words.
        between(MOMENTS.brown_out, kind="error", code=131016, share=0.1),
        between(MOMENTS.brown_out, kind="error", code=2, status=400, is_transient=True, share=0.05),
        between(MOMENTS.brown_out, kind="html", status=503, share=0.05),
        between(MOMENTS.brown_out, kind="delay", seconds=2.0, share=0.2),
        between(MOMENTS.app, kind="error", code=4, status=400, share=0.5),
        between(MOMENTS.throttled, kind="error", code=80007, status=400, route="message_templates"),
        between(MOMENTS.platform, kind="error", code=131057, share=1.0),
        # Accepted, answered, and not delivered all the same.
        {"kind": "fail_later", "code": 131026, "share": 0.01, **always},
        {"kind": "fail_later", "code": 131049, "share": 0.005, **always},
        # Webhooks that behave as those of the API do.
        {"kind": "webhook_early", "share": 0.03, **always},
        {"kind": "webhook_duplicate", "share": 0.1, **always},
        {"kind": "webhook_reorder", "share": 0.1, **always},
        {"kind": "webhook_rebatch", "share": 0.05, **always},
        {"kind": "webhook_signature", "share": 0.01, **always},
        {"kind": "webhook_dead", "share": 0.01, **always},
        {"kind": "webhook_late", "seconds": 40.0, "share": 0.01, **always},
    ]


@define
class Told:
    """What was found out at the end."""

    report: Mapping[str, Any]
    book: Sequence[Mapping[str, Any]]
    jobs: Sequence[load.Job]
    owners: Mapping[str, str]
    """The job of each opaque id."""
    rows: Mapping[str, Any]
    """What the sender's store says, by job; empty for senders that have none."""
    openings: Sequence[Mapping[str, Any]]
    """Of the circuit: when, of the API's time, and why."""
    began: float
    """Of the API's time."""
    length: float
    """Seconds in which the messages fell due."""
    seconds: float
    """Of the API's time, from the beginning until all was done."""
    cpu: Mapping[str, float]
    """Seconds of CPU: of the simulator and of the senders that were alive at the end."""
    trouble: str
    """What the programs wrote to their standard error."""
    in_time: bool
    """Whether it came to its end."""
    more: dict[str, Any] = field(factory=dict)


@define
class Side:
    """What a kind of sender has besides its processes."""

    options: dict[str, Any] = field(factory=dict)
    """What its programs are told."""
    steps: Mapping[str, Callable[[], None]] = field(factory=dict)
    """`kill_redis`, `start_redis`, `kill_receiver`: what happens to it."""
    settled: Callable[[], bool] = lambda: True
    """Whether there is nothing left to be sent or to be heard of, once all messages were handed over."""
    records: Callable[[], tuple[dict[str, str], dict[str, Any]]] | None = None
    """The job of each opaque id, and a row for each job."""
    cpu: Callable[[], Mapping[str, float]] = dict


def nothing(world: World, stack: ExitStack, task: Mapping[str, Any]) -> Side:
    """A sender without an outbox."""
    return Side()


def told(
    kind: str,
    *,
    messages: int,
    recipients: int,
    speed: float,
    seed: int,
    hot: float = 0.1,
    shortest: float = SHORTEST,
    throughput: float = THROUGHPUT,
    plant: str | None = None,
    prepare: Callable[[World, ExitStack, Mapping[str, Any]], Side] = nothing,
    patience: float = 900.0,
) -> Told:
    """Send the load with one kind of sender, through everything.

    `patience` is of the API's time, counted from when the last message fell due.
    """
    with ExitStack() as stack:
        world = World(speed=speed, seed=seed, limits={**LIMITS, "throughput": throughput})
        stack.callback(world.close)
        world.graph("POST", f"{world.waba_id}/message_templates", {**SHIPPING_UPDATE, "category": "UTILITY"})
        world.steer("POST", "templates", {"name": SHIPPING_UPDATE["name"], "status": "APPROVED"})
        length = length_of(messages, shortest)
        jobs = load.jobs(messages, recipients, messages / length, hot, seed)
        load.write(world.directory / "load", jobs)
        task: dict[str, Any] = {
            "base_url": world.base_url,
            "phone_number_id": world.phone_number_id,
            "waba_id": world.waba_id,
            "token_file": str(world.token_file),
            "directory": str(world.directory),
            "share": 0,
            "of": SENDERS,
            "speed": speed,
            "epoch": world.epoch,
            "options": {"plant": plant},
        }
        side = prepare(world, stack, task)
        task["options"] = {**task["options"], **side.options}
        crew = _Crew(kind, world, task)
        stack.callback(crew.close)
        began = crew.begin(world)
        world.script(faults(length))
        throttled = max(1, round(min(throughput, THROTTLED_TO * messages / length)))
        _play(world, crew, began, length, (throughput, throttled), side.steps)
        deadline = began + length + patience
        in_time = _until(lambda: crew.done() and side.settled(), world, deadline)
        if in_time:  # what is told later can still show that something was wrong
            _until(lambda: _heard(world), world, world.now() + HEARD_PATIENCE)
        seconds = world.now() - began
        cpu = {"simulator": world.cpu(), "senders": crew.cpu(), **side.cpu()}
        crew.close()
        owners, rows = ({}, {}) if side.records is None else side.records()
        states = crew.noted() if side.records is None else {job: row["state"] for job, row in rows.items()}
        ids = {job: opaque for opaque, job in owners.items()}
        records = {ids.get(job.id, job.id): {"state": states.get(job.id), "key": job.id} for job in jobs}
        return Told(
            report=world.steer("POST", "report", {"records": records}),
            book=world.steer("GET", "book")["entries"],
            jobs=jobs,
            owners=owners,
            rows=rows,
            openings=crew.openings(),
            began=began,
            length=length,
            seconds=seconds,
            cpu=cpu,
            trouble=crew.errors.read_text() if crew.errors.exists() else "",
            in_time=in_time,
        )


def _heard(world: World) -> bool:
    """Whether all webhooks were told."""
    return bool(world.steer("GET", "report")["webhooks"]["pending"] == 0)


def _until(done: Callable[[], bool], world: World, deadline: float) -> bool:
    while not done():
        if world.now() > deadline:
            return False
        time.sleep(0.25)
    return True


class _Crew:
    """The sender processes."""

    def __init__(self, kind: str, world: World, task: Mapping[str, Any]) -> None:
        self.program = PROGRAMS[kind]
        self.directory = world.directory
        self.errors = world.directory / "errors"
        self._stays = kind == "ours"
        self._tasks = [{**task, "share": share} for share in range(SENDERS)]
        self._processes = [self._start(task) for task in self._tasks]

    def _start(self, task: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        return start(self.program, task, self.errors)

    def begin(self, world: World) -> float:
        """Wait until all are ready, and tell them when it begins."""
        deadline = time.monotonic() + START_PATIENCE
        while not all((self.directory / f"ready-{share}").exists() for share in range(SENDERS)):
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                raise RuntimeError(f"a sender did not start:\n{self.errors.read_text()[-3000:]}")
            time.sleep(0.02)
        began = world.now()
        file = self.directory / "began"
        file.with_suffix(".new").write_text(repr(began))
        file.with_suffix(".new").rename(file)
        return began

    def kill(self, share: int) -> None:
        """With -9; started again at once, as a supervisor would."""
        self._processes[share].kill()
        self._processes[share].wait()
        self._processes[share] = self._start(self._tasks[share])

    def done(self) -> bool:
        """Whether all have handed over their messages."""
        if self._stays:
            if any(process.poll() is not None for process in self._processes):
                raise RuntimeError(f"a sender ended by itself:\n{self.errors.read_text()[-3000:]}")
            return all((self.directory / f"done-{share}").exists() for share in range(SENDERS))
        if any(process.poll() for process in self._processes):
            raise RuntimeError(f"a sender failed:\n{self.errors.read_text()[-3000:]}")
        return all(process.poll() == 0 for process in self._processes)

    def cpu(self) -> float:
        """Seconds of CPU, of those that still live."""
        return sum(cpu_of(process) for process in self._processes)

    def noted(self) -> dict[str, str]:
        """What became of the jobs, as the senders noted it."""
        return {row["id"]: row["state"] for row in self._lines("notes")}

    def openings(self) -> list[dict[str, Any]]:
        """When the circuit opened."""
        return list(self._lines("opened"))

    def _lines(self, what: str) -> list[dict[str, Any]]:
        files = [self.directory / f"{what}-{share}" for share in range(SENDERS)]
        texts = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return [json.loads(line) for line in texts if line.endswith("}")]

    def close(self) -> None:
        """End all."""
        for process in self._processes:
            end(process)


def _play(
    world: World,
    crew: _Crew,
    began: float,
    length: float,
    throughput: tuple[float, float],
    steps: Mapping[str, Callable[[], None]],
) -> None:
    """What the simulator cannot do by itself, each in its time; `throughput` is the usual one and that of a while."""

    def token() -> None:
        world.steer("POST", "tokens", {"token": TOKENS[1]})
        world.steer("POST", "tokens", {"token": TOKENS[0], "expires_in": 0})

    def operator() -> None:
        world.token_file.write_text(TOKENS[1])

    def template(status: str) -> Callable[[], None]:
        return lambda: world.steer("POST", "templates", {"name": SHIPPING_UPDATE["name"], "status": status})

    def limits(rate: float) -> Callable[[], None]:
        return lambda: world.steer("POST", "limits", {"base": "real", **LIMITS, "throughput": rate})

    played: list[tuple[float, Callable[[], Any]]] = [
        (MOMENTS.first_kill * length, lambda: crew.kill(1)),
        (MOMENTS.second_kill * length, lambda: crew.kill(2)),
        (MOMENTS.receiver_killed * length, steps.get("kill_receiver", _nothing)),
        (MOMENTS.redis_killed[0] * length, steps.get("kill_redis", _nothing)),
        (MOMENTS.redis_killed[1] * length, steps.get("start_redis", _nothing)),
        (MOMENTS.new_token * length, token),
        (MOMENTS.new_token * length + 10.0, operator),
        (MOMENTS.paused[0] * length, template("PAUSED")),
        (MOMENTS.paused[1] * length, template("APPROVED")),
        (MOMENTS.throttled[0] * length, limits(throughput[1])),
        (MOMENTS.throttled[1] * length, limits(throughput[0])),
    ]
    for at, step in sorted(played, key=lambda each: each[0]):
        world.until(began + at)
        step()


def _nothing() -> None: ...
