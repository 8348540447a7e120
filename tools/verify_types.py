"""Fails unless all public symbols of the packages named have known types, by `pyright --verifytypes`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def report(package: str) -> dict[str, Any]:
    """What pyright says of a copy of the package that stands alone, as an installed one does."""
    pyright = Path(sys.executable).with_name("pyright").absolute()
    with tempfile.TemporaryDirectory() as alone:
        shutil.copytree(package, Path(alone) / package, ignore=shutil.ignore_patterns("__pycache__"))
        command = [str(pyright), "--pythonpath", sys.executable, "--outputjson", "--ignoreexternal"]
        environment = {**os.environ, "PYTHONPATH": alone}
        done = subprocess.run(
            [*command, "--verifytypes", package],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            cwd=alone,
            env=environment,
        )
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def incomplete(completeness: dict[str, Any]) -> list[str]:
    """One line per exported symbol whose type is unknown or ambiguous, with pyright's reasons."""
    lines: list[str] = []
    for symbol in completeness["symbols"]:
        if symbol["isExported"] and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]):
            reasons = "; ".join(diagnostic["message"] for diagnostic in symbol["diagnostics"])
            lines.append(f"  {symbol['name']}: {reasons}")
    return lines


def main() -> int:
    status = 0
    for package in sys.argv[1:]:
        content = report(package)
        completeness = content["typeCompleteness"]
        score = completeness["completenessScore"]
        count = sum(completeness["exportedSymbolCounts"].values())
        if score == 1 and count:
            print(f"{package}: 100 % of {count} public symbols typed")
            continue
        status = 1
        print(f"{package}: {100 * score:.2f} % of {count} public symbols typed, 100 % wanted")
        for diagnostic in content["generalDiagnostics"]:
            print(f"  {diagnostic['message']}")
        print("\n".join(incomplete(completeness)))
    return status


if __name__ == "__main__":
    sys.exit(main())
