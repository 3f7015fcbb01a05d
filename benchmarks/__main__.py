"""Run benchmarks: ``make bench``, ``make bench QUICK=1``, ``make bench ARGS="hit-4k cold-s3"``."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path

from benchmarks import report
from benchmarks.report import Entry
from benchmarks.row import Row, SkippedError
from benchmarks.rows import ROWS
from benchmarks.stage import Stage


def run(row: Row, stage: Stage) -> Entry:
    started = time.monotonic()
    try:
        outcome = row.run(stage)
    except SkippedError as error:
        return Entry(row, None, skipped=str(error))
    except Exception as error:  # the other rows are still worth something
        traceback.print_exc()
        return Entry(row, None, failure=f"{type(error).__name__}: {error}")
    return Entry(row, outcome, seconds=time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default: all of {' '.join(ROWS)}")
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="on the filesystem to measure (%(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="where to write the samples"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {' '.join(unknown)}; there are {' '.join(ROWS)}")
    quick = os.environ.get("QUICK", "") not in ("", "0")
    with Stage(quick=quick, directory=arguments.dir) as stage:
        filesystem = stage.filesystem
        print(
            f"{'QUICK: the figures mean little; ' if quick else ''}{stage.n_rounds} rounds on {filesystem}\n"
        )
        entries = []
        for name in arguments.rows or ROWS:
            entries.append(run(ROWS[name], stage))
            report.say(entries[-1])
    report.print_table(entries)
    arguments.results.mkdir(parents=True, exist_ok=True)
    written = arguments.results / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    report.write_json(written, entries, quick=quick, n_rounds=stage.n_rounds, filesystem=filesystem)
    print(f"\nsamples in {os.path.relpath(written)}")
    return 1 if any(entry.failure for entry in entries) else 0


if __name__ == "__main__":
    sys.exit(main())
