"""How many bytes the origin sends for what is read: counted at the origin, nothing is timed."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import xxhash

from benchmarks.row import Figure, Outcome, Row, the_same
from benchmarks.stage import MIB, start_python
from fscache_core import blocking
from fscache_core.testing.http_origin import CountingOrigin

if TYPE_CHECKING:
    from benchmarks.stage import Stage

READ_SIZE = 64 << 10
N_READS = 10
N_PROCESSES = 8


def amplification(stage: Stage) -> Outcome:
    """In each round other offsets and a cold cache; the worst round is the figure."""
    size = 64 * MIB
    data = random.Random(1).randbytes(size)
    chooser = random.Random(2)
    rounds = stage.rounds()
    digests = {"origin": xxhash.xxh3_64(), "fscache": xxhash.xxh3_64()}
    with CountingOrigin({"file": data}) as origin:
        for _ in rounds:
            origin.reset_counters()
            with blocking.open_fscache() as fscache:
                fscache.add_cache("cachefiles", dir=str(stage.new_path("cache")))
                with fscache.open_file(origin.url("file")) as file:
                    for _ in range(N_READS):
                        offset = chooser.randrange(size - READ_SIZE)
                        digests["origin"].update(data[offset : offset + READ_SIZE])
                        digests["fscache"].update(file.pread(offset, READ_SIZE))
            rounds.note("from the origin", origin.bytes_sent)
    same = the_same("all that was read", {side: digest.hexdigest() for side, digest in digests.items()})
    sent = rounds.samples["from the origin"]
    figure = Figure("", max(sent) / (N_READS * READ_SIZE), at_most=2)
    sides = {"read": f"{N_READS * READ_SIZE} B", "from the origin": f"at most {max(sent):.0f} B"}
    return Outcome([figure], same, sides, rounds.samples)


def together(stage: Stage) -> Outcome:
    """Each process starts while those before it are reading: the origin is slow enough for that."""
    size = (8 if stage.quick else 64) * MIB
    data = random.Random(1).randbytes(size)
    cache = stage.new_path("cache")
    with CountingOrigin({"file": data}) as origin:
        origin.rate = size / (2 if stage.quick else 4)
        readers = []
        for _ in range(N_PROCESSES):
            readers.append(start_python("benchmarks.reader", cache, origin.url("file")))
            time.sleep(0.25)
        digests = {"origin": xxhash.xxh3_64_hexdigest(data)}
        for number, reader in enumerate(readers):
            output, _ = reader.communicate()
            digests[f"process {number}"] = output.strip()
        sent = origin.bytes_sent
    same = the_same("the whole file", digests)
    sides = {"read": f"{N_PROCESSES} x {size} B", "from the origin": f"{sent} B"}
    return Outcome([Figure("", sent / size, at_most=1)], same, sides, {"from the origin": [sent]})


ROWS = (
    Row(
        "amplification",
        "10 reads of 64 KiB at random bytes of a cold 64 MiB file: bytes from the origin / bytes read",
        amplification,
    ),
    Row(
        "together",
        "8 processes on one cache directory read one cold file, staggered: bytes from the origin / file size",
        together,
    ),
)
