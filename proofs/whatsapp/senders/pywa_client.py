"""pywa as its documentation shows it; it raises what fails, and tries nothing again."""

from __future__ import annotations

import warnings

import httpx

from proofs.whatsapp.load import Job
from proofs.whatsapp.senders.common import Task, send_all

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it warns about at import is not ours
    from pywa.types.templates import BodyText, TemplateLanguage
    from pywa_async import WhatsApp  # type: ignore[attr-defined]


async def main(task: Task) -> None:
    """Send its part."""

    def client(token: str) -> WhatsApp:
        # It writes its own base address into the session that it is given: ours is set after that.
        session = httpx.AsyncClient(timeout=10.0)
        whatsapp = WhatsApp(phone_id=task.phone_number_id, waba_id=task.waba_id, token=token, session=session)
        session.base_url = f"{task.base_url}/v25.0"
        return whatsapp

    clients: dict[str, WhatsApp] = {}

    async def send(job: Job) -> str:
        token = task.token()
        if token not in clients:
            clients[token] = client(token)
        try:
            await clients[token].send_template(
                to=job.to,
                name=job.template,
                language=TemplateLanguage.FRENCH,
                params=[BodyText.params(job.id, "demain")],  # type: ignore[arg-type]
                tracker=job.id,
            )
        except Exception:  # answers that it does not expect end in errors of any kind
            return "failed"
        return "accepted"

    await send_all(task, send, at_once=32)
