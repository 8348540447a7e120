"""A client that no one here wrote sends through the simulator, unchanged but for its base address."""

from __future__ import annotations

import warnings

import httpx

from resilience_whatsapp.simulator import SimulatorThread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what another library warns about at import is not ours
    import pywa
    from pywa.types.templates import BodyText, TemplateLanguage


def test_pywa_sends_a_text_and_a_template() -> None:
    with SimulatorThread() as simulator, httpx.Client() as session:
        client = pywa.WhatsApp(
            phone_id=simulator.simulator.phone_number_id, token=simulator.simulator.token, session=session
        )
        # pywa writes Meta's address into the session it is given; pointing it elsewhere is all that is needed.
        session.base_url = f"{simulator.base_url}/v26.0"
        assert client.send_message(to="+33612345678", text="bonjour").id.startswith("wamid.")
        sent = client.send_template(
            to="+33612345678",
            name="order_confirmation",
            language=TemplateLanguage.FRENCH,
            params=[BodyText.params("7", "demain")],
        )
        assert sent.id == simulator.book.entries[-1].wamid
        assert [entry.template for entry in simulator.book.entries] == [None, "order_confirmation"]
