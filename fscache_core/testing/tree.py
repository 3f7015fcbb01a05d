"""A directory tree of real shape, the same for the same seed: what the demonstration and the benchmarks
read."""

from __future__ import annotations

import hashlib
import math
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK_SIZE = 1 << 20
_LARGEST_SMALL = 1 << 20
_EPOCH_SECONDS = 1_700_000_000
LARGE_NAME = "large/volume 0.img"
EMPTY_NAME = "empty"


@dataclass(frozen=True, slots=True)
class TreeFile:
    """What a file of the tree holds.  ``sha256`` is in hexadecimal."""

    size: int
    sha256: str


def make_tree(
    directory: Path, seed: int, n_files: int = 1000, large_size: int = 200 * 2**20
) -> dict[str, TreeFile]:
    """Fill `directory` (made if missing) with files, and say what they hold.

    There are `n_files` files of 1 byte to 1 MiB, log-uniform (a thousand make about 75 MiB), one of
    `large_size` bytes at `LARGE_NAME`, and an empty one at `EMPTY_NAME`.  They lie up to four directories
    deep; some names have spaces, some are not ASCII, some are 250 bytes long.  Their times are a minute apart
    from each other and years old, so a timestamp is evidence of a version at once.

    Returns:
      path relative to `directory`, with ``/`` -> what the file holds; in order of making.
    """
    chooser = random.Random(seed)
    names = [_name(chooser, index) for index in range(n_files)]
    # One size from each of n_files equal parts of the logarithmic scale: the same spread for every seed.
    sizes = [
        max(1, round(math.exp((index + chooser.random()) / n_files * math.log(_LARGEST_SMALL))))
        for index in range(n_files)
    ]
    chooser.shuffle(sizes)
    wanted = {EMPTY_NAME: 0, LARGE_NAME: large_size} | dict(zip(names, sizes, strict=True))
    manifest = {}
    for index, (name, size) in enumerate(wanted.items()):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest[name] = TreeFile(size, _fill(path, random.Random(f"{seed}/{name}"), size))
        os.utime(path, (_EPOCH_SECONDS, _EPOCH_SECONDS + 60 * index))
    return manifest


def _fill(path: Path, content: random.Random, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, _BLOCK_SIZE):
            block = content.randbytes(min(_BLOCK_SIZE, size - start))
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _name(chooser: random.Random, index: int) -> str:
    """The path of small file `index`: unique, because every file name holds the index."""
    directories = chooser.choice(
        ("", "docs", "data/2023", "data/2024/raw", "src/a/b/c", "Bilder/Übersicht", "with space/x")
    )
    stem = {
        0: f"notes {index} final (2)",
        1: f"naïve-Größe-日本語-{index}",
        2: f"{index}-".ljust(246, "n"),
        3: f"{index}-".ljust(60, "é"),
    }.get(index % 20, f"file{index:05}")
    suffix = (".txt", ".bin", ".csv", ".jpg")[index % 4]
    return f"{directories}/{stem}{suffix}".lstrip("/")
