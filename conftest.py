"""The code blocks of README and docs are tests. Those that share state find a real Redis in `REDIS_URL`."""

import gc
from collections.abc import Generator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.sybil import SybilCollection

from tests._redis import HOST, RedisServer
from tests._redis import redis_server as redis_server  # noqa: PLC0414 - a fixture for all tests


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector: hundreds of thousands of objects are made, and stay.

    To look at them again and again takes a third of the time, and each `gc.collect()` of a test would look at them all.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# With `--dist loadfile` a file is one process's; what takes longest starts first, or the others wait for it at the end.
LONGEST = [
    f"tests/{file}.py"
    for file in (
        *("fleet/test_prove", "fleet/test_deployments", "fleet/test_agent", "fleet/test_outages", "fleet/test_model"),
        *("cli/test_processes", "config/test_fuzz", "fleet/test_replay", "machines/test_shared_circuit"),
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


SHARING = ["README.md", "fleet.md"]


@pytest.fixture(scope="module")
def redis_for_docs(redis_server: RedisServer) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
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
