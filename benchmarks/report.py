"""The table on the terminal, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.row import Figure, Outcome, Row

CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Entry:
    """One row and what came of it: an outcome, or why there is none."""

    row: Row
    outcome: Outcome | None
    failure: str = ""
    skipped: str = ""
    seconds: float = 0.0  #: that the row took, set-up included


def say(entry: Entry) -> None:
    """All there is to say of one row, as soon as it is known."""
    row, outcome = entry.row, entry.outcome
    print(f"{row.name} ({entry.seconds:.0f} s): {row.compared}")
    if outcome is None:
        print(f"    {'skipped: ' + entry.skipped if entry.skipped else 'FAILED: ' + entry.failure}")
    else:
        for figure in outcome.figures:
            print(f"    {figure_text(figure)}")
        if outcome.sides:
            print(f"    {sides_text(outcome.sides)}")
        print(f"    the same bytes: {outcome.same_bytes}")
    print(flush=True)


def figure_text(figure: Figure) -> str:
    name = f"{figure.name}: " if figure.name else ""
    spread = f" ({figure.quartiles[0]:.2f} - {figure.quartiles[1]:.2f})" if figure.quartiles else ""
    reach = f", to reach {figure.target}: {verdict(figure)}" if figure.target else ""
    return f"{name}{figure.value:.2f}{figure.unit}{spread}{reach}"


def sides_text(sides: Mapping[str, str]) -> str:
    return "; ".join(f"{side} {text}" for side, text in sides.items())


def verdict(figure: Figure) -> str:
    return {True: "reached", False: "MISSED", None: ""}[figure.is_met]


def print_table(entries: Sequence[Entry]) -> None:
    table = Table("row", "", box=None, pad_edge=False)
    for title in ("figure", "quartiles", "to reach"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("medians, for orientation only", overflow="fold")
    for entry in entries:
        if entry.outcome is None:
            table.add_row(entry.row.name, "", "", "", "", "skipped" if entry.skipped else "FAILED", "")
            continue
        sides = sides_text(entry.outcome.sides)
        for at, figure in enumerate(entry.outcome.figures):
            table.add_row(
                "" if at else entry.row.name,
                figure.name,
                f"{figure.value:.2f}{figure.unit}",
                f"{figure.quartiles[0]:.2f} - {figure.quartiles[1]:.2f}" if figure.quartiles else "",
                figure.target,
                verdict(figure),
                "" if at else sides,
            )
    console = Console()
    # What no terminal limits need not be folded.
    console.width = console.width if console.is_terminal else 200
    console.print(table, markup=False)


def write_json(path: Path, entries: Sequence[Entry], *, quick: bool, n_rounds: int, filesystem: str) -> None:
    """Write everything that was measured.  Names no host and no directory."""
    report = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "quick": quick,
        "n_rounds": n_rounds,
        "machine": {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "processor": platform.machine(),
            "n_cpus": os.cpu_count(),
            "filesystem": filesystem,
        },
        "packages": {d.name: d.version for d in distributions()},
        "rows": {entry.row.name: row_json(entry) for entry in entries},
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def row_json(entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {"compared": entry.row.compared, "seconds": round(entry.seconds, 1)}
    outcome = entry.outcome
    if outcome is None:
        return facts | ({"skipped": entry.skipped} if entry.skipped else {"failure": entry.failure})
    figures = [
        {
            "name": figure.name,
            "value": figure.value,
            "unit": figure.unit,
            "quartiles": figure.quartiles,
            "at_most": figure.at_most,
            "at_least": figure.at_least,
            "reached": figure.is_met,
        }
        for figure in outcome.figures
    ]
    return facts | {
        "figures": figures,
        "sides": dict(outcome.sides),
        "samples": dict(outcome.samples),
        "same_bytes": outcome.same_bytes,
    }


def commit() -> str | None:
    """What is checked out, if this is a checkout; with a ``+`` if it was changed."""
    git = ["git", "-C", str(CHECKOUT)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.strip() + ("+" if changed else "")
