"""What is wrong: with pipelines, packages, Redis and its rights, or with where telemetry goes.

Redis is tried with the commands that a fleet sends, on keys of the doctor's own that end within seconds.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import asdict, frozen

from resilience_core.cli._show import title_of
from resilience_core.cli._target import ADDRESS, OWN_ADDRESS, target_of
from resilience_core.cli._text import Screen, printable

if TYPE_CHECKING:
    from resilience_core.cli._process import Process
    from resilience_core.cli._redis import Fleet

MOST_SKEW = 0.5
"""Seconds by which the clocks of this host and of Redis may differ before the doctor tells it."""
OLDEST = (6, 2)
"""Of the versions of Redis that have what a fleet needs."""
_SCRATCH = 10
"""Seconds for which the doctor's keys live."""


@frozen
class Check:
    """One thing that was looked at."""

    name: str
    verdict: str
    """"ok", "warning" or "error"."""
    text: str
    fix: str = ""


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Look at everything that can be seen from here: 1 if there is a warning or an error.

    Raises:
        Failure: the target that was named cannot be reached (3).
    """
    target = _target(options, env)
    checks: list[Check] = []
    try:
        if target is None:
            checks += _environment_here()
        elif hasattr(target, "ask"):
            checks += _process(target)
        else:
            checks += _environment_here()
            checks += redis_checks(target)
    finally:
        if target is not None:
            target.close()
    bad = any(check.verdict != "ok" for check in checks)
    if screen.as_json:
        screen.document(
            {"target": None if target is None else target.title, "checks": [asdict(each) for each in checks]}
        )
        return int(bad)
    screen.say("this environment" if target is None else target.title)
    for check in checks:
        screen.say(f"{screen.colour(check.verdict, f'{check.verdict:<7}')}  {check.name}: {printable(check.text)}")
        if check.fix:
            screen.say(f"         {printable(check.fix)}")
    if target is None:
        screen.say(
            f"(no process and no fleet: give --pid, --socket, --redis-url or {OWN_ADDRESS} to have it looked at)"
        )
    return int(bad)


def _target(options: Namespace, env: Mapping[str, str]) -> Any:
    """The target, or None where none is named and none is found."""
    named = options.socket or options.pid is not None or options.redis_url or options.prefix
    if named or env.get(OWN_ADDRESS) or env.get(ADDRESS):
        return target_of(options, env)
    from resilience_core.cli._process import only

    return only()


def _environment_here() -> list[Check]:
    from resilience_core.admin._facts import environment

    return _environment(environment())


def _environment(facts: Mapping[str, Any]) -> list[Check]:
    packages = facts["packages"]
    there = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    missing = ", ".join(name for name, version in packages.items() if not version)
    return [
        Check("python", "ok", f"{facts['implementation']} {facts['python']} on {facts['system']}"),
        Check("packages", "ok", there + (f"; not installed: {missing}" if missing else "")),
    ]


def _process(process: Process) -> list[Check]:
    facts = process.ask("doctor")
    checks = [
        Check("process", "ok", title_of({"kind": "process", **facts["process"]})),
        *_environment(facts["environment"]),
    ]
    for each in facts["findings"]:
        text, fix = f"{each['message']} ({each['where']})", f"{each['fix']}. See {each['docs']}"
        checks.append(Check(each["code"], each["severity"], text, fix))
    if not facts["findings"]:
        checks.append(Check("pipelines", "ok", "nothing is wrong with the way they are put together"))
    providers = {signal: name for signal, name in facts["providers"].items() if name}
    told = ", ".join(f"{signal}: {name}" for signal, name in providers.items())
    checks.append(Check("telemetry", "ok", told or "no provider is set, so metrics and spans go nowhere"))
    return checks


# --- Redis ---------------------------------------------------------------------------------------------------------


def redis_checks(fleet: Fleet, wall: Callable[[], float] = time.time) -> Iterator[Check]:
    """Whether Redis is there, new enough, has the time that we have, and lets a fleet do what it does."""
    with fleet.reached():
        yield Check("redis", "ok", f"{fleet.place} answers ({_round_trip(fleet) * 1000:.1f} ms)")
        yield _version(fleet)
        yield _skew(fleet, wall)
        refused = list(_refused(fleet))
    if refused:
        rights = " ".join(f"+{each}" for each in refused)
        yield Check(
            "rights", "error", f"the user may not: {', '.join(refused)}", f"ACL SETUSER ... {rights}, and its keys"
        )
    else:
        yield Check("rights", "ok", "everything that a fleet and this command line send is allowed")


def _round_trip(fleet: Fleet) -> float:
    started = time.perf_counter()
    fleet.client.get(fleet.keys.circuit("resilience-doctor"))
    return time.perf_counter() - started


def _version(fleet: Fleet) -> Check:
    try:
        told: Any = fleet.client.info("server")
    except fleet.refused:
        return Check("version", "ok", "not told: the user has no right to INFO, and needs none")
    name = "valkey" if "valkey_version" in told else "redis"
    text = str(told.get(f"{name}_version", "0"))
    numbers = tuple(int(part) if part.isdigit() else 0 for part in text.split(".")[:2])
    if numbers < OLDEST:
        return Check("version", "error", f"{name} {text}", f"a fleet needs {'.'.join(map(str, OLDEST))} or newer")
    return Check("version", "ok", f"{name} {text}")


def _skew(fleet: Fleet, wall: Callable[[], float]) -> Check:
    before = wall()
    server = fleet.now() / 1_000_000
    off = server - (before + wall()) / 2
    if abs(off) > MOST_SKEW:
        text = f"this host is {abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} Redis"
        return Check(
            "clock", "warning", text, "a fleet counts by Redis' clock, but logs of hosts will disagree: use NTP"
        )
    return Check("clock", "ok", f"within {MOST_SKEW:g} s of this host's")


def _refused(fleet: Fleet) -> Iterator[str]:
    """Commands that the user has no right to."""
    key = fleet.keys.sister(fleet.keys.circuit("resilience-doctor"), uuid4().hex)
    client: Any = fleet.client
    told: list[tuple[str, Callable[[], Any]]] = [
        ("set", lambda: client.set(key, "x", ex=_SCRATCH)),
        ("get", lambda: client.get(key)),
        ("pttl", lambda: client.pttl(key)),
        ("del", lambda: client.delete(key)),
        ("hset", lambda: client.hset(key, "x", "x")),
        ("pexpire", lambda: client.pexpire(key, _SCRATCH * 1000)),  # where hdel is refused, nothing stays for ever
        ("hget", lambda: client.hget(key, "x")),
        ("hgetall", lambda: client.hgetall(key)),
        ("hdel", lambda: client.hdel(key, "x")),
        ("time", client.time),
        ("publish", lambda: client.publish(key, "window")),
        ("eval", lambda: client.eval("return 1", 1, key)),
        ("evalsha", lambda: client.evalsha(_RETURN_1, 1, key)),
        ("scan", lambda: client.scan(0, match=key, count=1)),
        ("subscribe", lambda: _subscribed(fleet, "subscribe", key)),
        ("psubscribe", lambda: _subscribed(fleet, "psubscribe", f"{fleet.prefix}rc:*")),
    ]
    for name, send in told:
        try:
            send()
        except fleet.refused:
            yield name


_RETURN_1 = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


def _subscribed(fleet: Fleet, command: str, channel: str) -> None:
    client: Any = fleet.client
    with client.pubsub() as news:
        getattr(news, command)(channel)
        news.get_message(timeout=1.0)  # the answer, which may be that it is not allowed
