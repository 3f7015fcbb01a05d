"""Cut the power while processes write: snapshots of a filesystem's image, mounted and read elsewhere.

    python power_loss.py KIND... [--snapshots 20] [--seed 1] [--directory DIRECTORY]

The image of the filesystem (ext4, xfs or btrfs) lies on an xfs that can clone files, so a snapshot of it is
one atomic step, as a power cut is.  Meanwhile workers fill, retire and invalidate, and the filesystem is told
at random moments to begin writing back, so that snapshots fall into the middle of that.  Prints what was
found; exit status 1 if a page was wrong or a cache not usable.
"""

import argparse
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]
from kills import Tally, is_usable, start  # type: ignore[import-not-found]
from worker import Origin  # type: ignore[import-not-found]

FICLONE = 0x40049409
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
MOUNT_OPTIONS = {"ext4": "loop,commit=1", "xfs": "loop,nouuid", "btrfs": "loop,commit=1"}
SIZE = 320 << 20


@contextlib.contextmanager
def mounted(image: Path, kind: str, where: Path) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", MOUNT_OPTIONS[kind], image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def clone(source: Path, target: Path) -> None:
    """One atomic step: the filesystem below holds back all writes to the image meanwhile."""
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, FICLONE, old.fileno())


def power_loss(
    kind: str, directory: Path, *, snapshots: int, seed: int, processes: int = 4
) -> dict[str, int]:
    """Take snapshots under load and check each.  ``directory`` is on a filesystem that can clone files."""
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([*MAKE[kind], image], check=True, stdout=subprocess.DEVNULL)
    origin_directory = directory / "origin"
    origin_directory.mkdir()
    for number in range(30):
        (origin_directory / f"file{number}").write_bytes(bytes(8))
    origin = Origin(origin_directory)
    rng = random.Random(seed)
    alive: list[int] = []
    tally = Tally(processes)
    log = directory / "log"
    with mounted(image, kind, directory / "live") as live:
        (live / "cache").mkdir(mode=0o700)
        try:
            cache = live / "cache"
            alive += [
                start(cache, origin_directory, f"{seed} {number}", log, tally, number)
                for number in range(processes)
            ]
            stop = threading.Event()

            def write_back() -> None:
                pause = random.Random(seed)
                while not stop.wait(pause.expovariate(1 / 0.1)):
                    subprocess.run(["sync", "-f", live], check=True)

            thread = threading.Thread(target=write_back)
            thread.start()
            for number in range(snapshots):
                until = time.monotonic() + rng.uniform(0.1, 0.6)
                while time.monotonic() < until:
                    time.sleep(0.01)
                    origin.change(rng.choice(origin.names()))
                clone(image, directory / f"snapshot{number}")
            stop.set()
            thread.join()
        finally:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    names = ("power cuts", "reads checked", "pages compared at the end", "blocks found damaged")
    found = dict.fromkeys((*names, *findings.FAULTS), 0)
    found["power cuts"], found["reads checked"] = snapshots, tally.total()
    for number in range(snapshots):
        snapshot = directory / f"snapshot{number}"
        with mounted(snapshot, kind, directory / f"after{number}") as after:
            is_usable(after / "cache", origin, found)
        snapshot.unlink()
    complaints = log.read_text()
    found["wrong bytes"] += complaints.count("WrongBytesError:")
    found["exceptions"] += complaints.count("Traceback")
    found["blocks found damaged"] = complaints.count("does not match its checksum")
    return found


@contextlib.contextmanager
def cloning_directory(parent: Path | None) -> Iterator[Path]:
    """A directory on an xfs of its own."""
    with tempfile.TemporaryDirectory(dir=parent) as scratch:
        image = Path(scratch) / "outer"
        with image.open("wb") as file:
            file.truncate(4 << 30)
        subprocess.run([*MAKE["xfs"], image], check=True, stdout=subprocess.DEVNULL)
        with mounted(image, "xfs", Path(scratch) / "mnt") as directory:
            yield directory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="+", choices=sorted(MAKE))
    parser.add_argument("--snapshots", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    findings.add_json_option(parser)
    arguments = parser.parse_args()
    found: Counter[str] = Counter()
    for kind in arguments.kinds:
        with cloning_directory(arguments.directory) as directory:
            part = power_loss(kind, directory, snapshots=arguments.snapshots, seed=arguments.seed)
        found.update(part)
    return int(findings.report(found, as_json=arguments.json))


if __name__ == "__main__":
    sys.exit(main())
