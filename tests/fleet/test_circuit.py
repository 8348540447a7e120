"""One circuit, many members: real agents and a real Redis, several members in this process."""

from __future__ import annotations

import json

import pytest

from resilience_core import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConfigurationError,
    ConsecutiveFailures,
    Event,
    FailureRate,
    Keyed,
    RampStep,
    RecordIgnored,
    RecoveryBackoff,
    SlowCallRate,
    TimeWindow,
    Verdict,
    explain,
)
from tests.fleet.members import PATIENCE, Fleets, fail, ok, run_in, wait_until
from tests.worlds import World

OPEN, CLOSED = CircuitState.OPEN, CircuitState.CLOSED


def flushed(*breakers: CircuitBreaker) -> None:
    for breaker in breakers:
        assert breaker.fleet.flush(PATIENCE)


def all_become(state: CircuitState, breakers: list[CircuitBreaker]) -> None:
    wait_until(lambda: all(breaker.state is state for breaker in breakers), f"all {state}")


def test_failures_of_all_members_count_together(fleets: Fleets) -> None:
    first, second, third = fleets.breakers(3)
    fail(first, 2)
    fail(second, 2)
    flushed(first, second)
    assert json.loads(fleets.record())["failures"] == 4
    assert {breaker.state for breaker in (first, second, third)} == {CLOSED}
    fail(third)
    all_become(OPEN, [first, second, third])
    assert ok(first) == ok(second) == ok(third) == "rejected"
    assert first.snapshot()["reason"] == "remote"


def test_failures_of_many_threads_at_once_are_all_counted(fleets: Fleets) -> None:
    breakers = fleets.breakers(4, failure_threshold=1_000)
    for breaker in breakers:
        fail(breaker, 50)
    flushed(*breakers)
    assert json.loads(fleets.record())["failures"] == 200


