"""`python -m tests.conformance DIR`"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conformance.runner import SHARED, report

lines, passed, failed, skipped = report(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED)
print(*lines, sep="\n")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(bool(failed))
