"""The law of a shared circuit: each change as a table, its text for a round trip, and whatever else a key may hold."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import redis
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilience_core import CircuitState
from resilience_core._machines.shared_circuit import (
    LONGEST,
    LONGEST_TEXT,
    MARGIN,
    MOST_VOTES,
    SECOND,
    SET_BACK,
    USE_WITHIN,
    VERSION,
    AskForLease,
    Change,
    Control,
    Draw,
    Failures,
    Force,
    Lease,
    OpenAnew,
    Opening,
    PassLease,
    ProbeFailed,
    ProbesSucceeded,
    Record,
    RenewLease,
    Success,
    Trip,
    Untrip,
    UseLease,
    from_text,
    new_record,
    time_text,
    to_text,
)
from tests._cost import size
from tests._redis import RedisServer

NOW = 1_700_000_000 * SECOND
S = SECOND
CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN
FORCED = (CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.SHADOW)
TEN_SECONDS = Opening("me", lambda opening: 10.0)


def drawing() -> Draw:
    """Epochs `new1`, `new2`, ... in the order in which they are drawn."""
    numbers = itertools.count(1)
    return lambda: f"new{next(numbers)}"


def closed(**fields: Any) -> Record:
    return evolve(Record(CLOSED, "era", NOW - 20 * S, "created"), **fields)


def opened(lease: Lease | None = None, **fields: Any) -> Record:
    """Open for ten seconds since five seconds ago; the lease is its opener's."""
    until = NOW + 5 * S
    lease = lease or Lease("l", "opener", until + USE_WITHIN, until + USE_WITHIN)
    made = Record(OPEN, "era", NOW - 5 * S, "consecutive_failures", open_until=until, openings=1, lease=lease)
    return evolve(made, **fields)


def entered_by_hand(state: CircuitState) -> Record:
    return Record(state, "era", NOW - 5 * S, "manual", control=Control("op", "why"))


def apply(change: Change, record: Record, now: int = NOW) -> Record | None:
    return change.apply(record, now, drawing())


def leased(use_by: int, expires: int, **fields: Any) -> Lease:
    return evolve(Lease("l", "opener", use_by, expires), **fields)


# --- what changes a record, and how ----------------------------------------------------------------------------------


def failures(count: int = 1, member: str = "me", threshold: int | None = 5, quorum: int = 1) -> Failures:
    return Failures("era", count, member, threshold, evolve(TEN_SECONDS, quorum=quorum))


def trip(member: str = "me", quorum: int = 1) -> Trip:
    return Trip("era", member, "failure_rate", 30 * S, evolve(TEN_SECONDS, quorum=quorum))


FULL = tuple(f"m{number}" for number in range(MOST_VOTES))
LAPSED = leased(NOW - MARGIN, NOW - MARGIN)  # unused, and its margin is over at this very moment

