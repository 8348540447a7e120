"""What the tests of the adapter share."""

from collections.abc import Generator

import pytest

from resilience_core._weave import births


@pytest.fixture(autouse=True)
def _many_services() -> Generator[None]:
    """Each test makes services, whose policies are made by the same lines of the adapter: here that is no mistake."""
    with births.expected():
        yield
