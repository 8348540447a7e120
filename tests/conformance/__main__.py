"""`python -m tests.conformance DIR` runs the vectors; `--skips DIR` prints the list that docs/conformance.md has."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.runner import SHARED, report, skips_as_markdown

if "--skips" in sys.argv:
    print(skips_as_markdown(Path(sys.argv[2]) if len(sys.argv) > 2 else SHARED))
    sys.exit()
lines, passed, failed, skipped = report(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED)
print(*lines, sep="\n")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(bool(failed))