COUNTED = [
    ("the first failure", failures(), closed(), closed(failures=1, members=("me",))),
    ("more at once", failures(3), closed(failures=1, members=("you",)), closed(failures=4, members=("you", "me"))),
    ("a known member", failures(2), closed(failures=1, members=("me",)), closed(failures=3, members=("me",))),
    ("another rule decides", failures(9, threshold=None), closed(), closed(failures=9, members=("me",))),
    ("no quorum yet", failures(9, quorum=2), closed(), closed(failures=9, members=("me",))),
    ("the list is full", failures(), closed(members=FULL), closed(failures=1, members=FULL)),
    ("in a row no more", Success("era"), closed(failures=4, members=("me",)), closed()),
    ("votes stand", Success("era"), closed(failures=1, votes=(("v", NOW),)), closed(votes=(("v", NOW),))),
    ("a vote", trip(quorum=2), closed(), closed(votes=(("me", NOW + 30 * S),))),
    ("again", trip(quorum=2), closed(votes=(("me", NOW + S),)), closed(votes=(("me", NOW + 30 * S),))),
    ("an old one lapsed", trip(quorum=2), closed(votes=(("you", NOW),)), closed(votes=(("me", NOW + 30 * S),))),
    (
        "no more votes than are kept",
        trip(quorum=99),
        closed(votes=tuple((name, NOW + S) for name in FULL)),
        closed(votes=(*((name, NOW + S) for name in FULL[1:]), ("me", NOW + 30 * S))),
    ),
    ("a vote taken back", Untrip("me"), closed(votes=(("me", NOW), ("you", NOW))), closed(votes=(("you", NOW),))),
    (
        "a lease in use",
        UseLease("l", 60 * S),
        opened(),
        opened(leased(NOW + 7 * S, NOW + 60 * S + MARGIN, used=True)),
    ),
    (
        "a short call leaves the margin in which the word of the next one can arrive",
        UseLease("l", 1 * S),
        opened(),
        opened(leased(NOW + 7 * S, NOW + 7 * S + MARGIN, used=True)),
    ),
    (
        "a shorter call does not shorten it",
        UseLease("l", 1 * S),
        opened(leased(NOW, NOW + 50 * S, used=True, wanted="you")),
        opened(leased(NOW, NOW + 50 * S, used=True, wanted="you")),
    ),
    (
        "renewed before the open time is over",
        RenewLease("l"),
        opened(leased(NOW, NOW)),
        opened(leased(NOW + 7 * S, NOW + 7 * S)),
    ),
    (
        "renewed after it",
        RenewLease("l"),
        opened(leased(NOW, NOW + 9 * S, used=True), open_until=NOW - 60 * S),
        opened(leased(NOW + 2 * S, NOW + 2 * S), open_until=NOW - 60 * S),
    ),
    (
        "passed to who wants it",
        PassLease("l"),
        opened(leased(NOW, NOW, used=True, wanted="you")),
        opened(Lease("new1", "you", NOW + 7 * S, NOW + 7 * S)),
    ),
    (
        "passed to nobody",
        PassLease("l"),
        opened(open_until=NOW - S),
        opened(Lease("new1", "", NOW + 2 * S, NOW + 2 * S), open_until=NOW - S),
    ),
    ("asked for", AskForLease("me"), opened(), opened(leased(NOW + 7 * S, NOW + 7 * S, wanted="me"))),
    (
        "taken over when its margin is over",
        AskForLease("me"),
        opened(LAPSED, open_until=NOW - 9 * S),
        opened(Lease("new1", "me", NOW + 2 * S, NOW + 2 * S), open_until=NOW - 9 * S),
    ),
    (
        "taken over ahead of time, where it was given back",
        AskForLease("me"),
        opened(Lease("l", "", NOW + 7 * S, NOW + 7 * S)),
        opened(Lease("new1", "me", NOW + 7 * S, NOW + 7 * S)),
    ),
    (
        "taken over when the call that uses it must be over",
        AskForLease("me"),
        opened(leased(NOW - 50 * S, NOW, used=True, wanted="you")),
        opened(Lease("new1", "me", NOW + 7 * S, NOW + 7 * S)),
    ),
    (
        "an open record without a lease",
        AskForLease("me"),
        evolve(opened(), lease=None),
        opened(Lease("new1", "me", NOW + 7 * S, NOW + 7 * S)),
    ),
]


@pytest.mark.parametrize(("change", "before", "after"), [row[1:] for row in COUNTED], ids=[row[0] for row in COUNTED])
def test_what_a_change_makes_of_a_record(change: Change, before: Record, after: Record) -> None:
    assert apply(change, before) == after


def opening(reason: str, seconds: int = 10, openings: int = 1, **fields: Any) -> Record:
    until = NOW + seconds * S
    lease = Lease("new2", "me", until + USE_WITHIN, until + USE_WITHIN)
    made = Record(OPEN, "new1", NOW, reason, open_until=until, openings=openings, lease=lease)
    return evolve(made, **fields)


