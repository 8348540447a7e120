"""Faults that belong together, by name. Times are the API's, from the moment that the scenario begins."""

from __future__ import annotations

from collections.abc import Mapping

from resilience_whatsapp.simulator.faults.script import Fault

_ANSWERS_LOST = (
    Fault("reset_after_accept", share=0.02, times=None),
    Fault("html", accepted=True, share=0.02, times=None),
    Fault("cut_after_accept", share=0.01, size=40, seconds=30.0, times=None),
    Fault("hang_after_accept", share=0.01, seconds=30.0, times=None),
)
_WEBHOOKS_UNRULY = (
    Fault("webhook_early", share=0.05, times=None),
    Fault("webhook_duplicate", share=0.1, times=None),
    Fault("webhook_reorder", share=0.1, times=None),
    Fault("webhook_rebatch", share=0.05, times=None),
    Fault("webhook_signature", share=0.02, times=None),
    Fault("webhook_dead", share=0.02, times=None),
    Fault("webhook_late", share=0.01, seconds=7200.0, times=None),
)
_BROWN_OUT = (
    Fault("error", code=131016, share=0.15, at=10.0, lasts=120.0, times=None),
    Fault("error", code=2, status=400, share=0.05, at=10.0, lasts=120.0, times=None),
    Fault("html", status=503, share=0.05, at=10.0, lasts=120.0, times=None),
    Fault("delay", seconds=2.0, share=0.2, at=10.0, lasts=120.0, times=None),
)
_OUTAGE = (Fault("dead", at=30.0, lasts=60.0),)

SCENARIOS: Mapping[str, tuple[Fault, ...]] = {
    # About a quarter of the sends fails from the tenth second on for two minutes; a fifth of the rest is slow.
    "brown-out": _BROWN_OUT,
    # Nothing listens from second 30 to second 90.
    "outage": _OUTAGE,
    # 6 % of the sends are accepted, and the answer is lost.
    "answers-lost": _ANSWERS_LOST,
    # Statuses come early, twice, in the wrong order, in other bodies, with a wrong signature, and hours late.
    "webhooks-unruly": _WEBHOOKS_UNRULY,
    # All is accepted, and fails a second later: no payment method.
    "unpaid": (Fault("fail_later", code=131042, times=None),),
    # 5 % of the messages are accepted, and never reach their user.
    "undeliverable": (Fault("fail_later", code=131026, share=0.05, times=None),),
    "chaos": (*_ANSWERS_LOST, *_BROWN_OUT, *_OUTAGE, *_WEBHOOKS_UNRULY),
}
