"""How many calls may run at once, learnt from how long they take: four laws, each a value that begins a limit.

    Vegas       queue = ceil(limit * (1 - no_load / rtt)); grow while it is short, shrink while it is long
    Gradient2   limit * clamp(1.5 * long / short, 0.5, 1) + 4, smoothed
    AIMD        + 1 while used, * 0.9 on a failure or a time-out
    Steady      windows of samples against a baseline; the default, made to survive long incidents

Sources of the first three: Netflix concurrency-limits (VegasLimit, Gradient2Limit, AIMDLimit), Apache 2.0.

`Steady` differs where those fail in an incident that lasts:
* the baseline is frozen while the limit is being lowered, so that a slow dependency never becomes the normal one;
* latencies up to `healthy_latency` never lower the limit (guardrail);
* a sample that began under an older limit is not held against the present one: every permit carries the epoch;
* after `remeasure_after` windows at the minimum, where the queue is not ours, the baseline is taken anew.

What must never happen: a limit below `minimum` or above `maximum`; a limit that grows while it is not used.

The caller holds a lock around every method here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from attrs import field, frozen

from resilience_core import _validation as check
from resilience_core._errors import ConfigurationError
from resilience_core._validation import to_optional_seconds, to_seconds

Random: TypeAlias = Callable[[], float]


class Limit(Protocol):
    """A limit that learns. `limit` is a real number; its integer part counts."""

    limit: float

    def sample(self, rtt: float, in_flight: int, dropped: bool, now: float, random: Random) -> str | None:
        """Learn from a call that took `rtt` seconds with `in_flight` calls at its end; the reason when it changes."""
        ...


class LimitLaw(Protocol):
    """A value that begins a limit."""

    def start(self) -> Limit: ...


def _refuse_disorder(law: Any) -> None:
    if not law.minimum <= law.initial <= law.maximum:
        raise ConfigurationError(
            f"{type(law).__name__}: initial ({law.initial}) must lie between minimum ({law.minimum}) and "
            f"maximum ({law.maximum})"
        )


def _within(law: Any, limit: float) -> float:
    """`limit`, as far as the law allows it."""
    return float(min(getattr(law, "maximum", limit), max(getattr(law, "minimum", limit), limit)))


class _LawfulLimit:
    """A limit whose law can be replaced by another one of the same kind."""

    __slots__ = ("_law", "limit")
    _law: Any
    limit: float

    def adopt(self, law: Any) -> None:
        """Go on under that law with what was learnt."""
        self._law = law
        self.limit = _within(law, self.limit)


def log10_root(limit: float) -> int:
    """The integer part of log10, at least 1: the step that suits a limit of that size."""
    return max(1, int(math.log10(max(1, int(limit)))))


@frozen
class AIMD:
    """Additive increase, multiplicative decrease: +1 while at least half used, * `backoff` on failure or time-out."""

    initial: int = field(default=20, kw_only=True, validator=check.count_from(0))
    minimum: int = field(default=20, kw_only=True, validator=check.count_from(0))
    maximum: int = field(default=200, kw_only=True, validator=check.count_from(1))
    backoff: float = field(default=0.9, kw_only=True, validator=check.ratio)
    timeout: float = field(default=5.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)

    def __attrs_post_init__(self) -> None:
        _refuse_disorder(self)

    def start(self) -> AIMDLimit:
        """The initial limit."""
        return AIMDLimit(self)


class AIMDLimit(_LawfulLimit):
    """The state of an `AIMD`."""

    __slots__ = ()

    def __init__(self, law: AIMD) -> None:
        self._law = law
        self.limit: float = float(law.initial)

    def sample(self, rtt: float, in_flight: int, dropped: bool, now: float, random: Random) -> str | None:
        """Learn from one call."""
        law, before = self._law, self.limit
        if dropped or rtt > law.timeout:
            reason, limit = "overload" if dropped else "latency", float(int(before * law.backoff))
        elif in_flight * 2 >= before:
            reason, limit = "headroom", before + 1
        else:
            return None
        self.limit = float(min(law.maximum, max(law.minimum, limit)))
        return reason if self.limit != before else None


@frozen
class Vegas:
    """Estimates the queue from the latency above that without load, as TCP Vegas does.

    `alpha`, `beta` and `threshold` are multiples of log10 of the limit; `alpha_exact` and `beta_exact` replace them.
    """

    initial: int = field(default=20, kw_only=True, validator=check.count_from(1))
    minimum: int = field(default=1, kw_only=True, validator=check.count_from(1))
    maximum: int = field(default=1000, kw_only=True, validator=check.count_from(1))
    alpha: float = field(default=3.0, kw_only=True, validator=check.positive_number)
    beta: float = field(default=6.0, kw_only=True, validator=check.positive_number)
    alpha_exact: int | None = field(default=None, kw_only=True, validator=check.optional(check.count_from(1)))
    beta_exact: int | None = field(default=None, kw_only=True, validator=check.optional(check.count_from(1)))
    smoothing: float = field(default=1.0, kw_only=True, validator=check.ratio)
    probe_multiplier: int = field(default=30, kw_only=True, validator=check.count_from(1))

    def __attrs_post_init__(self) -> None:
        _refuse_disorder(self)

    def start(self) -> VegasLimit:
        """The initial limit."""
        return VegasLimit(self)


class VegasLimit(_LawfulLimit):
    """The state of a `Vegas`."""

    __slots__ = ("_no_load", "_probe_jitter", "_samples")

    def __init__(self, law: Vegas) -> None:
        self._law = law
        self.limit: float = float(law.initial)
        self._no_load = 0.0
        self._samples = 0
        self._probe_jitter = 1.0

    def sample(self, rtt: float, in_flight: int, dropped: bool, now: float, random: Random) -> str | None:
        """Learn from one call; raises `ValueError` for a latency that is not positive."""
        if not rtt > 0:
            raise ValueError(f"a latency must be positive, not {rtt!r}")
        law = self._law
        self._samples += 1
        if self._samples > law.probe_multiplier * self.limit * self._probe_jitter:
            self._samples = 0
            self._probe_jitter = 0.5 + random() / 2
            self._no_load = rtt  # the dependency may have become slower for good
            return None
        if not self._no_load or rtt < self._no_load:
            self._no_load = rtt
            if not dropped:
                return None
        return self._update(rtt, in_flight, dropped)

    def _update(self, rtt: float, in_flight: int, dropped: bool) -> str | None:
        law, limit = self._law, self.limit
        step = log10_root(limit)
        alpha = law.alpha_exact or int(law.alpha * step)
        beta = law.beta_exact or int(law.beta * step)
        queue = math.ceil(limit * (1 - self._no_load / rtt))
        if dropped:
            reason, target = "overload", limit - step
        elif in_flight * 2 < limit:
            return None
        elif queue <= step:
            reason, target = "headroom", limit + beta
        elif queue < alpha:
            reason, target = "headroom", limit + step
        elif queue > beta:
            reason, target = "latency", limit - step
        else:
            return None
        target = min(float(law.maximum), max(float(law.minimum), target))
        self.limit = (1 - law.smoothing) * limit + law.smoothing * target
        return reason if int(self.limit) != int(limit) else None


class Ewma:
    """An average: at first the mean of `warmup` samples, then forgetting exponentially by 2 / (window + 1)."""

    __slots__ = ("_count", "_factor", "_sum", "_warmup", "value")

    def __init__(self, window: int, warmup: int) -> None:
        self._factor = 2.0 / (window + 1)
        self._warmup = warmup
        self._count = 0
        self._sum = 0.0
        self.value = 0.0

    def look_back(self, window: int) -> None:
        """Forget by another window from now on."""
        self._factor = 2.0 / (window + 1)

    def add(self, sample: float) -> float:
        """Take one sample in; the average."""
        if self._count < self._warmup:
            self._count += 1
            self._sum += sample
            self.value = self._sum / self._count
        else:
            self.value = self.value * (1 - self._factor) + sample * self._factor
        return self.value


@frozen
class Gradient2:
    """Compares the latest latency with a long average; shrinks when it is more than `tolerance` times as long."""

    initial: int = field(default=20, kw_only=True, validator=check.count_from(1))
    minimum: int = field(default=20, kw_only=True, validator=check.count_from(1))
    maximum: int = field(default=200, kw_only=True, validator=check.count_from(1))
    tolerance: float = field(default=1.5, kw_only=True, validator=check.multiplier)
    queue: int = field(default=4, kw_only=True, validator=check.count_from(0))
    smoothing: float = field(default=0.2, kw_only=True, validator=check.ratio)
    long_window: int = field(default=600, kw_only=True, validator=check.count_from(1))

    def __attrs_post_init__(self) -> None:
        _refuse_disorder(self)

    def start(self) -> Gradient2Limit:
        """The initial limit."""
        return Gradient2Limit(self)


class Gradient2Limit(_LawfulLimit):
    """The state of a `Gradient2`."""

    __slots__ = ("_long",)

    def __init__(self, law: Gradient2) -> None:
        self._law = law
        self._long = Ewma(law.long_window, warmup=10)
        self.limit: float = float(law.initial)

    def adopt(self, law: Gradient2) -> None:
        """Go on under that law with the average that was learnt."""
        super().adopt(law)
        self._long.look_back(law.long_window)

    def sample(self, rtt: float, in_flight: int, dropped: bool, now: float, random: Random) -> str | None:
        """Learn from one call; a latency of 0 or less says nothing."""
        if not rtt > 0:
            return None
        law, before = self._law, self.limit
        long = self._long.add(rtt)
        if long / rtt > 2:
            self._long.value = long * 0.95  # an overload has ended: forget it faster
        if in_flight < before / 2:
            return None
        gradient = max(0.5, min(1.0, law.tolerance * long / rtt))
        target = before * gradient + law.queue
        limit = before * (1 - law.smoothing) + target * law.smoothing
        self.limit = float(max(law.minimum, min(law.maximum, limit)))
        if int(self.limit) == int(before):
            return None
        return "headroom" if self.limit > before else "latency"


@frozen
class Steady:
    """The default. Judges windows of samples against a baseline that an incident cannot spoil.

    At the end of each window of at least `window` seconds and `minimum_samples` calls:
    over `overload_share` of them failed: * `backoff`; else with gradient = baseline / mean latency:
    below 1 / `tolerance` (and latency above `healthy_latency`): * max(0.5, gradient * tolerance), baseline untouched;
    otherwise + sqrt(limit) if at least half of it was used. The baseline follows a shorter latency at once, and a
    longer one by a tenth a window while less than half of the limit is used, when the queue cannot be ours.
    """

    initial: int = field(default=20, kw_only=True, validator=check.count_from(1))
    minimum: int = field(default=4, kw_only=True, validator=check.count_from(1))
    maximum: int = field(default=1000, kw_only=True, validator=check.count_from(1))
    tolerance: float = field(default=1.5, kw_only=True, validator=check.multiplier)
    healthy_latency: float | None = field(
        default=None, kw_only=True, converter=to_optional_seconds, validator=check.optional(check.positive_seconds)
    )
    overload_share: float = field(default=0.1, kw_only=True, validator=check.ratio)
    backoff: float = field(default=0.9, kw_only=True, validator=check.ratio)
    window: float = field(default=1.0, kw_only=True, converter=to_seconds, validator=check.positive_seconds)
    minimum_samples: int = field(default=10, kw_only=True, validator=check.count_from(1))
    remeasure_after: int = field(default=60, kw_only=True, validator=check.count_from(1))

    def __attrs_post_init__(self) -> None:
        _refuse_disorder(self)

    def start(self) -> SteadyLimit:
        """The initial limit."""
        return SteadyLimit(self)


class SteadyLimit(_LawfulLimit):
    """The state of a `Steady`."""

    __slots__ = (
        "_at_minimum",
        "_busiest",
        "_calls",
        "_dropped",
        "_since",
        "_sum",
        "_timed",
        "baseline",
    )

    def __init__(self, law: Steady) -> None:
        self._law = law
        self.limit: float = float(law.initial)
        self.baseline: float | None = None
        self._at_minimum = 0
        self._since: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._calls = self._dropped = self._timed = self._busiest = 0
        self._sum = 0.0

    def sample(self, rtt: float, in_flight: int, dropped: bool, now: float, random: Random) -> str | None:
        """Learn from one call; most only fill the window."""
        if self._since is None:
            self._since = now
        self._calls += 1
        self._busiest = max(self._busiest, in_flight)
        if dropped:
            self._dropped += 1
        elif rtt > 0:
            self._timed += 1
            self._sum += rtt
        law = self._law
        if now - self._since < law.window or self._calls < law.minimum_samples:
            return None
        before = self.limit
        reason = self._judge()
        self._since = now
        self._begin()
        return reason if int(self.limit) != int(before) or reason == "remeasured" else None

    def _judge(self) -> str:
        law = self._law
        if self._dropped > law.overload_share * self._calls:
            self._set(self.limit * law.backoff)
            return "overload"
        if not self._timed:
            return "idle"
        latency = self._sum / self._timed
        if self.baseline is None:
            self.baseline = latency
        gradient = self.baseline / latency
        healthy = law.healthy_latency is not None and latency <= law.healthy_latency
        if gradient * law.tolerance < 1 and not healthy:
            if self._at_minimum >= law.remeasure_after:
                self.baseline = latency
                self._at_minimum = 0
                return "remeasured"
            self._set(self.limit * max(0.5, gradient * law.tolerance))
            self._at_minimum = self._at_minimum + 1 if self.limit <= law.minimum else 0
            return "latency"
        self._at_minimum = 0
        used = self._busiest * 2 >= self.limit
        # Down at once, for a shorter latency is the truth; up slowly, and only while the queue cannot be ours.
        self.baseline = min(latency, self.baseline if used else self.baseline * 0.9 + latency * 0.1)
        if used:
            self._set(self.limit + math.sqrt(self.limit))
        return "headroom"

    def _set(self, limit: float) -> None:
        self.limit = float(min(self._law.maximum, max(self._law.minimum, limit)))


class Slots:
    """Calls in flight against the limit, with priorities and fairness.

    Classes 0 (most important) to 4 may use 100, 95, 90, 75 and 50 % of the limit, so the lowest is shed first. When
    more than half of the limit is taken, one user may hold at most an equal share of it.
    """

    __slots__ = ("_users", "epoch", "in_flight", "law_limit")
    SHARES = (1.0, 0.95, 0.9, 0.75, 0.5)

    def __init__(self, law: LimitLaw) -> None:
        self.law_limit = law.start()
        self.in_flight = 0
        self.epoch = 0  # goes up with every change of the limit
        self._users: dict[Any, int] = {}  # those with calls in flight, and how many

    def adopt(self, law: LimitLaw) -> None:
        """Go on under another law, with what was learnt where it is of the same kind, else with the limit alone."""
        fresh, present = law.start(), self.law_limit
        if isinstance(present, _LawfulLimit) and type(present) is type(fresh):
            present.adopt(law)
        else:
            fresh.limit = _within(law, present.limit)
            self.law_limit = fresh
        self.epoch += 1  # calls under way were admitted under another law, and teach nothing of this one

    @property
    def limit(self) -> int:
        """Calls that may run at once."""
        return max(1, int(self.law_limit.limit))

    @property
    def users(self) -> int:
        """Users with calls in flight."""
        return len(self._users)

    def admit(self, level: int | None, user: Any) -> str | None:
        """Take a slot; None when it was taken, else why not: `limit`, `shed` or `unfair`."""
        limit = self.limit
        if self.in_flight >= limit:
            return "limit"
        if level is not None and self.in_flight >= max(1, math.ceil(limit * self.SHARES[level])):
            return "shed"
        if user is not None:
            held = self._users.get(user, 0)
            others = len(self._users) + (held == 0)
            if self.in_flight * 2 >= limit and held >= max(1, math.ceil(limit / others)):
                return "unfair"
            self._users[user] = held + 1
        self.in_flight += 1
        return None

    def release(self, user: Any) -> None:
        """Give a slot back."""
        self.in_flight -= 1
        if user is not None:
            held = self._users[user] - 1
            if held:
                self._users[user] = held
            else:
                del self._users[user]

    def learn(
        self, rtt: float, in_flight: int, dropped: bool, epoch: int, now: float, random: Random
    ) -> tuple[int, int, str] | None:
        """Learn from a call that was admitted in `epoch`; (limit before, limit, reason) when it changes.

        A call of an older epoch was slow or failed under another limit, and teaches nothing of this one.
        """
        if epoch != self.epoch:
            return None
        before = self.limit
        reason = self.law_limit.sample(rtt, in_flight, dropped, now, random)
        if reason is None or (self.limit == before and reason != "remeasured"):
            return None
        self.epoch += 1
        return before, self.limit, reason