GROWING = Opening("me", lambda opening: 10.0 * opening)
VOTES = (("you", NOW + S), ("she", NOW + S), ("old", NOW))
OPENED = [
    ("enough failures", failures(5), closed(), opening("consecutive_failures", failures=5, members=("me",))),
    (
        "failures of enough members",
        failures(2, quorum=2),
        closed(failures=4, members=("you",)),
        opening("consecutive_failures", failures=6, members=("you", "me")),
    ),
    ("a vote is enough", trip(), closed(), opening("failure_rate")),
    ("votes of a quorum", trip(quorum=3), closed(votes=VOTES), opening("failure_rate")),
    ("votes of a quorum, mine renewed", trip("you", quorum=2), closed(votes=VOTES), opening("failure_rate")),
    ("a failed probe", ProbeFailed("l", GROWING), opened(), opening("probe_failed", 20, 2)),
    ("a slow one", ProbeFailed("l", GROWING, "slow"), opened(openings=4), opening("slow", 50, 5)),
    (
        "by hand",
        Force(OPEN, Control("op", "why"), GROWING),
        opened(votes=VOTES),
        opening("manual", 20, 2, control=Control("op", "why")),
    ),
]


@pytest.mark.parametrize(("change", "before", "after"), [row[1:] for row in OPENED], ids=[row[0] for row in OPENED])
def test_an_opening_is_a_new_era_with_a_lease_for_the_opener(change: Change, before: Record, after: Record) -> None:
    assert apply(change, before) == after


KEPT = (("color", "blue"),)


def test_enough_good_probes_close_it_and_nothing_is_left_but_what_a_newer_library_has_added() -> None:
    before = opened(failures=7, members=("a",), votes=VOTES, openings=3, extra=KEPT, control=Control("op"))
    assert apply(ProbesSucceeded("l"), before) == Record(CLOSED, "new1", NOW, "probe_succeeded", extra=KEPT)


def test_while_a_ramp_lasts_the_openings_are_remembered() -> None:
    after = apply(ProbesSucceeded("l", keep_openings=True), opened(openings=3))
    assert after == Record(CLOSED, "new1", NOW, "probe_succeeded", openings=3)


@pytest.mark.parametrize("state", [CLOSED, *FORCED])
@pytest.mark.parametrize("before", [closed(failures=3, extra=KEPT), opened(extra=KEPT)])
def test_a_state_entered_by_hand_forgets_the_time_before(state: CircuitState, before: Record) -> None:
    control = Control("op", "why", NOW + 9 * S)
    assert apply(Force(state, control, GROWING), before) == Record(
        state, "new1", NOW, "manual", control=control, extra=KEPT
    )


def test_a_lost_open_circuit_is_opened_anew_and_due_for_a_probe_at_once() -> None:
    lease = Lease("new1", "me", NOW + USE_WITHIN, NOW + USE_WITHIN)
    expected = Record(OPEN, "new2", NOW, "lost", open_until=NOW, openings=1, lease=lease)
    assert apply(OpenAnew("me"), closed()) == expected


# --- what changes nothing --------------------------------------------------------------------------------------------

NOT_OPEN = [closed(failures=1), *map(entered_by_hand, FORCED)]
NOT_CLOSED = [opened(), *map(entered_by_hand, FORCED)]
OTHER_LEASE = opened(Lease("other", "me", NOW + 7 * S, NOW + 7 * S))
OF_A_LEASE: list[Change] = [
    UseLease("l", S),
    RenewLease("l"),
    PassLease("l"),
    ProbeFailed("l", TEN_SECONDS),
    ProbesSucceeded("l"),
]
OF_AN_ERA: list[Change] = [failures(99), Success("era"), trip()]


@pytest.mark.parametrize("change", OF_A_LEASE)
@pytest.mark.parametrize("record", [*NOT_OPEN, OTHER_LEASE, evolve(opened(), lease=None)])
def test_what_belongs_to_a_lease_changes_nothing_without_it(change: Change, record: Record) -> None:
    assert apply(change, record) is None


@pytest.mark.parametrize("change", OF_AN_ERA)
@pytest.mark.parametrize("record", [*NOT_CLOSED, closed(epoch="another", failures=4)])
def test_what_belongs_to_an_era_changes_nothing_in_another_one(change: Change, record: Record) -> None:
    assert apply(change, record) is None


