"""Real samples of the API, read in place: any directory with an `index.json` and the files that it names.

The samples are not part of the project. Where the directory is absent, the tests that need it are skipped; the
environment variable `WHATSAPP_CORPUS` names another one of the same shape.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

SHARED = Path(__file__).parents[3] / "shared"
CORPUS = Path(os.environ.get("WHATSAPP_CORPUS", SHARED / "corpus"))
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="the samples are not part of the project")
needs_facts = pytest.mark.skipif(not (SHARED / "facts").is_dir(), reason="the facts are not part of the project")


@frozen
class Sample:
    """One file of the corpus."""

    file: str
    kind: str
    body: bytes
    http_status: int | None
    error_codes: tuple[int, ...]

    @property
    def content(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)


def samples(kind: str, directory: Path = CORPUS) -> list[Sample]:
    """Those whose kind is `kind` or begins with `kind.`; none where there is no such directory."""
    if not directory.is_dir():
        return []
    return [
        Sample(
            row["file"],
            row["kind"],
            (directory / row["file"]).read_bytes(),
            row.get("http_status"),
            tuple(row.get("error_codes") or ()),
        )
        for row in json.loads((directory / "index.json").read_text())["samples"]
        if row["kind"] == kind or row["kind"].startswith(f"{kind}.")
    ]
