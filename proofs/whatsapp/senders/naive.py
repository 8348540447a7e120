"""aiohttp and tenacity, as people write it: whatever fails is tried again, up to five times."""

from __future__ import annotations

import aiohttp
import tenacity

from proofs.whatsapp.load import LANGUAGE, Job, components
from proofs.whatsapp.senders.common import Task, send_all


async def main(task: Task) -> None:
    """Send its part."""
    url = f"{task.base_url}/v25.0/{task.phone_number_id}/messages"

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type((aiohttp.ClientError, TimeoutError)),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_exponential_jitter(max=10.0),
        reraise=True,
    )
    async def post(job: Job) -> None:
        payload = {
            "messaging_product": "whatsapp",
            "to": job.to,
            "type": "template",
            "template": {"name": job.template, "language": {"code": LANGUAGE}, "components": components(job)},
            "biz_opaque_callback_data": job.id,
        }
        headers = {"Authorization": f"Bearer {task.token()}"}
        async with session.post(url, json=payload, headers=headers) as response:
            response.raise_for_status()
            (await response.json())["messages"][0]["id"]

    async def send(job: Job) -> str:
        try:
            await post(job)
        except Exception:  # answers that it does not expect end in errors of any kind
            return "failed"
        return "accepted"

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10.0)) as session:
        await send_all(task, send, at_once=32)