@pytest.mark.parametrize(
    ("change", "record"),
    [
        pytest.param(Success("era"), closed(), id="no failures to forget"),
        pytest.param(Untrip("me"), closed(votes=VOTES), id="no vote to take back"),
        pytest.param(RenewLease("l"), opened(leased(NOW, NOW, wanted="you")), id="somebody wants it"),
        *(pytest.param(AskForLease("me"), record, id=f"ask while {record.state}") for record in NOT_OPEN),
        pytest.param(AskForLease("opener"), opened(LAPSED), id="the holder has it"),
        pytest.param(AskForLease("me"), opened(leased(NOW, NOW, wanted="you")), id="another one asked first"),
        pytest.param(
            AskForLease("me"), opened(leased(NOW - MARGIN + 1, 0, wanted="me")), id="1 us before its margin is over"
        ),
        pytest.param(
            AskForLease("me"), opened(leased(0, NOW + 1, used=True, wanted="me")), id="1 us before the call is over"
        ),
        pytest.param(OpenAnew("me"), opened(), id="it is open"),
        pytest.param(OpenAnew("me"), closed(reason="probe_succeeded"), id="it was closed"),
        pytest.param(OpenAnew("me"), closed(failures=1), id="others count already"),
    ],
)
def test_what_does_not_apply(change: Change, record: Record) -> None:
    assert apply(change, record) is None


def test_when_a_lease_can_be_taken_over() -> None:
    assert leased(7, 9).takeover_at == 7 + MARGIN
    assert leased(7, 9, used=True).takeover_at == 9
    assert leased(7, 9, used=True, holder="").takeover_at == 0


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", FORCED)
def test_a_forced_state_reads_as_closed_from_its_end_on(state: CircuitState) -> None:
    record = evolve(entered_by_hand(state), control=Control("op", "why", NOW))
    assert record.at(NOW - 1) is record
    assert record.at(NOW) == evolve(record, state=CLOSED, reason="forced_expired", control=None)
    assert entered_by_hand(state).at(NOW + LONGEST).state is state, "until told otherwise"


def test_only_forced_states_end_by_themselves() -> None:
    record = opened(control=Control("op", "why", NOW))
    assert record.at(NOW + 9 * S) is record
    assert not record.forced
    assert all(entered_by_hand(state).forced for state in FORCED)


def test_how_long_a_record_is_kept() -> None:
    assert closed().lasts(NOW, 300 * S) == 300 * S
    assert opened(open_until=NOW + 495 * S).lasts(NOW, 300 * S) == 1000 * S, "twice the open time"
    forced = evolve(entered_by_hand(FORCED[0]), control=Control(until=NOW + 7000 * S))
    assert forced.lasts(NOW, 300 * S) == 7300 * S, "what was decided by hand is not forgotten early"


def test_of_an_unknown_circuit_it_is_said_that_it_is_closed() -> None:
    assert new_record(NOW, drawing()) == Record(CLOSED, "new1", NOW, "created")


# --- laws ------------------------------------------------------------------------------------------------------------

