"""That the benchmarks run.  What they measure is not judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rounds import Rounds
from benchmarks.row import DifferentBytesError, the_same

ROOT = Path(__file__).resolve().parent.parent

# One of each family that needs no server and no crowd of files.
ROWS = ["hit-4k", "hit-4k-async", "always-64k", "open-64k", "amplification", "fill"]


def run_benchmarks(directory: Path, *rows: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--dir", directory, "--results", directory / "results", *rows],
        cwd=ROOT,
        env={**os.environ, "QUICK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_rows_run_and_say_that_both_sides_returned_the_same_bytes(tmp_path: Path) -> None:
    done = run_benchmarks(tmp_path, *ROWS)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the same bytes: ") == len(ROWS)
    (result,) = (tmp_path / "results").iterdir()
    rows = json.loads(result.read_text())["rows"]
    assert list(rows) == ROWS
    for row in rows.values():
        assert all(figure["value"] > 0 for figure in row["figures"])
        assert str(tmp_path) not in json.dumps(row)
    # Nothing is left behind.
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_row_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    done = run_benchmarks(tmp_path, "hit-4m")
    assert done.returncode == 2
    assert "no such row: hit-4m; there are hit-4k " in done.stdout


def test_sides_with_different_bytes_have_no_outcome() -> None:
    assert "3 reads" in the_same("3 reads", {"raw": "ab", "fscache": "ab"})
    with pytest.raises(DifferentBytesError, match="raw: ab, fscache: ac"):
        the_same("3 reads", {"raw": "ab", "fscache": "ac"})


def test_a_figure_is_the_median_of_the_ratios_within_rounds() -> None:
    rounds = Rounds(3)
    for ours, theirs in ((2.0, 1.0), (30.0, 10.0), (4.0, 1.0)):
        rounds.note("ours", ours)
        rounds.note("theirs", theirs)
    figure = rounds.ratio("ours", "theirs", at_most=3)
    assert figure.value == 3
    assert figure.is_met
    assert not rounds.ratio("ours", "theirs", at_most=2.9).is_met
    assert rounds.ratio("ours", "theirs", faster=True, at_least=0.5).value == pytest.approx(1 / 3)
