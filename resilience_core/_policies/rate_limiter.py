"""Limit how many calls start per time: the rate limiter. Its law, GCRA, is in `_machines/bucket.py`."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, NoReturn

from attrs import define, field, setters

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError, RateLimitedError, RejectionReason
from resilience_core._machines.bucket import ASK, Bucket
from resilience_core._schema import LIMITER_WAIT
from resilience_core._story import note
from resilience_core._telemetry import Wait, telemetry
from resilience_core._validation import to_seconds
from resilience_core._verdicts import Classifier, Judge, Judgement, Verdict
from resilience_core._weave.deadline import within_deadline
from resilience_core._weave.gate import Gate, stream_gate, stream_gate_async
from resilience_core._weave.rejections import tell_rejection
from resilience_core._weave.sharing import Fleet
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site
from resilience_core._weave.waiting import ThreadWaiter, async_waiter, pause, pause_async


@define(eq=False, on_setattr=setters.frozen)
class RateLimiter(Gate):
    """Starts at most `rate` calls per `per` seconds, with up to `burst` at once after a rest.

    An outcome judged `THROTTLED` with `retry_after` closes the limiter (that key of it) for so long.

    Args:
        name: identifies the limiter in errors, events and metrics.
        rate: calls per period.
        per: the period, in seconds (or timedelta).
        burst: calls that may start at once after a rest; default `rate`, rounded down, at least 1.
        key: a function of the guarded call's arguments; each key has a limit of its own (per user, per recipient).
            Keys are kept in memory and appear nowhere else.
        max_keys: keys remembered; beyond, the one used longest ago is forgotten (a bucket at rest loses nothing).
        max_wait: seconds that a call may wait for its turn; 0 rejects at once. A nearer deadline shortens it.
        classify: judges exceptions, to learn of throttling; default the pipeline's classifier.
        enforce: share of the limit's effect (shadow mode below 1): a call without a permit that is spared neither
            waits nor takes one.
        fleet: the limit is one for all processes that have a limiter of this name in the same fleet (a `RedisFleet`).
        strict: every permit is fetched from the fleet's store by itself: exact, and a round trip for each call. Else
            permits are fetched in batches.
        fail_closed: reject while the store cannot be reached; else each process limits itself meanwhile.

    Raises:
        RateLimitedError: from the guarded call, which was not made; `retry_after` is the time to its turn.
    """

    kind: ClassVar[str] = "rate_limiter"

    name: str = field(validator=check.name)
    rate: float = field(kw_only=True, validator=check.positive_number)
    per: float = field(default=1.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    burst: int | None = field(default=None, kw_only=True, validator=check.optional(check.count_from(1)))
    key: Callable[..., Hashable] | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    max_keys: int = field(default=10_000, kw_only=True, validator=check.count_from(1))
    max_wait: float = field(default=0.0, kw_only=True, converter=to_seconds, validator=check.non_negative_seconds)
    classify: Classifier | None = field(default=None, kw_only=True, validator=check.optional(check.function))
    fleet: Fleet | None = field(
        default=None, kw_only=True, repr=False, validator=check.optional(check.has("share_limiter", "a RedisFleet"))
    )
    strict: bool = field(default=False, kw_only=True, validator=check.boolean)
    fail_closed: bool = field(default=False, kw_only=True, validator=check.boolean)
    spares_itself: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = Gate.fixed | {"fleet", "strict", "fail_closed"}
    _bucket: Bucket = field(init=False, repr=False, on_setattr=setters.NO_OP)
    _keyed: OrderedDict[Hashable, Bucket] = field(init=False, repr=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, repr=False, factory=threading.Lock)
    _rejected: int = field(init=False, repr=False, default=0, on_setattr=setters.NO_OP)
    _shared: Any = field(init=False, repr=False, default=None, on_setattr=setters.NO_OP)

    def _validate(self) -> None:
        if self.fleet is None and (self.strict or self.fail_closed):
            raise ConfigurationError("RateLimiter: strict and fail_closed tell how a limit is shared: give fleet=, too")

    def _build(self) -> None:
        if self.fleet is not None:
            self._shared = self.fleet.share_limiter(self)
        self._bucket = self._new_bucket()
        self.judge_by(None, self.classify)

    def _adopt(self, other: RateLimiter, changed: frozenset[str]) -> None:
        Gate._adopt(self, other, changed)
        now, interval, burst = self.clock.now(), self.per / self.rate, self.most_at_once()
        with self._lock:
            while len(self._keyed) > self.max_keys:
                self._keyed.popitem(last=False)
            for bucket in (self._bucket, *self._keyed.values()):
                bucket.retune(interval, burst, now)

    def _new_bucket(self, key: Hashable = None) -> Bucket:
        if self._shared is not None:
            shared: Bucket = self._shared.bucket(key)
            return shared
        return Bucket(self.per / self.rate, self.most_at_once())

    def most_at_once(self) -> int:
        """Calls that may start at once after a rest."""
        return max(1, int(self.rate)) if self.burst is None else self.burst

    def all_buckets(self) -> list[Any]:
        """Those of all keys, and the one that stands for none."""
        with self._lock:
            return [self._bucket, *self._keyed.values()]

    def wait_for(self, *args: Any, **kwargs: Any) -> float:
        """Seconds after which a call with these arguments could start; 0 for at once. Takes no permit.

        In a fleet: as far as this process knows without asking.
        """
        bucket = self._bucket if self.key is None else self._keyed.get(self.key(*args, **kwargs))
        return 0.0 if bucket is None else bucket.wait(self.clock.now())

    def spend(self, *args: Any, **kwargs: Any) -> None:
        """Count a call with these arguments that nobody can hold back: those after it wait for longer.

        In a fleet that shares the limit it takes a permit at hand, and is not counted where there is none.
        """
        bucket = self._bucket if self.key is None else self._bucket_of(args, kwargs)
        bucket.take(self.clock.now(), math.inf)

    def close_for(self, seconds: float, *args: Any, **kwargs: Any) -> None:
        """Start no call with these arguments for so many seconds, as after an outcome judged `THROTTLED`.

        In a fleet that shares the limit nobody does.
        """
        bucket = self._bucket if self.key is None else self._bucket_of(args, kwargs)
        bucket.close_until(self.clock.now() + seconds)

    def at_rest(self) -> bool:
        """Whether all permits are there."""
        now = self.clock.now()
        buckets = [self._bucket, *self._keyed.values()]
        return all(bucket.at_rest(now) for bucket in buckets)

    def snapshot(self) -> dict[str, Any]:
        """Permits a second, permits at hand (without `key`), keys remembered, rejections so far."""
        now = self.clock.now()
        return {
            "rate": self.rate / self.per,
            "available": None if self.key is not None else self._bucket.available(now),
            "keys": len(self._keyed),
            "rejected": self._rejected,
            "would_reject": self.spared,
        }

    def _sentence(self) -> str:
        keyed = " for each key" if self.key is not None else ""
        waits = f", waits up to {self.max_wait:g} s" if self.max_wait else ""
        burst = self.most_at_once()
        return f"rate limiter {self.name!r}: {self.rate:g} calls per {self.per:g} s{keyed}, burst {burst}{waits}"

    # --- the gate ----------------------------------------------------------------------------------------------

    def enter(self, args: Args, kwargs: Kwargs) -> Bucket:
        """Take a permit, waiting for it if that is allowed."""
        bucket = self._bucket if self.key is None else self._bucket_of(args, kwargs)
        wait = bucket.take(self.clock.now(), self.max_wait)
        if wait:
            self._wait(bucket, wait, "block")
        return bucket

    async def enter_async(self, args: Args, kwargs: Kwargs) -> Bucket:
        """Take a permit, waiting for it if that is allowed."""
        bucket = self._bucket if self.key is None else self._bucket_of(args, kwargs)
        wait = bucket.take(self.clock.now(), self.max_wait)
        if wait:
            await self._wait_async(bucket, wait, "block")
        return bucket

    def settle(self, permit: Bucket, judgement: Judgement) -> None:
        """Close the bucket for as long as a throttled outcome asks."""
        if judgement.verdict is Verdict.THROTTLED and judgement.retry_after:
            permit.close_until(self.clock.now() + judgement.retry_after)

    def _bucket_of(self, args: Args, kwargs: Kwargs) -> Bucket:
        assert self.key is not None
        key = self.key(*args, **kwargs)
        keyed = self._keyed
        with self._lock:
            bucket = keyed.get(key)
            if bucket is None:
                bucket = keyed[key] = self._new_bucket(key)
                if len(keyed) > self.max_keys:
                    keyed.popitem(last=False)
            else:
                keyed.move_to_end(key)
        return bucket

    def _wait(self, bucket: Bucket, wait: float, operation: str) -> None:
        mark = None
        if wait == ASK:
            asking = self._ask(bucket, ThreadWaiter())
            try:
                asking.waiter.wait(asking.patience, True)
            except BaseException:
                asking.abandon()
                raise
            wait = asking.answer(self.clock.now(), self.max_wait)
            if not wait:
                return
            mark = asking.mark
        reserved = self._reservation(bucket, wait, operation, mark)
        if reserved is None:
            return
        timed = Wait("rate_limiter", LIMITER_WAIT, self.name, self.clock) if telemetry.recording else None
        try:
            pause(self.clock, wait)
        except BaseException:
            bucket.give_back(reserved)
            if timed is not None:
                timed.over("cancelled")
            raise
        if timed is not None:
            timed.over("acquired")

    async def _wait_async(self, bucket: Bucket, wait: float, operation: str) -> None:
        mark = None
        if wait == ASK:
            asking = self._ask(bucket, async_waiter())
            try:
                await asking.waiter.wait(asking.patience, True)
            except BaseException:
                asking.abandon()
                raise
            wait = asking.answer(self.clock.now(), self.max_wait)
            if not wait:
                return
            mark = asking.mark
        reserved = self._reservation(bucket, wait, operation, mark)
        if reserved is None:
            return
        timed = Wait("rate_limiter", LIMITER_WAIT, self.name, self.clock) if telemetry.recording else None
        try:
            await pause_async(self.clock, wait)
        except BaseException:
            bucket.give_back(reserved)
            if timed is not None:
                timed.over("cancelled")
            raise
        if timed is not None:
            timed.over("acquired")

    def _ask(self, bucket: Any, waiter: Any) -> Any:
        """Put a question to the fleet's store; the answer is for the waiter."""
        return bucket.ask(waiter)

    def _reservation(self, bucket: Bucket, wait: float, operation: str, mark: Any) -> Any:
        """The mark of a reservation that is to be waited for; None where shadow mode lets the call go without one.

        Rejects where there is neither a permit nor time to wait for one.
        """
        reserved = None if wait < 0 else bucket.mark() if mark is None else mark
        needed = -1.0 - wait if wait < 0 else wait
        spared = self.spares(RejectionReason.RATE_LIMITED, operation, needed)
        if reserved is not None and not spared and within_deadline(wait) >= wait:
            return reserved
        if reserved is not None:
            bucket.give_back(reserved)
        if not spared:
            self._reject(bucket, needed, operation)
        return None

    def _reject(self, bucket: Bucket, retry_after: float, operation: str) -> NoReturn:
        self._rejected += 1
        now, total, reason = self.clock.now(), self._rejected, RejectionReason.RATE_LIMITED
        tell_rejection(self.bus, self.name, now, reason, operation, retry_after, total=total)
        inputs = {
            "kind": self.kind,
            "rate": self.rate,
            "per": self.per,
            "burst": self.most_at_once(),
            "wait": retry_after,
            "patience": within_deadline(self.max_wait),
            "closed_for": max(0.0, bucket.closed_until - self.clock.now()),
            "keyed": self.key is not None,
        }
        raise RateLimitedError(self.name, RejectionReason.RATE_LIMITED, retry_after, inputs=inputs)

    def _learn(self, bucket: Bucket, error: Exception, judge: Judge, operation: str) -> None:
        judgement = judge(error)
        self.settle(bucket, judgement)
        if judgement.verdict is Verdict.THROTTLED and judgement.retry_after:
            at, closed_for = self.clock.wall(), judgement.retry_after
            note(error, at, self.kind, self.name, operation, "closed_for", closed_for)

    # --- the weaves ----------------------------------------------------------------------------------------------

    def bind(self, call: Call, site: Site) -> Call:
        """Weave the limiter around a blocking call."""
        if site.streaming:
            return stream_gate(self, call, site)
        bucket_of, clock, max_wait = self._finder(site), self.clock, self.max_wait
        wait_for, judge, learn, operation = self._wait, self.judge_at(site), self._learn, site.operation
        only = self._bucket if self.key is None else None

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            bucket = only or bucket_of(args, kwargs)
            now = clock.now()
            if bucket.tat <= now and bucket.closed_until <= now:  # at rest: `take`, without its frame and as atomic
                bucket.tat = now + bucket.interval
            else:
                wait = bucket.take(now, max_wait)
                if wait:
                    wait_for(bucket, wait, operation)
            try:
                return call(args, kwargs)
            except Exception as error:
                learn(bucket, error, judge, operation)
                raise

        return guarded

    def bind_async(self, call: AsyncCall, site: Site) -> AsyncCall:
        """Weave the limiter around an async call."""
        if site.streaming:
            return stream_gate_async(self, call, site)
        bucket_of, clock, max_wait = self._finder(site), self.clock, self.max_wait
        wait_for, judge, learn, operation = self._wait_async, self.judge_at(site), self._learn, site.operation
        only = self._bucket if self.key is None else None

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            bucket = only or bucket_of(args, kwargs)
            now = clock.now()
            if bucket.tat <= now and bucket.closed_until <= now:  # at rest: `take`, without its frame and as atomic
                bucket.tat = now + bucket.interval
            else:
                wait = bucket.take(now, max_wait)
                if wait:
                    await wait_for(bucket, wait, operation)
            try:
                return await call(args, kwargs)
            except Exception as error:
                learn(bucket, error, judge, operation)
                raise

        return guarded

    def _finder(self, site: Site) -> Callable[[Args, Kwargs], Bucket]:
        arguments, bucket_of = site.arguments, self._bucket_of

        def find(args: Args, kwargs: Kwargs) -> Bucket:
            return bucket_of(*arguments(args, kwargs))

        return find