laws = settings(deadline=None, max_examples=size(100, 40))
moments = st.integers(0, 10**18 - 1)
times = st.integers(NOW - 300 * S, NOW + 300 * S)
words = st.text(min_size=1, max_size=12)
texts = st.text(max_size=12)
counts = st.integers(0, 2**31 - 1)
members = st.lists(words, max_size=5, unique=True).map(tuple)
votes = st.dictionaries(words, times, max_size=5).map(lambda found: tuple(found.items()))
leases = st.builds(Lease, words, texts, times, times, st.booleans(), texts)
controls = st.builds(Control, st.none() | texts, st.none() | texts, st.none() | times)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
KNOWN = set(json.loads(to_text(closed())))
extras = st.dictionaries(texts.filter(lambda name: name not in KNOWN), plain, max_size=3).map(
    lambda found: tuple(found.items())
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record that can be: an open one has a lease, others have none."""
    state = draw(st.sampled_from([state for state in CircuitState if state is not CircuitState.HALF_OPEN]))
    return Record(
        state,
        epoch=draw(words),
        since=draw(times),
        reason=draw(words),
        written=draw(moments),
        by=draw(texts),
        failures=draw(counts),
        members=draw(members),
        votes=draw(votes),
        open_until=draw(times),
        openings=draw(counts),
        lease=draw(leases) if state is OPEN else None,
        control=draw(st.none() | controls),
        extra=draw(extras),
    )


@laws
@given(records())
def test_a_record_comes_back_from_its_text(record: Record) -> None:
    assert from_text(to_text(record)) == record


names = st.sampled_from(["a", "b", "c"])
openings = st.builds(
    lambda holder, seconds, quorum: Opening(holder, lambda opening: seconds, quorum),
    names,
    st.floats(0.0, 1e12),
    st.integers(1, 3),
)


def changes(epoch: str, lease: str) -> st.SearchStrategy[Change]:
    """Any change of members a, b and c that belongs to this era or this lease."""
    spans = st.integers(0, 10**18)
    return st.one_of(
        st.builds(Failures, st.just(epoch), st.integers(1, 9), names, st.none() | st.integers(1, 9), openings),
        st.builds(Success, st.just(epoch)),
        st.builds(Trip, st.just(epoch), names, words, spans, openings),
        st.builds(Untrip, names),
        st.builds(UseLease, st.just(lease), spans),
        st.builds(RenewLease, st.just(lease)),
        st.builds(PassLease, st.just(lease)),
        st.builds(AskForLease, names),
        st.builds(ProbeFailed, st.just(lease), openings),
        st.builds(ProbesSucceeded, st.just(lease), st.booleans()),
        st.builds(Force, st.sampled_from([CLOSED, OPEN, *FORCED]), controls, openings),
        st.builds(OpenAnew, names),
    )


def of_era_and_lease(record: Record) -> Record:
    """The same record, of the era `era` and with the lease `l`, if it has one."""
    return evolve(record, epoch="era", lease=record.lease and evolve(record.lease, id="l"))


CURRENT = changes("era", "l")
steps = st.tuples(st.sampled_from([0, 1, S, 10 * S, 3600 * S, LONGEST]), CURRENT)


@laws
@given(st.lists(steps, min_size=1, max_size=8))
@example([(LONGEST, OpenAnew("a"))])
@example([(LONGEST, Trip("era", "a", "slow", S, evolve(TEN_SECONDS, quorum=2)))])
@example([(0, Force(OPEN, Control(), Opening("a", lambda opening: 1e12)))])
@example([(0, Force(OPEN, Control(), Opening("a", lambda opening: 1e12))), (0, UseLease("l", 0))])
def test_whatever_members_write_can_be_read(taken: list[tuple[int, Change]]) -> None:
    now, record = NOW, closed(since=NOW)
    for seconds, change in taken:
        now += seconds
        changed = change.apply(of_era_and_lease(record.at(now)), now, drawing())
        if changed is not None:
            record = evolve(changed, written=max(now, record.written + 1), by="a:1")
            assert from_text(to_text(record)) == record
            assert (record.state is OPEN) == (record.lease is not None)


def test_a_record_full_of_the_longest_names_can_be_read() -> None:
    members = [f"{'h' * 200}-4194304-{number:06x}/abcd" for number in range(MOST_VOTES)]
    record = closed(written=NOW)
    for member in members:
        for change in (failures(member=member, quorum=MOST_VOTES), trip(member, MOST_VOTES)):
            record = change.apply(record, NOW, drawing()) or record
            assert from_text(to_text(record)) == record
    assert record.state is OPEN
    assert len(record.members) == MOST_VOTES


def test_a_state_forced_for_longer_than_a_record_may_say_is_cut() -> None:
    after = apply(Force(FORCED[0], Control(until=NOW + LONGEST + S), TEN_SECONDS), closed())
    assert after is not None
    assert after.control == Control(until=NOW + LONGEST)


results = changes("another era", "another lease").filter(
    lambda change: isinstance(change, (Failures, Success, Trip, UseLease, ProbeFailed, ProbesSucceeded))
)


@laws
@given(records(), results)
def test_no_result_of_another_era_or_lease_changes_a_record(record: Record, change: Change) -> None:
    assert apply(change, of_era_and_lease(record)) is None


@laws
@given(records(), CURRENT)
def test_a_lease_goes_to_another_member_only_when_it_is_over_or_given_up(record: Record, change: Change) -> None:
    before = of_era_and_lease(record)
    after = apply(change, before)
    if before.lease is None or after is None or after.lease is None or after.lease.id == "l":
        return
    over = before.lease.takeover_at <= NOW
    assert isinstance(change, (PassLease, ProbeFailed, Force)) or (isinstance(change, AskForLease) and over)


@laws
@given(records(), CURRENT)
def test_a_circuit_closes_by_good_probes_of_its_lease_or_by_hand(record: Record, change: Change) -> None:
    after = apply(change, of_era_and_lease(record))
    if record.state is not CLOSED and after is not None and after.state is CLOSED:
        by_hand = isinstance(change, Force)
        assert after.reason == ("manual" if by_hand else "probe_succeeded")
        assert by_hand or isinstance(change, ProbesSucceeded)


# --- as text ---------------------------------------------------------------------------------------------------------


@given(moments, moments)
def test_times_as_text_are_as_different_as_they_are(one: int, other: int) -> None:
    assert (time_text(one) == time_text(other)) == (one == other)
    assert time_text(one) != time_text(one + 1)


def test_a_record_can_be_read_by_a_person() -> None:
    record = opened(
        leased(NOW + 7 * S, NOW + 61 * S + 1, used=True, wanted="b-2"),
        failures=5,
        members=("a-1", "b-2"),
        written=NOW + 1,
        by="a-1:7",
        control=Control("op", None, NOW),
    )
    assert json.loads(to_text(record)) == {
        "version": 1,
        "state": "half_open",
        "since": "1699999995.000000",
        "reason": "consecutive_failures",
        "failures": 5,
        "members": ["a-1", "b-2"],
        "votes": {},
        "open_until": "1700000005.000000",
        "openings": 1,
        "lease": {
            "id": "l",
            "holder": "opener",
            "use_by": "1700000007.000000",
            "expires": "1700000061.000001",
            "used": True,
            "wanted": "b-2",
        },
        "forced": {"actor": "op", "reason": None, "until": "1700000000.000000"},
        "epoch": "era",
        "written": "1700000000.000001",
        "by": "a-1:7",
    }
    assert from_text(to_text(record)) == record, "half open is what it is called, not what it is"


IN_LUA = "return cjson.encode(cjson.decode(ARGV[1]))"


def test_times_one_microsecond_apart_survive_cjson_as_strings_and_would_not_as_numbers(
    redis_server: RedisServer,
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:

        def through(text: str) -> str:
            answer: bytes = client.eval(IN_LUA, 0, text)
            return answer.decode()

        one = opened(leased(NOW + 7 * S, NOW + 8 * S), written=NOW)
        other = evolve(one, written=NOW + 1, lease=leased(NOW + 7 * S, NOW + 8 * S + 1))
        decoded = [json.loads(through(to_text(record))) for record in (one, other)]
        assert decoded == [json.loads(to_text(record)) for record in (one, other)] or decoded[0]["members"] == {}
        assert decoded[0]["written"] != decoded[1]["written"]
        assert decoded[0]["lease"]["expires"] != decoded[1]["lease"]["expires"]
        for found, record in zip(decoded, (one, other), strict=True):
            # cjson knows no empty list, which is why scripts never write records.
            assert from_text(json.dumps({**found, "members": []})) == record
        numbers = [through(json.dumps({"written": moment})) for moment in (NOW, NOW + 1)]
        assert numbers[0] == numbers[1], "a number loses what tells the two apart"


# --- whatever else a key may hold ------------------------------------------------------------------------------------

VALID = to_text(
    evolve(
        opened(leased(NOW, NOW, wanted="w")),
        written=NOW,
        members=("m",),
        votes=(("v", NOW),),
        control=Control("a", "r", NOW + S),
    )
)
_HUGE = "9" * 5_000
ODD = [
    "",
    "\0WRONGTYPE",
    "null",
    "1",
    '"text"',
    "[]",
    "[1]",
    "{}",
    "NaN",
    "Infinity",
    _HUGE,
    "{" * 9_000,
    "[" * 9_000,
    '{"version":' * 1_400,
    '{"version": NaN}',
    '{"version": 1}',
    VALID[:-1],
    VALID + VALID,
    VALID.replace('"failures": 0', f'"failures": {_HUGE}'),
    VALID.replace('"failures": 0', '"failures": NaN'),
    VALID.replace('"failures": 0', '"failures": 1e999'),
    VALID.replace('"members": ["m"]', '"members": ' + "[" * 7_000),
    VALID[:-1] + ', "more": ' + "[" * 7_000,
    VALID[:-1] + f', "more": "{"x" * LONGEST_TEXT}"}}',
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_what_is_no_record_counts_as_missing(text: str) -> None:
    assert from_text(VALID) is not None
    assert from_text(text) is None


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, [1], 1.5])
def test_a_record_of_another_version_counts_as_missing(version: Any) -> None:
    assert from_text(json.dumps({**json.loads(VALID), "version": version})) is None


def test_fields_of_a_newer_library_are_kept_through_changes_of_an_older_one() -> None:
    record = from_text(json.dumps({**json.loads(to_text(opened())), "shade": {"of": ["blue", 1]}}))
    assert record is not None
    for change in (UseLease("l", S), PassLease("l"), AskForLease("me"), ProbeFailed("l", GROWING)):
        changed = apply(change, record)
        assert changed is not None
        assert json.loads(to_text(changed))["shade"] == {"of": ["blue", 1]}
    shut = apply(ProbesSucceeded("l"), record)
    assert shut is not None
    assert json.loads(to_text(shut))["shade"] == {"of": ["blue", 1]}


LEASE_OF = json.loads(VALID)["lease"]
CONTROL_OF = json.loads(VALID)["forced"]
TOO_LATE = time_text(NOW + 1 + LONGEST + USE_WITHIN + MARGIN)
WRONG: dict[str, list[Any]] = {
    "state": [None, 1, "", "ajar", [], {}, True],
    "epoch": [None, "", 1, [], "x" * 1_001],
    "since": [
        None,
        1,
        1.7e9,
        "",
        "1",
        "1.5",
        "-1.000000",
        "1.0000000",
        "1e9",
        "9" * 13 + ".000000",
        "١.000000",
        "1.000000\n",
    ],
    "reason": [None, "", 1, "x" * 1_001],
    "written": [None, 0, "0", "soon", "1.000000\n"],
    "by": [None, 0, [], "x" * 1_001],
    "failures": [None, -1, 2**31, 1.0, "1", True, [], math.inf],
    "members": [None, {}, "m", ["m", 1], [""], [None], ["m"] * (MOST_VOTES + 1)],
    "votes": [None, [], "v", {"v": 1}, {"": time_text(NOW)}, {"v": TOO_LATE}, {"v": None}],
    "open_until": [1, "", "never", TOO_LATE],
    "openings": [None, -1, 2**31, 0.5, False],
    "lease": [
        None,
        {},
        [],
        "l",
        1,
        *({name: value for name, value in LEASE_OF.items() if name != missing} for missing in LEASE_OF),
        {**LEASE_OF, "id": ""},
        {**LEASE_OF, "holder": None},
        {**LEASE_OF, "use_by": 0},
        {**LEASE_OF, "use_by": TOO_LATE},
        {**LEASE_OF, "expires": TOO_LATE},
        {**LEASE_OF, "used": 1},
        {**LEASE_OF, "used": None},
        {**LEASE_OF, "wanted": None},
    ],
    "forced": [
        {},
        [],
        "op",
        *({name: value for name, value in CONTROL_OF.items() if name != missing} for missing in CONTROL_OF),
        {**CONTROL_OF, "actor": 1},
        {**CONTROL_OF, "reason": []},
        {**CONTROL_OF, "until": 1},
        {**CONTROL_OF, "until": TOO_LATE},
    ],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_field_that_cannot_be_makes_the_whole_record_count_as_missing(name: str, value: Any) -> None:
    assert from_text(json.dumps({**json.loads(VALID), name: value})) is None


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_field_that_is_missing_makes_the_whole_record_count_as_missing(name: str) -> None:
    content = json.loads(VALID)
    del content[name]
    assert from_text(json.dumps(content)) is None


@pytest.mark.parametrize("state", [CLOSED, *FORCED])
def test_only_an_open_record_has_a_lease(state: CircuitState) -> None:
    assert from_text(json.dumps({**json.loads(VALID), "state": state.value})) is None


def _deeper(levels: int, record: Record) -> str:
    return to_text(record) if levels == 0 else _deeper(levels - 1, record)


def test_what_was_read_can_be_written_again_from_any_depth_of_the_stack() -> None:
    read = 0
    for depth in (*range(1, 30), *range(900, 1_010, 3), *range(1_400, 1_510, 3), 9_990):
        record = from_text(VALID[:-1] + ', "more": ' + '{"a": ' * depth + "[]" + "}" * depth + "}")
        if record is not None:
            read += 1
            assert from_text(_deeper(60, record)) == record
    assert 10 < read < 30


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)


@laws
@given(anything | st.fixed_dictionaries(dict.fromkeys(sorted(KNOWN - {"version"}), anything) | {"version": st.just(1)}))
def test_random_json_is_no_record_and_no_exception(value: Any) -> None:
    assert from_text(json.dumps(value)) is None


@laws
@given(st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "replace")) | st.text(max_size=300))
def test_random_text_is_no_record_and_no_exception(text: str) -> None:
    assert from_text(text) is None


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, each in inner for found in _paths(each, (*path, name)))]


PATHS = _paths(json.loads(VALID))[1:]


@laws
@given(st.lists(st.tuples(st.sampled_from(PATHS), anything), min_size=1, max_size=3))
@example([(("lease", "used"), math.nan)])
def test_a_mutated_record_is_one_that_can_be_written_and_read_again_or_none(
    mutations: list[tuple[tuple[Any, ...], Any]],
) -> None:
    content = json.loads(VALID)
    for path, value in mutations:
        place = content
        for step in path[:-1]:
            place = place[step] if isinstance(place, dict) and step in place else {}
        if isinstance(place, dict):
            place[path[-1]] = value
    record = from_text(json.dumps(content))
    assert record is None or from_text(to_text(record)) == record


@laws
@given(st.integers(0, len(VALID)), st.integers(0, 40), st.text(max_size=20))
def test_a_text_that_was_cut_or_overwritten_is_a_record_or_none(at: int, length: int, text: str) -> None:
    record = from_text(VALID[:at] + text + VALID[at + length :])
    assert record is None or from_text(to_text(record)) == record


def test_the_version_that_is_written() -> None:
    assert json.loads(VALID)["version"] == VERSION


def test_a_record_of_the_future_is_moved_as_if_it_had_just_been_written() -> None:
    hour = 3_600 * S
    lease = Lease("l", "other", NOW + hour + 12 * S, NOW + hour + 13 * S, used=True)
    record = Record(OPEN, "e", NOW + hour, "slow", NOW + hour, votes=(("m", NOW + hour + S),), lease=lease)
    record = evolve(record, open_until=NOW + hour + 10 * S)
    moved = record.moved(NOW)
    assert moved == Record(
        OPEN,
        "e",
        NOW,
        "slow",
        NOW,
        votes=(("m", NOW + S),),
        open_until=NOW + 10 * S,
        lease=Lease("l", "other", NOW + 12 * S, NOW + 13 * S, used=True),
    )
    assert moved.moved(NOW) is moved
    assert record.moved(record.written - SET_BACK) is record, "so far apart the clocks of hosts may be"
    assert Record(CLOSED, "e", 5, "created", NOW).moved(S).since == 0
    for until, then in ((None, None), (NOW + hour + 60 * S, NOW + 60 * S)):
        forced = Record(CircuitState.FORCED_OPEN, "e", NOW, "manual", NOW + hour, control=Control("ann", None, until))
        assert forced.moved(NOW).control == Control("ann", None, then)
