"""Prints each bar: what was asked, what was measured, and whether it is met."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from proofs.fleet import counting, keys, limits, outages, probing, sizing, values
from proofs.fleet.crew import Crew
from proofs.fleet.plants import PLANTS
from proofs.fleet.stage import Proof, Stage
from proofs.redis_server import Server
from proofs.table import Row, exit_code, printed

AT_A_TIME = 4
"""Bars of the small form."""
PROOFS: dict[str, Proof] = {
    "6,7": outages.down,
    "8": probing.one_probe,
    "9": probing.lost_probes,
    "10": counting.at_the_same_moment,
    "11": counting.side_by_side,
    "12": counting.late_results,
    "13": outages.faults,
    "14": keys.lives,
    "15": keys.poison,
    "16": keys.names,
    "17": limits.permits,
    "18": keys.round_trips,
    "19": keys.versions,
    "slots": limits.slots,
    "retries": limits.spending,
    "news": counting.news,
    "values": values.values,
}


def proved(bars: list[str], processes: int, small: bool, plant: str | None) -> list[Row]:
    """The rows of these bars, printed as they come."""
    rows: list[Row] = []
    server = Server()
    try:
        crew = Crew(processes, plant)
        try:
            for bar in bars:
                began = time.monotonic()
                try:
                    found = PROOFS[bar](Stage(crew, server, small))
                except Exception:
                    traceback.print_exc()
                    found = [Row(bar, "the proof itself", "an end", "an exception", "", False)]
                    crew.close()  # jobs may be under way
                    crew = Crew(processes, plant)
                rows += found
                for row in found:
                    printed(row)
                print(f"       ({time.monotonic() - began:.1f} s)", flush=True)
        finally:
            crew.close()
    finally:
        server.close()
    return rows


def side_by_side(bars: list[str], processes: int, plant: str | None) -> list[Row]:
    """The same in the small form: most of it is waiting, so some bars are proved at a time, each with its own Redis."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rf-proofs-") as directory:
        waiting, running = list(bars), dict[str, tuple[subprocess.Popen[bytes], Path]]()
        try:
            while waiting or running:
                while waiting and len(running) < AT_A_TIME:
                    bar = waiting.pop(0)
                    file = Path(directory, f"{bar}.json")
                    command = [sys.executable, "-m", "proofs.fleet", "--small", "--bars", bar, "--json", str(file)]
                    command += ["--processes", str(processes), *(["--plant", plant] if plant else [])]
                    running[bar] = subprocess.Popen(command, stdout=subprocess.DEVNULL), file
                for bar, (process, file) in list(running.items()):
                    if process.poll() is not None:
                        del running[bar]
                        found = [Row(**row) for row in json.loads(file.read_text())] if file.exists() else []
                        rows += found or [Row(bar, "the proof itself", "an end", "none", "", False)]
                        for row in found:
                            printed(row)
                time.sleep(0.05)
        finally:
            for process, _ in running.values():
                process.terminate()
                process.wait()
    return rows


def main() -> int:
    """Prove, and print."""
    parser = argparse.ArgumentParser(prog="python -m proofs.fleet", description=__doc__)
    parser.add_argument("--bars", help=f"only these, of {','.join(PROOFS)}")
    parser.add_argument("--processes", type=int, help="how many members; default 64, in the small form 8")
    parser.add_argument("--small", action="store_true", help="a small form: nothing that is measured in milliseconds")
    plants = f"break the framework in this way first, and prove the bar that must see it: {', '.join(PLANTS)}"
    parser.add_argument("--plant", default=os.environ.get("PLANT") or None, help=plants)
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    parser.add_argument("--sizing", action="store_true", help="measure the store's load instead, at 8 to 64 members")
    options = parser.parse_args()
    if options.plant and options.plant not in PLANTS:
        parser.error(f"no such plant; there are {', '.join(PLANTS)}")
    processes = options.processes or (8 if options.small else 64)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {processes} processes\n")
    if options.sizing:
        sizing.measure(processes, options.small)
        return 0
    asked = options.bars.split(",") if options.bars else list(PROOFS)
    if options.plant and not options.bars:
        asked = [PLANTS[options.plant].bar]
    bars = [bar for bar in PROOFS if bar in asked or set(bar.split(",")) & set(asked)]
    if options.small and len(bars) > 1:
        rows = side_by_side(bars, processes, options.plant)
    else:
        rows = proved(bars, processes, options.small, options.plant)
    return exit_code(rows, options.json)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    sys.exit(main())
