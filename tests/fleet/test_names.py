"""Names become keys: literal ones stay readable, and no name leaves its prefix, its slot or its own key."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from resilience_core import CircuitBreaker, ConfigurationError
from resilience_core.fleet._names import Keys, encoded
from resilience_core.redis import RedisFleet
from tests.fleet.members import PATIENCE, Fleets, ok

KEYS = Keys("", "a secret of some length")
ODD = st.one_of(
    st.text(min_size=1, max_size=200),
    st.text(alphabet="{}:%*\0\n\r -_.aA0", min_size=1, max_size=40),
    st.text(alphabet=st.characters(categories=["Cs"]), min_size=1, max_size=5),  # lone surrogates
    st.builds(lambda text, times: text * times, st.sampled_from("aé{:\ud800"), st.integers(1, 100_000)),
)


@pytest.mark.parametrize("name", ["graph", "whatsapp_api", "a.b-c_D9", "x" * 128])
def test_literal_names_stay_as_they_are(name: str) -> None:
    assert KEYS.circuit(name) == f"circuit_breaker:{name}"


def test_other_names_are_percent_encoded_and_long_ones_hashed() -> None:
    assert encoded("a:b{c}") == "a%3Ab%7Bc%7D"
    assert encoded("é") == "%C3%A9"
    assert encoded("100%") == "100%25"
    assert encoded("\ud800") == "%ED%A0%80"
    assert re.fullmatch(r"%sha256-[0-9a-f]{64}", encoded("x" * 129))
    assert re.fullmatch(r"%sha256-[0-9a-f]{64}", encoded(":" * 50)), "not longer than what it stands for"


@given(ODD, ODD)
def test_no_two_names_share_a_key_and_none_leaves_its_prefix(one: str, other: str) -> None:
    keys = Keys("shop:", None)
    assert (keys.circuit(one) == keys.circuit(other)) == (one == other)
    assert (keys.other("bulkhead", one) == keys.other("bulkhead", other)) == (one == other)
    assert re.fullmatch(r"shop:circuit_breaker:[A-Za-z0-9_.%-]{1,128}", keys.circuit(one))


@given(ODD)
def test_all_keys_of_an_object_fall_into_one_slot(name: str) -> None:
    for keys in (KEYS, Keys("shop:eu-1:", "a secret of some length")):
        record = keys.circuit(name)
        slot = key_slot(record.encode())
        assert key_slot(keys.sister(record, "changes").encode()) == slot
        assert key_slot(keys.sister(record, "window0:0123").encode()) == slot
        assert key_slot(keys.personal(name, "ann").encode()) == key_slot(keys.other("rate_limiter", name).encode())


def test_the_keys_are_the_documented_ones() -> None:
    assert KEYS.sister(KEYS.circuit("graph"), "changes") == "rc:{circuit_breaker:graph}:changes"
    assert KEYS.other("bulkhead", "graph") == "rc:{bulkhead:graph}"
    assert Keys("p:", None).other("retry_budget", "graph") == "p:rc:{p:retry_budget:graph}"
    assert Keys("p:", None).sister("p:circuit_breaker:graph", "changes") == "p:rc:{p:circuit_breaker:graph}:changes"


def test_a_key_of_a_user_is_an_hmac_of_limiter_and_key() -> None:
    other = Keys("", "another secret, as long")
    assert KEYS.personal("sms", "ann") == KEYS.personal("sms", "ann")
    names = {KEYS.personal("sms", "ann"), KEYS.personal("sms", b"ann"), KEYS.personal("mms", "ann")}
    names |= {
        other.personal("sms", "ann"),
        KEYS.personal("sms", 1),
        KEYS.personal("sms", "1"),
        KEYS.personal("sms", True),
    }
    assert len(names) == 7


@pytest.mark.parametrize("name", ["a b", "{x}", "naïve:\n", "\ud800", "y" * 1_000])
def test_odd_names_work_on_a_real_server(fleets: Fleets, name: str) -> None:
    breaker = CircuitBreaker(name, fleet=fleets.member())
    ok(breaker)
    assert breaker.fleet.wait_ready(PATIENCE)
    assert breaker.fleet.flush(PATIENCE)
    (key,) = fleets.written()
    assert key == f"{fleets.prefix}circuit_breaker:{encoded(name)}"
    assert json.loads(fleets.client.get(key))["state"] == "closed"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prefix": "{x}"}, "prefix must consist of up to 64"),
        ({"prefix": None}, "prefix must consist of up to 64"),
        ({"secret": "short"}, "secret must be text or bytes of 16 or more"),
        ({"secret": 7}, "secret must be text or bytes of 16 or more"),
        ({"member": ""}, "member must be a string of 1 to 200"),
        ({"member": "x" * 201}, "member must be a string of 1 to 200"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"timeout": 0}, "timeout must be a positive"),
        ({"poll_interval": float("nan")}, "poll_interval must be a positive"),
        ({"ttl": -1}, "ttl must be a positive"),
        ({"ttl": 5, "poll_interval": 1}, "ttl .5 s. must be at least ten times poll_interval"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        RedisFleet("redis://localhost", **options)


def test_a_wrong_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="source must be a redis://, rediss:// or unix:// URL"):
        RedisFleet("localhost:6379")
    with pytest.raises(ConfigurationError, match="not a object"):
        RedisFleet(object())
