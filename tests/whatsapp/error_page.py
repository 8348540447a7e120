"""The tables of docs/whatsapp-errors.md, made of the data: `python -m tests.whatsapp.error_page` writes them anew."""

from __future__ import annotations

from pathlib import Path

from resilience_core import Verdict
from resilience_whatsapp import ERROR_CODES, ERROR_SUBCODES, ErrorClass, ErrorCode, classify_graph
from resilience_whatsapp.errors import graph_error

PAGE = Path(__file__).parents[2] / "docs" / "whatsapp-errors.md"
TRIES_AGAIN = {Verdict.TRANSIENT: "tries again", Verdict.THROTTLED: "waits, tries again", Verdict.PERMANENT: "gives up"}
COUNTS = {Verdict.TRANSIENT: "failure", Verdict.THROTTLED: "no", Verdict.PERMANENT: "no"}


def row_of(code: ErrorCode, number: str) -> str:
    """What the adapter does about one code, asked of the adapter itself."""
    error = graph_error(code.code, code.subcode, False, 500 if code.error_class is ErrorClass.TRANSIENT else 400)
    verdict = classify_graph(error).verdict
    wait = "" if error.wait is None else f" ({error.wait:.0f} s)"
    cells = (
        number,
        code.meaning,
        f"`{type(error).__name__}`",
        error.scope,
        f"{error.advice.value}{wait}",
        TRIES_AGAIN[verdict]
        if verdict is not Verdict.THROTTLED or error.wait is None
        else "waits if it may wait so long",
        COUNTS[verdict],
        error.ambiguity,
    )
    return f"| {' | '.join(cells)} |"


def table(rows: list[str]) -> str:
    """A Markdown table of these rows."""
    head = ("code", "what it is", "error", "scope", "what helps", "the retry", "the breaker counts", "carried out?")
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
