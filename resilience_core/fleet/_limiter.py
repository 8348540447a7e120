"""A rate limiter's share in its fleet: permits come from the store, a batch at a time, or one by one (`strict`).

    take() -- a permit of the batch at hand --> go on, no I/O
       \\-- none: ask, wait for the answer (the fleet's time-out at most) --> go on, wait, or be rejected

A batch grows while it is used up quickly, and shrinks when it is not; what is not used within `BATCH_LASTS` seconds is
given back. Over any time T the fleet starts at most `burst + T * rate` calls if strict; with batches, permits taken
before may be used within T: at most `burst + BATCH_LASTS * rate` more.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from resilience_core._fork import renew
from resilience_core._machines.bucket import ASK, Bucket
from resilience_core.fleet._agent import NEVER, Item
from resilience_core.fleet._link import Request

if TYPE_CHECKING:
    from resilience_core._policies.rate_limiter import RateLimiter
    from resilience_core.fleet._fleet import BaseFleet

BATCH_LASTS = 1.0
"""Seconds after which permits that were not used are given back."""
LARGEST_BATCH = 1_000
MOST_ASKERS = 1_000
"""Callers that one question speaks for: Lua cannot answer with as many values as it likes."""
REFUSED_FOR = 1.0
"""Seconds that a rejection asks to wait while the store is away and the limiter fails closed."""
_NS = 1e9


class Wakeable(Protocol):
    """A waiter: of a thread or of a task."""

    def wake(self) -> bool: ...


class Asking:
    """A caller that waits for an answer of the store."""

    __slots__ = ("_bucket", "_wait", "gone", "mark", "patience", "waiter")

    def __init__(self, bucket: SharedBucket, waiter: Any, patience: float) -> None:
        self._bucket = bucket
        self.waiter: Any = waiter
        self.patience: float = patience
        self._wait: float | None = None
        self.gone = False
        self.mark: str | None = None
        """What gives a reservation back; empty where others have reserved after it, None where nobody answered."""

    def serve(self, wait: float, mark: str) -> bool:
        """Give the answer: as `Bucket.take` does. False if nobody can be woken any more. Under the lock."""
        self.mark = mark
        self._wait = wait
        return bool(self.waiter.wake())

    def answer(self, now: float, max_wait: float) -> float:
        """What came of it; without an answer in time, what the process by itself would say."""
        with self._bucket.lock:
            self.gone = True
        return self._bucket.unanswered(now, max_wait) if self._wait is None else self._wait

    def abandon(self) -> None:
        """The caller was cancelled: a permit that he got meanwhile goes back."""
        with self._bucket.lock:
            self.gone = True
        if self._wait is not None and self._wait >= 0:
            self._bucket.give_back(self.mark)


class SharedBucket(Bucket):
    """The permits at hand of one limiter, or of one key of it."""

    __slots__ = (
        "_share",
        "alone",
        "asking",
        "batch",
        "close_for",
        "denied_until",
        "filled_at",
        "key",
        "lapses",
        "left",
        "local",
        "lock",
        "low",
        "owed",
    )

    def __init__(self, share: SharedLimiter, key: str, interval: float, burst: int) -> None:
        super().__init__(interval, burst)
        self.tat: float = math.inf  # never at rest: `take` decides
        self.local: Bucket = Bucket(interval, burst)
        self.lock: threading.Lock = share.lock
        self._share = share
        self.key: str = key
        self.left: int = 0
        self.lapses: float = -math.inf
        self.batch: int = 0
        self.low: int = 1  # permits left at which another batch is fetched
        self.denied_until: float = -math.inf  # as the store has said
        self.filled_at: float = -math.inf
        self.alone: bool = share.alone
        self.asking: deque[Asking] = deque()
        self.close_for: float = 0.0
        self.owed: tuple[str, int] = ("", 0)  # the mark of the last reservation, and how many are to be given back

    def take(self, now: float, max_wait: float) -> float:
        """A permit at hand; else what was known last, or `ASK`."""
        if self.alone:
            return self.alone_says(now, max_wait)
        if now < self.closed_until:
            wait = self.closed_until - now
            return -1.0 - wait if wait > max_wait else ASK
        left = self.left
        if left > 0 and now < self.lapses:
            self.left = left - 1
            if left == self.low:
                self._share.refill(self)
            return 0.0
        if now + max_wait < self.denied_until:
            return -1.0 - (self.denied_until - now)
        return self.unanswered(now, max_wait) if self._share.overdue() else ASK

    def alone_says(self, now: float, max_wait: float) -> float:
        """The verdict without the store."""
        if not self._share.joined:  # nobody looks for it so far: or all would be rejected for ever
            self._share.join()
        if self._share.fail_closed:
            return -1.0 - REFUSED_FOR
        return self.local.take(now, max_wait)

    def unanswered(self, now: float, max_wait: float) -> float:
        """The verdict when no answer came in time: a strict limit gives no permit that nobody has counted."""
        if self._share.strict and not self.alone:
            return -1.0 - self._share.patience
        return self.alone_says(now, max_wait)

    def wait(self, now: float) -> float:
        """What is known here: until when the store gives none, or somebody has closed it."""
        if self.alone:
            return self.local.wait(now)
        denied = -math.inf if self.left > 0 and now < self.lapses else self.denied_until
        return max(0.0, denied - now, self.closed_until - now)

    def ask(self, waiter: Wakeable) -> Asking:
        """Have the agent ask for a permit; wait for the answer with the waiter."""
        return self._share.ask(self, waiter)

    def mark(self) -> Any:
        """What `give_back` needs to know of the permit that this process has reserved by itself."""
        return self.local.tat

    def give_back(self, mark: Any) -> None:
        """Return a permit that was not used: to where it came from."""
        if isinstance(mark, str):
            self._share.give_back(self, mark)
        else:
            self.local.give_back(mark)

    def retune(self, interval: float, burst: int, now: float) -> None:
        """Another rate from now on; the store's schedule is in its own units and goes on."""
        self.interval, self.tolerance = interval, interval * (burst - 1)
        self.local.retune(interval, burst, now)

    def close_until(self, moment: float) -> None:
        """Give no permit before `moment`, here at once, and in the fleet with the next word."""
        super().close_until(moment)
        self.local.close_until(moment)
        self._share.close(self, moment)

    def at_rest(self, now: float) -> bool:
        """Whether forgetting it loses nothing."""
        return self.left == 0 and not self.asking and self.closed_until <= now and self.local.at_rest(now)

    def available(self, now: float) -> int:
        """Permits at hand: what the store has beyond is not known here."""
        return self.local.available(now) if self.alone else max(0, self.left)


