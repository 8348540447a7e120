"""What docs/command-line.md shows is what the command line says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilience_core import Bulkhead, CircuitBreaker, Pipeline, RateLimiter, Retry
from resilience_core.admin import AdminSocket
from resilience_core.redis import RedisFleet
from resilience_core.registry import Registry
from tests._redis import RedisServer
from tests.cli.conftest import Told

PAGE = Path(__file__).parent.parent.parent / "docs" / "command-line.md"
DATABASE = 5
"""Of the shared server; the page shows a fleet without a prefix."""
BAD = '[policies.graph.retry]\nmax_attempts = 0\nbase_delya = "200ms"\n'
GOOD = "[policies.graph.retry]\nmax_attempts = 4\n\n[policies.graph.timeout]\nseconds = 5\n"


def blocks() -> Iterator[list[tuple[str, str]]]:
    """The commands of each block of the page, and what it shows of their output."""
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        yield list(zip(parts[::2], parts[1::2], strict=True))


VARIES = [
    (r"process \d+ \([^)]*\)", "process 812 (app.py)"),
    (r"process at \S+", "process at /run/user/1000/resilience/812.sock"),
    (r"\d\d:\d\d:\d\d", "12:30:05"),
    (r"[\d.]+s ago", "0.2s ago"),
    (r"in (10m|9m \d+s)", "in 10m"),
    (r"in (1h|59m \d+s)", "in 1h"),
    (r"127\.0\.0\.1:\d+/\d", "127.0.0.1:6379/0"),
    (r"[\w.-]+@[\w.-]+", "ann@web-1"),
    (r"python: .*", "python: CPython 3.11.7 on Linux 6.18"),
    (r"packages: .*", "packages: resilience-framework 0.1.0, anyio 4.16.0, attrs 26.1.0, ..."),
    (r"telemetry: .*", "telemetry: no provider is set, so metrics and spans go nowhere"),
    (r" +", " "),
    (r" *\n", "\n"),
]


def alike(text: str) -> str:
    """Without what is different each time."""
    for pattern, replacement in VARIES:
        text = re.sub(pattern, replacement, text)
    return text.strip()


@pytest.mark.filterwarnings("ignore:breaker-outside-retry")
def test_the_page_shows_what_the_command_line_says(
    run: Callable[..., Told], place: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    graph, pay = CircuitBreaker("graph"), CircuitBreaker("pay")
    policies = [graph, pay, Bulkhead("pool", max_concurrent=20), RateLimiter("sms", rate=80)]
    policies.append(Pipeline(pay, Retry(on=OSError), name="pay.charge"))
    for policy in policies:
        registry.add(policy)
    url = f"{redis_server.url.rsplit('/', 1)[0]}/{DATABASE}"
    monkeypatch.chdir(place)
    Path("resilience.toml").write_text(BAD)
    Path("good.toml").write_text(GOOD)
    told = Told(0, "", "")
    fleet = RedisFleet(url, timeout=8.0)
    shared = CircuitBreaker("graph", fleet=fleet)
    shared.call(len, "ab")
    assert fleet.wait_ready(40)
    assert fleet.flush(40)
    shown, said = [], []
    with AdminSocket(registry=registry):
        for block in blocks():
            for command, output in block:
                if command == "echo $?":
                    now = f"{told.code}\n"
                else:
                    told = run(*shlex.split(command.replace("redis://127.0.0.1:6379/0", url))[1:])
                    now = told.out + told.err
                shown.append(f"$ {command}\n{alike(output)}")
                said.append(f"$ {command}\n{alike(now)}")
    fleet.close()
    assert said == shown
