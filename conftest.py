"""The code blocks of README and docs are tests. Those that share state find a real Redis in `REDIS_URL`."""

import gc
import signal
from collections.abc import Generator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.sybil import SybilCollection

from tests._redis import HOST, RedisServer
from tests._redis import redis_server as redis_server  # noqa: PLC0414 - a fixture for all tests


def pytest_configure() -> None:
    """What a script starts in its background ignores Ctrl-C, and so would the programs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector, which would look at all that is made, and stays, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


LONGEST = (
    "tests/fleet/test_prove.py",
    "tests/fleet/test_deployments.py",
    "tests/fleet/test_outages.py",
    "tests/cli/test_processes.py",
    "tests/whatsapp/test_prove.py",
    "tests/test_benchmarks.py",
    "tests/whatsapp/outbox/test_kill.py",
    "tests/whatsapp/test_demo.py",
    "tests/fleet/test_limits.py",
    "tests/test_redis_fixture.py",
)
"""Files of 10 s and more: begun last, each would keep one process busy while the others have nothing left to do."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


SHARING = ["README.md", "fleet.md", "gates.md", "templates.md"]


@pytest.fixture(scope="module")
def redis_for_docs(redis_server: RedisServer) -> Generator[None]:
    from resilience_core.redis import RedisFleet  # here: coverage has begun

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RedisFleet.__init__.__kwdefaults__, "timeout", 5.0)  # a slow machine is no outage
        patch.setenv("REDIS_URL", redis_server.url)
        patch.setenv("REDIS_HOST", HOST)
        patch.setenv("REDIS_PORT", str(redis_server.port))
        yield


pytest_collect_file = SybilCollection(
    [
        Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"], excludes=SHARING),
        Sybil(parsers=[PythonCodeBlockParser()], patterns=SHARING, fixtures=["redis_for_docs"]),
    ]
).pytest()
