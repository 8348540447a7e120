"""Prints each bar: what was asked, what was measured, and whether it is met."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from proofs.table import Row, exit_code, printed, shown
from proofs.whatsapp import bars, ours
from proofs.whatsapp.costs import costs
from proofs.whatsapp.plants import PLANTS
from proofs.whatsapp.story import SENDERS, SHORTEST, THROUGHPUT, Told, told

OTHERS = ("naive", "pywa")
FULL = {"messages": 20_000, "recipients": 2_000}
SMALL = {"messages": 240, "recipients": 40}

HOT = 0.1
"""Of the messages, those to 1 % of the recipients: in the small form not enough to meet the limit of a pair, because
there a third of a second of the machine's time is as long as a pair must wait."""


class Proof:
    """One run of the proof."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.small: bool = options.small
        size = SMALL if options.small else FULL
        messages = options.messages or size["messages"]
        recipients = max(20, messages // 10) if options.messages else size["recipients"]
        self.load: dict[str, Any] = {
            "messages": messages, "recipients": recipients, "speed": options.speed, "seed": options.seed,
            "hot": options.hot, "shortest": options.shortest, "throughput": options.throughput,
        }  # fmt: skip
        self.plant: str | None = options.plant
        self.found: dict[str, Told] = {}
        self.store: str = options.store
        self.trouble: Path | None = options.trouble

    def chaos(self) -> list[Row]:
        """Our sender."""
        found = self.found["ours"] = told(
            "ours", prepare=partial(ours.prepare, store=self.store, small=self.small), plant=self.plant, **self.load
        )
        if self.trouble is not None:
            self.trouble.write_text(found.trouble)
        cpu = ", ".join(f"{who} {seconds:.0f} s" for who, seconds in found.cpu.items())
        return [*bars.chaos(found), shown("end", "CPU", f"{sum(found.cpu.values()):.0f} s", cpu)]

    def others(self) -> list[Row]:
        """The same load through what people use instead; nothing is asked of it."""
        with ThreadPoolExecutor(len(OTHERS)) as pool:
            self.found |= zip(OTHERS, pool.map(lambda kind: told(kind, **self.load), OTHERS), strict=True)
        rows = []
        for line in bars.compared(self.found):
            for what, figure in zip(bars.COLUMNS[1:], line[1:], strict=True):
                rows.append(shown("beside", f"{line[0]}: {what}", figure, f"{self.load['messages']:,} messages"))
        return rows

    def cost(self) -> list[Row]:
        """What an outbox costs."""
        return costs(self.small)


def main() -> int:
    """Prove, and print."""
    parts: dict[str, Callable[[Proof], list[Row]]] = {
        "chaos": Proof.chaos, "others": Proof.others, "cost": Proof.cost,
    }  # fmt: skip
    parser = argparse.ArgumentParser(prog="python -m proofs.whatsapp", description=__doc__)
    parser.add_argument("--parts", default=",".join(parts), help=f"only these, of {','.join(parts)}")
    parser.add_argument("--small", action="store_true", help="a small form of chaos alone, in a faster time")
    parser.add_argument(
        "--messages", type=int, help=f"default {FULL['messages']}, in the small form {SMALL['messages']}"
    )
    parser.add_argument(
        "--hot", type=float, default=HOT, help="the part of the messages that goes to 1 %% of recipients"
    )
    parser.add_argument(
        "--shortest", type=float, default=SHORTEST, help="seconds in which the messages fall due, at least"
    )
    parser.add_argument(
        "--throughput", type=float, default=THROUGHPUT, help="messages a second that the number may send"
    )
    parser.add_argument("--speed", type=float, help="seconds of the API in a second; default 4, in the small form 20")
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite", help="where our outbox is")
    parser.add_argument("--seed", type=int, default=1, help="of all that the simulator does by chance")
    plants = f"break the framework in this way first: {', '.join(PLANTS)}"
    parser.add_argument("--plant", default=os.environ.get("PLANT") or None, help=plants)
    parser.add_argument("--json", type=Path, help="write the rows to this file, too")
    parser.add_argument("--trouble", type=Path, help="write what our programs said on standard error to this file")
    options = parser.parse_args()
    if options.plant and options.plant not in PLANTS:
        parser.error(f"no such plant; there are {', '.join(PLANTS)}")
    asked = ["chaos"] if options.small or options.plant else options.parts.split(",")
    if not set(asked) <= set(parts):
        parser.error(f"no such part; there are {', '.join(parts)}")
    options.speed = options.speed or (20.0 if options.small else 4.0)
    proof = Proof(options)
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {SENDERS} senders, "
        f"{proof.load['messages']:,} messages, {options.speed:g} seconds in one\n",
        flush=True,
    )
    rows: list[Row] = []
    for name in asked:
        began = time.monotonic()
        try:
            found = parts[name](proof)
        except Exception:
            traceback.print_exc()
            found = [Row(name, "the proof itself", "an end", "an exception", "", False)]
        rows += found
        for row in found:
            printed(row)
        print(f"        ({time.monotonic() - began:.1f} s)", flush=True)
    return exit_code(rows, options.json)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    sys.exit(main())
