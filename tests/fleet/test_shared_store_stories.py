"""Random stories of three members and one Redis, turn by turn: in the end all have what Redis has."""

from __future__ import annotations

import json
import random

import pytest

from resilience_core.fleet import SharedStore
from resilience_core.fleet._link import Link
from resilience_core.redis import RedisFleet
from resilience_core.testing import VirtualClock
from tests.fleet.members import Fleets
from tests.fleet.test_shared_store import key

MEMBERS = 3
NAMES = "abcdefghij"


class Story:
    """The test is the agent of all members; news are lost now and then, and so are answers."""

    def __init__(self, fleets: Fleets, seed: int, *, lasting: bool, makes_room: bool) -> None:
        self.chance = random.Random(seed)
        self.fleets = fleets
        self.clock = VirtualClock()
        self.stores: list[SharedStore] = []
        for _ in range(MEMBERS):
            fleet = RedisFleet(fleets.url, prefix=fleets.prefix)
            fleet.agent.attach = lambda item: True  # type: ignore[method-assign]
            store = SharedStore(
                "prices",
                fleet=fleet,
                clock=self.clock,
                lasting=lasting,
                makes_room=makes_room,
                max_entries=6,
                lives=500,
            )
            self.stores.append(store)
        self.away = [False] * MEMBERS
        self.lasting = lasting

    def step(self, link: Link, which: int) -> None:
        """Something happens to one of them."""
        chance, store, x = self.chance, self.stores[which], self.chance.random()
        share, name = store._share, chance.choice(NAMES)
        self.clock.advance(chance.choice([0, 0.1, 1, 3]))
        if x < 0.3:
            store.set(name, chance.randrange(99), self.clock.wall(), chance.choice([None, 5, 50]))
        elif x < 0.4:
            store.delete(name)
        elif x < 0.8:
            if not self.away[which]:
                self.turn(link, store, answered=chance.random() < 0.93)
        elif x < 0.87:
            self.away[which] = not self.away[which]
            (share.lost if self.away[which] else share.found)(0.0)
        elif x < 0.885:
            self.fleets.client.delete(key(self.fleets), f"{key(self.fleets)}:log")
        elif x < 0.9 and not self.lasting:
            store.clear()

    def turn(self, link: Link, store: SharedStore, *, answered: bool = True) -> None:
        """One turn of its agent."""
        (request,) = store._share.requests(self.clock.now())
        (reply,) = link.run([request])
        if not answered:
            store._share.lost(0.0)
            return
        request.answer(reply, 0.0, 0.0)
        if request.script == "keep" and reply[0] == 1:
            for other, away in zip(self.stores, self.away, strict=True):
                if not away and self.chance.random() < 0.9:
                    other._share.heard("changes", reply[1] + b":%d" % reply[3], 0.0)

    def end(self, link: Link) -> None:
        """All are there again, and have the time that they need."""
        self.away = [False] * MEMBERS
        for _ in range(2):
            for store in self.stores:
                store._share.found(0.0)
            for _ in range(40):
                for store in self.stores:
                    self.turn(link, store)

    def copy(self, store: SharedStore) -> dict[str, str]:
        now = self.clock.wall()
        return {
            field: entry.text for field, entry in store._share.entries.items() if entry.until > now and entry.shared
        }

    def redis(self) -> dict[str, str]:
        found = self.fleets.client.hgetall(key(self.fleets))
        texts = {str(field): str(text).partition(":")[2] for field, text in found.items() if len(field) == 32}
        return {field: text for field, text in texts.items() if json.loads(text)["until"] > self.clock.wall()}


@pytest.mark.parametrize("makes_room", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_in_the_end_all_have_what_redis_has(
    fleets: Fleets, monkeypatch: pytest.MonkeyPatch, seed: int, lasting: bool, makes_room: bool
) -> None:
    monkeypatch.setattr("resilience_core.fleet._store.SAID_AT_ONCE", 3)
    story = Story(fleets, seed, lasting=lasting, makes_room=makes_room)
    link = story.stores[0].fleet.open_link()
    try:
        for _ in range(story.chance.randrange(20, 120)):
            story.step(link, story.chance.randrange(MEMBERS))
        story.end(link)
    finally:
        link.close()
    for store in story.stores:
        assert not store._share._unsaid
        assert story.copy(store) == story.redis()
