"""What an outbox costs: the rows of `benchmarks.whatsapp` about it, against what was asked."""

from __future__ import annotations

import statistics

from benchmarks import rows, whatsapp
from proofs.table import Row, at_most, shown

RATIO, RATE, SHARE = 2.0, 80.0, 0.25
PACE = 82.0
"""Messages a second that are offered where 80 are asked."""
AT_ONCE = 32


def costs(small: bool) -> list[Row]:
    """Measured in turns with a bare aiohttp POST, the simulator in a process of its own."""
    rows.quick = small
    what = "a send with outbox against a bare POST"
    killed, disk = whatsapp.cost(outbox="normal"), whatsapp.cost(outbox="full")
    cost = whatsapp.cost(outbox="full", at_once=AT_ONCE)
    found = [
        at_most("cost", f"{what}, surviving kill -9", killed.ratio(killed.wall), RATIO, _sample(killed), "x"),
        # The time of a disk is not ours: with one send after the other each waits for it alone.
        shown("cost", f"{what}, each waiting for the disk", f"{disk.ratio(disk.wall):.2f} x", _sample(disk)),
        at_most("cost", f"{what}, {AT_ONCE} of those at once", cost.ratio(cost.wall), RATIO, _sample(cost), "x"),
    ]
    paced = whatsapp.paced(PACE, *((0.5, 1) if small else (5.0, 5)))
    rate = paced.per_second["ours"]
    sample = ", ".join(f"{name} {share:.3f} of a core" for name, share in paced.cores.items())
    found.append(
        Row("cost", "messages a second to one number", f">= {RATE:g}", f"{rate:.1f}", f"{PACE:g} offered", rate >= RATE)
    )
    found.append(at_most("cost", "of a core beyond the bare POST at that rate", paced.beyond, SHARE, sample, "cores"))
    most = 1e6 / statistics.median(cost.wall["ours"])
    found.append(
        shown("cost", f"messages a second to one number, {AT_ONCE} at once", f"{most:.0f}", "as fast as it goes")
    )
    return found


def _sample(cost: whatsapp.Cost) -> str:
    return f"{len(cost.wall['ours'])} turns; {_micro(cost.wall)}, CPU {_micro(cost.cpu)}"


def _micro(times: dict[str, list[float]]) -> str:
    ours, bare = (statistics.median(times[name]) for name in ("ours", "bare"))
    return f"{ours:.0f} against {bare:.0f} us"
