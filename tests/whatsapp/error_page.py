"""The tables of docs/whatsapp-errors.md, made of the data: `python -m tests.whatsapp.error_page` writes them anew."""

from __future__ import annotations

from pathlib import Path

from resilience_core import Verdict
from resilience_whatsapp import (
    ERROR_CODES,
    ERROR_SUBCODES,
    TEMPLATE_QUARANTINE,
    ErrorClass,
    ErrorCode,
    GraphError,
    RetryAdvice,
    classify_graph,
)
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.templates._book import _MISFITS

PAGE = Path(__file__).parents[2] / "docs" / "whatsapp-errors.md"
DOES = {Verdict.TRANSIENT: "tries again", Verdict.THROTTLED: "waits, tries again", Verdict.PERMANENT: "gives up"}
COUNTS = {Verdict.TRANSIENT: "failure", Verdict.THROTTLED: "no", Verdict.PERMANENT: "no"}


def human(seconds: float) -> str:
    """A wait as people say it: `10 min`."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def helps(error: GraphError) -> str:
    """What must happen before it can succeed."""
    if error.wait is None:
        return error.advice.value
    if error.advice is RetryAdvice.WAIT:
        return f"repeat it after {human(error.wait)}"
    return f"{error.advice.value} ({human(error.wait)} at least)"


def does(error: GraphError) -> str:
    """What the adapter does by itself."""
    verdict = classify_graph(error).verdict
    if verdict is Verdict.THROTTLED and error.wait is not None:
        return "gives up, unless it may wait so long"
    aside = TEMPLATE_QUARANTINE.get(error.code or 0)
    if aside is not None:
        return f"gives up, sets the template aside for {human(aside)}"
    if error.code in _MISFITS:
        return "gives up, compares the template no more until the next listing"
    return DOES[verdict]


def row_of(code: ErrorCode, number: str) -> str:
    """What the adapter does about one code, asked of the adapter itself."""
    error = graph_error(code.code, code.subcode, False, 500 if code.error_class is ErrorClass.TRANSIENT else 400)
    verdict = classify_graph(error).verdict
    name = f"`{type(error).__name__}`"
    cells = (number, code.meaning, name, error.scope, helps(error), does(error), COUNTS[verdict], error.ambiguity)
    return f"| {' | '.join(cells)} |"


def table(rows: list[str]) -> str:
    """A Markdown table of these rows."""
    head = ("code", "what it is", "error", "scope", "what helps", "the adapter", "the breaker counts", "carried out?")
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def tables() -> dict[str, str]:
    """All generated tables by the name of their place in the page."""
    codes = [row_of(row, str(code)) for code, row in sorted(ERROR_CODES.items())]
    pairs = [row_of(row, f"{code}/{sub}") for (code, sub), row in sorted(ERROR_SUBCODES.items())]
    return {"codes": table(codes), "subcodes": table(pairs)}


def written(page: str) -> str:
    """The page with its tables made anew."""
    for name, text in tables().items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + text + end + rest.split(end)[1]
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
