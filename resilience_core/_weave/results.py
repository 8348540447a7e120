"""Judging returned values: a bad one travels outwards as a `BadResult`, and the edge returns it in the end."""

from __future__ import annotations

from typing import Any

from resilience_core._verdicts import BadResult, ResultClassifier, Verdict, as_judgement
from resilience_core._weave.site import Args, AsyncCall, Call, Kwargs, Site


def _judged(result: Any, classify: ResultClassifier) -> Any:
    try:
        judgement = as_judgement(classify(result))
    except Exception as error:
        # The call itself succeeded: a broken classifier must not turn its value into a failure.
        from resilience_core._event_log import say

        text = f"classify_result failed on a {type(result).__name__}; the value is returned as it is"
        say("resilience.classifier.failed", text, error=error)
        return result
    if judgement.verdict is Verdict.SUCCESS:
        return result
    raise BadResult(result, judgement)


def judging_results(call: Call, classify: ResultClassifier, site: Site) -> Call:
    """`call`, raising `BadResult` for what `classify` does not call a SUCCESS."""
    refuse_streams(site)
    site.returns_bad_results = True

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        return _judged(call(args, kwargs), classify)

    return guarded


def judging_results_async(call: AsyncCall, classify: ResultClassifier, site: Site) -> AsyncCall:
    """The twin of `judging_results` for async code."""
    refuse_streams(site)
    site.returns_bad_results = True

    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        return _judged(await call(args, kwargs), classify)

    return guarded


def refuse_streams(site: Site, what: str = "classify_result") -> None:
    """Raise `TypeError` where `site` is a generator, which has no single value."""
    if site.streaming:
        raise TypeError(f"{what} cannot guard {site.operation}: a stream has no single result")
