"""A client that no one here wrote sends through the simulator, unchanged but for its base address.

pywa has no setting for that address: it writes Meta's into the `httpx.Client` that it is given. Assigning `base_url` of
that session afterwards is public httpx and all that is needed; nothing of pywa is patched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from resilience_whatsapp.simulator import Fault, SimulatorThread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what another library warns about at import is not ours
    from pywa.client import WhatsApp
    from pywa.errors import WhatsAppError
    from pywa.types.templates import BodyText, TemplateLanguage

NUMBER = "+33612345678"
body_params: Any = BodyText.params  # works on the class and on an instance, which its types cannot say


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with SimulatorThread() as running:
        yield running


@pytest.fixture
def client(simulator: SimulatorThread) -> Iterator[WhatsApp]:
    api = simulator.simulator
    with httpx.Client() as session:
        whatsapp = WhatsApp(phone_id=api.phone_number_id, waba_id=api.waba_id, token=api.token, session=session)
        session.base_url = f"{simulator.base_url}/v26.0"
        yield whatsapp


def test_pywa_sends_a_text_and_a_template(simulator: SimulatorThread, client: WhatsApp) -> None:
    assert client.send_message(to=NUMBER, text="bonjour").id.startswith("wamid.")
    sent = client.send_template(
        to=NUMBER,
        name="order_confirmation",
        language=TemplateLanguage.FRENCH,
        params=[body_params("7", "demain")],
        tracker="order-7",
    )
    last = simulator.book.entries[-1]
    assert (sent.id, last.opaque, last.answered) == (last.wamid, "order-7", True)
    assert [entry.template for entry in simulator.book.entries] == [None, "order_confirmation"]


def test_pywa_marks_as_read(simulator: SimulatorThread, client: WhatsApp) -> None:
    assert client.mark_message_as_read("wamid.x")
    assert simulator.book.entries == []


def test_pywa_understands_the_errors(simulator: SimulatorThread, client: WhatsApp) -> None:
    with pytest.raises(WhatsAppError) as refused:
        client.send_template(to=NUMBER, name="order_confirmation", language=TemplateLanguage.FRENCH, params=[])
    assert (refused.value.code, refused.value.status_code) == (132000, 400)
    assert "expected number of params (2)" in str(refused.value.details)
    simulator.script(Fault("error", code=131056), Fault("html"))
    for code in (131056, 502):  # pywa takes the status for the code of an answer that is no JSON
        with pytest.raises(WhatsAppError) as failed:
            client.send_message(to=NUMBER, text="bonjour")
        assert failed.value.code == code