class SharedLimiter(Item):
    """The agent's end of one limiter."""

    def __init__(self, fleet: BaseFleet, limiter: RateLimiter) -> None:
        self._fleet = fleet
        self._limiter = limiter
        self._key = fleet.keys.other("rate_limiter", limiter.name)
        self.fail_closed: bool = limiter.fail_closed
        self.strict: bool = limiter.strict
        # A little longer than the agent needs to find out that the store is gone: then its word comes first.
        self.patience: float = 1.5 * fleet.timeout
        self._clear()

    def _clear(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.joined = False
        self.alone = False
        self._wanting: dict[SharedBucket, bool] = {}  # buckets for which something is to be asked
        self._holding: set[SharedBucket] = set()  # those with permits at hand
        self._asked: set[Asking] = set()  # whose answers are under way
        self._asked_at: float | None = None  # since when nothing was answered
        self._look_at = NEVER

    # --- by callers ------------------------------------------------------------------------------------------------

    def bucket(self, key: object = None) -> SharedBucket:
        """The bucket of one key, or the only one."""
        limiter = self._limiter
        name = self._key if limiter.key is None else self._fleet.keys.personal(limiter.name, key)
        return SharedBucket(self, name, limiter.per / limiter.rate, limiter.most_at_once())

    def ask(self, bucket: SharedBucket, waiter: Wakeable) -> Asking:
        """Put a question to the store."""
        asking = Asking(bucket, waiter, self.patience)
        with self.lock:
            bucket.asking.append(asking)
            self._wanting[bucket] = True
            if self._asked_at is None:
                self._asked_at = time.monotonic()
        self._join_or_wake()
        return asking

    def overdue(self) -> bool:
        """Whether somebody has waited in vain already: nobody else does, until the store has answered or is lost."""
        asked_at = self._asked_at
        return asked_at is not None and time.monotonic() - asked_at > self.patience

    def refill(self, bucket: SharedBucket) -> None:
        """Half of a batch is used: fetch another one in time."""
        with self.lock:
            self._wanting[bucket] = True
        self._fleet.agent.wake()

    def give_back(self, bucket: SharedBucket, mark: str) -> None:
        """Have a reservation given back, if that can be done so that no two permits come at once."""
        with self.lock:
            self._owe(bucket, mark, 1)
        self._fleet.agent.wake()

    def _owe(self, bucket: SharedBucket, mark: str, count: int) -> None:
        if mark and count:
            bucket.owed = mark, count
            self._wanting[bucket] = True

    def close(self, bucket: SharedBucket, moment: float) -> None:
        """Tell the fleet that the dependency asked for a pause."""
        with self.lock:
            bucket.close_for = max(bucket.close_for, moment - self._limiter.clock.now())
            self._wanting[bucket] = True
        self._join_or_wake()

    def _join_or_wake(self) -> None:
        if self.joined:
            self._fleet.agent.wake()
        else:
            self.join()

    def join(self) -> None:
        """With the first question the agent begins to work for this limiter; where it cannot, with a later one."""
        self.joined, alone = self._fleet.join(self)
        if alone:
            self.lost(time.monotonic())

    # --- by the agent ----------------------------------------------------------------------------------------------

    def due(self, now: float) -> float:
        return 0.0 if self._wanting or self.alone else self._look_at

    def requests(self, now: float) -> list[Request]:
        ahead = self._limiter.clock.now()
        with self.lock:
            wanting, self._wanting = self._wanting, {}
            lapsed = [bucket for bucket in self._holding if bucket.left > 0 and bucket.lapses <= ahead]
            self._holding = {bucket for bucket in self._holding if bucket.left > 0}
            self._look_at = now + BATCH_LASTS / 4 if self._holding else NEVER
        found = [self._request(bucket, ahead, bucket in wanting) for bucket in {**wanting, **dict.fromkeys(lapsed)}]
        proof = [self._proof()] if self.alone else []
        return proof + [request for request in found if request is not None]

    def _proof(self) -> Request:
        """Asks for nothing. Only an answer shows that the store is back: until then nobody waits for it."""

        def answer(reply: Any, sent: float, received: float) -> None:
            with self.lock:
                self.alone = False
                for bucket in self._buckets():
                    bucket.alone = False

        return Request("take", self._key, self._terms(self._limiter.most_at_once()), answer)

    def _request(self, bucket: SharedBucket, now: float, wanted: bool) -> Request | None:
        limiter = self._limiter
        with self.lock:
            asking = [bucket.asking.popleft() for _ in range(min(MOST_ASKERS, len(bucket.asking)))]
            if bucket.asking:
                self._wanting[bucket] = True
            self._asked.update(asking)
            returned = 0
            if bucket.left > 0 and bucket.lapses <= now:  # nobody takes them any more
                returned, bucket.left = bucket.left, 0
                bucket.batch //= 2
            close_for, bucket.close_for = bucket.close_for, 0.0
            owed, bucket.owed = bucket.owed, ("", 0)
        extra = self._batch(bucket, now) if wanted and not limiter.strict and now >= bucket.closed_until else 0
        if not (asking or extra or returned or owed[1] or close_for > 0):
            return None
        burst = round(bucket.tolerance / bucket.interval) + 1
        args = self._terms(burst, len(asking), extra, returned, max(0, math.ceil(close_for * _NS)), owed)

        def answer(reply: Any, sent: float, received: float) -> None:
            self._answered(bucket, asking, reply)

        return Request("take", bucket.key, args, answer)

    def _terms(
        self,
        burst: int,
        askers: int = 0,
        extra: int = 0,
        returned: int = 0,
        close: int = 0,
        owed: tuple[str, int] = ("", 0),
    ) -> tuple[int | str, ...]:
        limiter = self._limiter
        interval = math.ceil(limiter.per / limiter.rate * _NS)
        most = math.ceil(limiter.max_wait * _NS)
        return interval, burst, most, askers, extra, returned, close, self._fleet.host_time(), *owed

    def _batch(self, bucket: SharedBucket, now: float) -> int:
        """How many permits to fetch beyond those that are asked for: more where the last ones went quickly."""
        most = max(0, min(LARGEST_BATCH, (round(bucket.tolerance / bucket.interval) + 1) // 8))
        if now - bucket.filled_at < BATCH_LASTS / 4:
            bucket.batch = min(most, max(1, 2 * bucket.batch))
            bucket.low = max(1, bucket.batch // 2)
        bucket.filled_at = now
        return max(0, min(most, bucket.batch) - bucket.left)

    def _answered(self, bucket: SharedBucket, asking: list[Asking], reply: Any) -> None:
        served, extra, soonest, mark, *waits = reply
        now = self._limiter.clock.now()
        spare = extra
        with self.lock:
            self._asked_at = None
            self._asked.difference_update(asking)
            if soonest and not self.strict:
                bucket.denied_until = now + soonest / _NS
            last = mark.decode() if extra == 0 else ""
            waiting = [asker for asker in asking if not asker.gone]
            unused = waits[len(waiting) :]  # of those who went away: the last ones, which can be given back
            for number, (asker, wait) in enumerate(zip(waiting, waits, strict=False), 1):
                if not asker.serve(wait / _NS, last if number == served else ""):
                    last, unused = "", [*unused, wait]  # his loop has ended in this moment
            for asker in waiting[served:]:
                asker.serve(-1.0 - max(soonest, 1) / _NS, "")
            if self.strict or any(unused):
                self._owe(bucket, last, len(unused))
            else:
                spare += len(unused)
            if spare:
                bucket.left = spare + (bucket.left if bucket.lapses > now else 0)
                bucket.lapses = now + BATCH_LASTS
                self._holding.add(bucket)
                self._look_at = 0.0

    def lost(self, now: float) -> None:
        with self.lock:
            self.alone = True
            for bucket in self._buckets():
                bucket.alone = True
                bucket.left = 0
                self._asked.update(bucket.asking)
                bucket.asking.clear()
            for asking in self._asked:
                asking.waiter.wake()  # without an answer: he decides by himself
            self._asked = set()
            self._asked_at = None
            self._wanting = {}
            self._holding = set()

    def found(self, now: float) -> None:
        """The next answer tells."""

    def proven(self) -> bool:
        return not self.alone

    def _buckets(self) -> list[SharedBucket]:
        return [*self._limiter.all_buckets(), *(bucket for bucket in self._wanting)]

    def after_fork(self) -> None:
        renew(self._limiter._lock)
        self._clear()
        for bucket in self._limiter.all_buckets():
            bucket.lock = self.lock
            bucket.left = 0  # the parent's
            bucket.asking.clear()
            bucket.alone = False

    def goodbye(self, now: float) -> list[Request]:
        with self.lock:
            for bucket in self._holding:
                bucket.lapses = -math.inf
        return self.requests(now)
