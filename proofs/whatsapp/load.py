"""What is to be sent: the same for every sender."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from attrs import asdict, frozen

from resilience_whatsapp.records import Delivery

TEMPLATES = ("order_confirmation", "shipping_update")
LANGUAGE = "fr"
DELIVERIES: tuple[Delivery, ...] = ("at_most_once", "at_least_once")


@frozen
class Job:
    """One message."""

    id: str
    due: float
    """Seconds of the API's time after the beginning: from then on it is to be sent."""
    to: str
    template: str
    delivery: Delivery


def jobs(messages: int, recipients: int, rate: float, hot_share: float, seed: int) -> list[Job]:
    """So many, `rate` in a second. Half of them must not be sent twice.

    `hot_share` of them go to 1 % of the recipients: more than a pair is allowed at once.
    """
    chance = Random(seed)
    numbers = [f"+3369{number:07d}" for number in range(recipients)]
    hot = numbers[: max(1, recipients // 100)]
    return [
        Job(
            f"job-{index}",
            index / rate,
            chance.choice(hot if chance.random() < hot_share else numbers),
            chance.choice(TEMPLATES),
            chance.choice(DELIVERIES),
        )
        for index in range(messages)
    ]


def write(file: Path, load: list[Job]) -> None:
    """One line for each."""
    file.write_text("".join(json.dumps(asdict(job)) + "\n" for job in load))


def read(file: Path, share: int, of: int) -> list[Job]:
    """The part of one of `of` senders."""
    lines = file.read_text().splitlines()
    return [Job(**json.loads(line)) for line in lines[share::of]]


def components(job: Job) -> list[dict[str, object]]:
    """The parameters: the job's id makes the content of each message its own, so that copies are recognised."""
    return [{"type": "body", "parameters": [{"type": "text", "text": job.id}, {"type": "text", "text": "demain"}]}]
