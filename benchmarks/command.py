"""The ``fscache`` command as a whole process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from benchmarks.row import Outcome, Row, the_same
from benchmarks.stage import make_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stage import Stage

#: A file that was just made is fetched each time: its timestamp is too young to prove anything.
AGE_SECONDS = 3


def command(stage: Stage) -> Outcome:
    origin = make_file(stage.new_path("origin"), 64 << 10)
    while time.time() - origin.stat().st_ctime < AGE_SECONDS:
        time.sleep(0.1)
    cache = f"cachefiles:dir={stage.new_path('cache')}"
    script = Path(sys.executable).with_name("fscache")
    cat: list[str | Path] = [script, "cat", "--cache", cache, origin.as_uri()]
    plain: list[str | Path] = [sys.executable, "-c", "import trio"]
    rounds = stage.rounds()
    # Of one process the start-up varies more than anything here, so a sample is several.
    n_processes = 1 if stage.quick else 5
    for line in (cat, plain):  # now it is cached, and what Python compiles of either side is, too
        output(line)
    for _ in rounds:
        with rounds.timed("import trio", n_processes):
            for _ in range(n_processes):
                output(plain)
        with rounds.timed("fscache cat", n_processes):
            for _ in range(n_processes):
                data = output(cat)
    digests = {
        "origin": xxhash.xxh3_64_hexdigest(origin.read_bytes()),
        "fscache cat": xxhash.xxh3_64_hexdigest(data),
    }
    same = the_same("the file", digests)
    figure = rounds.ratio("fscache cat", "import trio", at_most=2)
    return Outcome([figure], same, rounds.times(), rounds.samples)


def output(line: Sequence[str | Path]) -> bytes:
    """Standard output of a command, as where it is installed: with the .pyc files of all it imports."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, env=environment)
    return done.stdout


ROWS = (
    Row(
        "command",
        "`fscache cat` of a cached 64 KiB file / `python -c 'import trio'`, whole processes",
        command,
    ),
)