def test_a_success_of_any_member_resets_the_count(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    fail(first, 4)
    flushed(first)
    wait_until(lambda: second._shared.alert)
    assert ok(second) == "ok"
    flushed(second)
    wait_until(lambda: json.loads(fleets.record())["failures"] == 0)
    wait_until(lambda: not second._shared.alert)
    fail(second, 4)
    flushed(second)
    assert second.state is CLOSED


def test_a_success_is_not_reported_while_nothing_has_failed(fleets: Fleets) -> None:
    first, _ = fleets.breakers(2)
    written = json.loads(fleets.record())["written"]
    for _ in range(1_000):
        ok(first)
    flushed(first)
    assert json.loads(fleets.record())["written"] == written


def test_of_all_members_one_probes_and_two_good_probes_close_for_all(
    fleets: Fleets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilience_core.fleet._circuit.IDLE_HOLDER", PATIENCE)  # on a slow machine it looks idle
    breakers = fleets.breakers(4, recovery_timeout=0.2)
    fail(breakers[1], 5)
    all_become(OPEN, breakers)
    holder = wait_until(lambda: next((each for each in breakers if ok(each) == "ok"), None))
    others = [each for each in breakers if each is not holder]
    assert holder is breakers[1], "the lease belongs to who opened it"
    assert holder.state is CircuitState.HALF_OPEN
    assert [ok(each) for each in others] == ["rejected"] * 3
    flushed(holder)
    assert json.loads(fleets.record())["state"] == "half_open"
    assert ok(holder) == "ok"
    assert holder.state is CLOSED
    all_become(CLOSED, breakers)
    assert json.loads(fleets.record())["reason"] == "probe_succeeded"


def test_one_failed_probe_opens_again_for_all(fleets: Fleets) -> None:
    backoff = RecoveryBackoff(multiplier=100, max_timeout=100, jitter=0)  # once more it is open for long
    first, second = fleets.breakers(2, recovery_timeout=0.2, recovery_backoff=backoff)
    fail(first, 5)
    all_become(OPEN, [first, second])
    before = json.loads(fleets.record())
    wait_until(lambda: fail(first) == "failed")
    assert first.state is OPEN
    flushed(first)
    after = json.loads(fleets.record())
    assert (after["state"], after["reason"], after["openings"]) == ("open", "probe_failed", 2)
    assert after["epoch"] != before["epoch"]
    assert float(after["open_until"]) > float(before["open_until"])
    assert ok(second) == "rejected"


def test_open_time_grows_with_the_openings_of_the_fleet(fleets: Fleets) -> None:
    backoff = RecoveryBackoff(multiplier=3, max_timeout=100, jitter=0)
    first, second = fleets.breakers(2, recovery_timeout=0.2, recovery_backoff=backoff)
    fail(first, 3)
    fail(second, 2)
    all_become(OPEN, [first, second])
    wait_until(lambda: "failed" in (fail(first), fail(second)))
    record = wait_until(lambda: (found := json.loads(fleets.record()))["openings"] == 2 and found)
    assert float(record["open_until"]) - float(record["since"]) == pytest.approx(0.6, abs=0.05)


def test_a_member_that_is_called_takes_over_from_a_holder_that_is_not(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=0.2)
    fail(first, 5)
    all_become(OPEN, [first, second])
    wait_until(lambda: ok(second) == "ok", "the idle holder passes the lease on")
    assert ok(first) == "rejected"
    wait_until(lambda: ok(second) == "ok" and second.state is CLOSED)
    all_become(CLOSED, [first, second])


def test_a_holder_that_is_gone_loses_the_lease(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=0.2)
    fail(first, 5)
    all_become(OPEN, [first, second])
    first.fleet.agent._stopping = True  # as if it were dead: it says nothing any more
    first.fleet.agent.wake()
    wait_until(lambda: ok(second) == "ok")


def test_a_holder_that_leaves_gives_the_lease_back(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=30.0)
    fail(first, 5)
    all_become(OPEN, [first, second])
    first.fleet.close()
    record = json.loads(fleets.record())
    assert record["state"] == "open"
    assert record["lease"]["holder"] == ""


def test_a_probe_that_never_ends_is_replaced_when_its_lease_does(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=0.1, probe_timeout=0.3)
    fail(first, 5)
    all_become(OPEN, [first, second])
    guard = first.guard()
    wait_until(lambda: entered(guard))
    flushed(first)
    assert json.loads(fleets.record())["lease"]["used"] is True
    wait_until(lambda: ok(second) == "ok", "the lease ends, and another member probes")
    guard.__exit__(None, None, None)  # late: it says nothing to anybody any more
    flushed(first)
    assert json.loads(fleets.record())["lease"]["holder"] == second._shared.holder


def entered(guard: object) -> bool:
    try:
        guard.__enter__()  # type: ignore[attr-defined]
    except CircuitOpenError:
        return False
    return True


def test_late_results_change_nothing(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=0.1, success_threshold=1)
    late = [first.guard() for _ in range(5)]
    for guard in late:
        guard.__enter__()
    fail(second, 5)
    all_become(OPEN, [first, second])
    wait_until(lambda: "ok" in (ok(first), ok(second)))
    all_become(CLOSED, [first, second])
    flushed(first, second)
    before = fleets.record()
    for guard in late:
        guard.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    flushed(first, second)
    assert fleets.record() == before
    assert (first.state, second.state) == (CLOSED, CLOSED)


def test_a_quorum_must_see_trouble(fleets: Fleets) -> None:
    first, second, third = fleets.breakers(3, quorum=2, failure_threshold=3, recovery_timeout=30)
    fail(first, 3)
    flushed(first)
    assert (first.state, second.state) == (OPEN, CLOSED), "its own circuit protects the one that fails"
    assert list(json.loads(fleets.record())["votes"]) == [first._shared.holder]
    fail(second, 3)
    all_become(OPEN, [first, second, third])


def test_a_member_that_recovers_takes_its_vote_back(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, quorum=2, failure_threshold=3, recovery_timeout=0.1, success_threshold=1)
    fail(first, 3)
    flushed(first)
    wait_until(lambda: ok(first) == "ok")
    flushed(first)
    record = json.loads(fleets.record())
    assert (record["state"], record["votes"]) == ("closed", {})
    assert second.state is CLOSED


def test_failures_of_one_member_do_not_make_a_quorum(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, quorum=2, failure_threshold=5)
    fail(first, 2)
    flushed(first)
    wait_until(lambda: second._shared.alert)
    fail(second, 3)
    all_become(OPEN, [first, second])


def test_what_is_done_by_hand_reaches_everybody_with_who_why_and_until_when(fleets: Fleets) -> None:
    heard: list[Event] = []
    first, second = fleets.breakers(2)
    second.subscribe(heard.append)
    first.force_open(actor="ann", reason="maintenance", for_=600)
    all_become(CircuitState.FORCED_OPEN, [first, second])
    forced = second.snapshot()["forced"]
    assert (forced["actor"], forced["reason"]) == ("ann", "maintenance")
    assert forced["until"] - second.clock.now() == pytest.approx(600, abs=5)
    assert (heard[0].actor, heard[0].note) == ("ann", "maintenance")
    assert fleets.client.pttl(f"{fleets.prefix}circuit_breaker:graph") > 600_000
    second.reset(actor="bob")
    all_become(CLOSED, [first, second])
    first.disable()
    all_become(CircuitState.DISABLED, [first, second])
    second.force(OPEN, actor="eve")
    all_become(OPEN, [first, second])
    first.shadow(for_=2.0)
    wait_until(lambda: heard[-1].state == "shadow")
    wait_until(lambda: (ok(first), ok(second), first.state, second.state)[2:] == (CLOSED, CLOSED))


def test_by_hand_before_any_call_reaches_the_others_too(fleets: Fleets) -> None:
    (second,) = fleets.breakers(1)
    first = CircuitBreaker("graph", fleet=fleets.member())
    first.force_open(actor="ann")
    wait_until(lambda: second.state is CircuitState.FORCED_OPEN)


def test_a_forced_state_without_an_end_is_kept_alive(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, fleet_options={"ttl": 4.0, "poll_interval": 0.2})
    first.force_open()
    all_become(CircuitState.FORCED_OPEN, [first, second])

    def left() -> int:
        found = fleets.client.pttl(f"{fleets.prefix}circuit_breaker:graph")
        assert found > 0, "it has lapsed"
        return int(found)

    wait_until(lambda: left() < 2_300)
    wait_until(lambda: left() > 3_000, "it begins anew when half of its life is over")
    assert json.loads(fleets.record())["state"] == "forced_open"


def test_a_newcomer_finds_the_fleet_as_it_is_and_resets_nothing(fleets: Fleets) -> None:
    (first,) = fleets.breakers(1)
    fail(first, 4)
    flushed(first)
    newcomer = CircuitBreaker("graph", fleet=fleets.member())
    ok(newcomer)  # decided by itself: the store has not answered yet
    assert newcomer.fleet.wait_ready(PATIENCE)
    flushed(newcomer)
    fail(first)
    wait_until(lambda: newcomer.state is OPEN)
    third = CircuitBreaker("graph", fleet=fleets.member())
    ok(third)
    wait_until(lambda: third.state is OPEN)


def test_failures_before_the_store_has_answered_count(fleets: Fleets) -> None:
    breakers = [CircuitBreaker("graph", fleet=fleet) for fleet in fleets.members(5)]
    for breaker in breakers:
        fail(breaker)
    all_become(OPEN, breakers)


def test_a_ramp_is_everybodys(fleets: Fleets) -> None:
    ramp = [RampStep(0.5, 30)]
    first, second = fleets.breakers(2, recovery_timeout=0.1, success_threshold=1, ramp=ramp)
    fail(first, 5)
    all_become(OPEN, [first, second])
    wait_until(lambda: ok(first) == "ok")
    all_become(CLOSED, [first, second])
    assert [ok(second) for _ in range(4)] == ["ok", "ok", "rejected", "ok"]
    record = json.loads(fleets.record())
    assert record["openings"] == 1, "it is not closed for good while the ramp lasts"


def test_rates_are_those_of_the_fleet(fleets: Fleets) -> None:
    rule = FailureRate(0.5, window=TimeWindow(30), minimum_calls=12)
    first, second = fleets.breakers(2, trip=rule)
    for _ in range(5):
        ok(first)
        ok(second)
    fail(first, 4)
    wait_until(lambda: second._shared._windows._told.get(0, (0, 0))[0] >= 5, "the good calls of others count, too")
    assert (first.state, second.state) == (CLOSED, CLOSED)
    fail(second, 7)
    all_become(OPEN, [first, second])
    assert json.loads(fleets.record())["reason"] == "failure_ratio"


def test_slow_calls_and_combined_rules_are_shared_too(fleets: Fleets) -> None:
    rule = SlowCallRate(0.5, slower_than=5.0, window=TimeWindow(30), minimum_calls=4) | ConsecutiveFailures(3)
    first, second = fleets.breakers(2, trip=rule)
    for breaker in (first, second):
        for _ in range(2):
            permit, started = breaker.enter((), {})
            breaker._learn(permit, Verdict_success(), started - 10)
    all_become(OPEN, [first, second])
    assert json.loads(fleets.record())["reason"] == "slow_ratio"
    first.reset()
    all_become(CLOSED, [first, second])
    fail(first, 2)
    flushed(first)
    fail(second)
    all_become(OPEN, [first, second])


def Verdict_success() -> object:
    from resilience_core import Judgement

    return Judgement(Verdict.SUCCESS)


def test_a_lost_record_closes_no_circuit_that_is_open(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=30)
    fail(first, 5)
    all_become(OPEN, [first, second])
    fleets.client.delete(f"{fleets.prefix}circuit_breaker:graph")
    newcomer = CircuitBreaker("graph", fleet=fleets.member())
    ok(newcomer)
    wait_until(lambda: newcomer.state is OPEN, "what the lost record said is said again")
    assert (first.state, second.state) == (OPEN, OPEN)


def test_a_lost_record_of_a_circuit_that_is_due_is_made_anew_by_who_would_probe(fleets: Fleets) -> None:
    first, second = fleets.breakers(2, recovery_timeout=0.3)
    fail(first, 5)
    all_become(OPEN, [first, second])
    first.fleet.agent._stopping = True  # the holder is dead
    first.fleet.agent.wake()
    fleets.client.delete(f"{fleets.prefix}circuit_breaker:graph")
    wait_until(lambda: ok(second) == "ok")
    assert second.state is CircuitState.HALF_OPEN
    flushed(second)
    assert json.loads(fleets.record())["reason"] == "lost"


def test_a_forced_state_outlives_the_loss_of_its_record(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    first.force_open(actor="ann")
    all_become(CircuitState.FORCED_OPEN, [first, second])
    fleets.client.delete(f"{fleets.prefix}circuit_breaker:graph")
    record = wait_until(fleets.record)
    assert (json.loads(record)["state"], json.loads(record)["forced"]["actor"]) == ("forced_open", "ann")


@pytest.mark.parametrize("value", ["", "no json", '{"version": 1}', '{"version": 7, "state": "open"}', "[" * 5_000])
def test_a_record_that_is_not_understood_counts_as_missing_and_is_replaced(fleets: Fleets, value: str) -> None:
    heard: list[Event] = []
    first, second = fleets.breakers(2)
    first.fleet.subscribe(heard.append)
    fleets.client.set(f"{fleets.prefix}circuit_breaker:graph", value)
    wait_until(lambda: '"state": "closed"' in fleets.record())
    wait_until(lambda: first._shared.era == second._shared.era == json.loads(fleets.record())["epoch"])
    fail(first, 5)
    all_become(OPEN, [first, second])
    assert all(isinstance(event, RecordIgnored) for event in heard)


def test_another_type_in_the_place_of_the_record_is_replaced(fleets: Fleets) -> None:
    (first,) = fleets.breakers(1)
    with fleets.client.pipeline(transaction=True) as both:  # or the member writes a new one in between
        both.delete(f"{fleets.prefix}circuit_breaker:graph")
        both.rpush(f"{fleets.prefix}circuit_breaker:graph", "a", "b")
        both.execute()
    # Failures before this may be of the era that ended with the record: whether the next look comes first is luck.
    wait_until(lambda: fleets.client.type(f"{fleets.prefix}circuit_breaker:graph") == "string")
    flushed(first)
    fail(first, 5)
    assert first.state is OPEN
    flushed(first)
    assert json.loads(fleets.record())["state"] == "open"


def test_a_record_with_fields_of_a_newer_library_is_followed_and_they_are_kept(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    content = json.loads(fleets.record()) | {"weather": {"rain": [1, 2]}}
    fleets.client.set(f"{fleets.prefix}circuit_breaker:graph", json.dumps(content), px=30_000)
    wait_until(lambda: b"weather" in (first._shared._text or b""))
    fail(first, 5)
    all_become(OPEN, [first, second])
    assert json.loads(fleets.record())["weather"] == {"rain": [1, 2]}


def test_the_record_has_a_name_and_a_life(fleets: Fleets) -> None:
    (first,) = fleets.breakers(1, fleet_options={"ttl": 300.0})
    assert fleets.written() == [f"{fleets.prefix}circuit_breaker:graph"]
    assert 290_000 < fleets.client.pttl(fleets.written()[0]) <= 300_000
    (patient,) = fleets.breakers(1, "patient", recovery_timeout=1_000, fleet_options={"ttl": 300.0})
    fail(patient, 5)
    flushed(patient)
    assert fleets.client.pttl(f"{fleets.prefix}circuit_breaker:patient") > 1_990_000, "twice the open time"
    left = fleets.client.pttl(f"{fleets.prefix}circuit_breaker:graph")
    for _ in range(5):
        ok(first)
    flushed(first)
    assert fleets.client.pttl(f"{fleets.prefix}circuit_breaker:graph") <= left


def test_all_worlds_share_one_circuit(fleets: Fleets, world: World) -> None:
    first, second = fleets.breakers(2)

    async def boom() -> None:
        raise ZeroDivisionError

    guarded = world.guard(first, boom)

    async def story() -> None:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await guarded()
        with pytest.raises(CircuitOpenError):
            await guarded()

    run_in(world, story)
    wait_until(lambda: second.state is OPEN)


def test_a_rejection_tells_that_the_fleet_decided(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    fail(first, 5)
    all_become(OPEN, [first, second])
    with pytest.raises(CircuitOpenError) as caught:
        second.call(print)
    assert "as the fleet has it" in str(explain(caught.value))


def test_options_can_change_while_it_is_shared(fleets: Fleets) -> None:
    first, second = fleets.breakers(2)
    first.reconfigure(failure_threshold=2)
    second.reconfigure(failure_threshold=2)
    fail(first)
    flushed(first)
    fail(second)
    all_become(OPEN, [first, second])
    with pytest.raises(ConfigurationError, match="fleet cannot be changed"):
        first.reconfigure(fleet=None)


def test_what_cannot_be_is_refused_at_construction(fleets: Fleets) -> None:
    fleet = fleets.member()
    with pytest.raises(ConfigurationError, match="fleet must be a RedisFleet"):
        CircuitBreaker("graph", fleet="redis://")
    with pytest.raises(ConfigurationError, match="quorum is a number of members of a fleet: give fleet="):
        CircuitBreaker("graph", quorum=2)
    with pytest.raises(ConfigurationError, match="quorum must be a whole number from 1 to 64"):
        CircuitBreaker("graph", fleet=fleet, quorum=65)
    keyed = Keyed(lambda key: CircuitBreaker("graph", fleet=fleet), key=lambda user: user)
    with pytest.raises(ConfigurationError, match="all keys would be one"):
        keyed.call(lambda user: user, "ann")
