"""The promise of strong evidence, kept by real filesystems."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import trio

from fscache_core.hookspecs import Location, Strength
from netfs_localdir import LocaldirNetfs

if TYPE_CHECKING:
    from pathlib import Path


async def test_two_contents_never_have_the_same_strong_evidence(fscache_filesystem: Path) -> None:
    path = fscache_filesystem / "file"
    path.write_bytes(bytes(8))
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(Location("file://", "/"))
    chance = random.Random(1)
    contents: dict[bytes, bytes] = {}
    n_strong = 0
    with path.open("r+b", buffering=0) as writer:
        for number in range(100):
            # Random moments within the ticks of the clock: that is where two writes could look the same.
            await trio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02, 0.03]))
            content = number.to_bytes(8, "big")
            os.pwrite(writer.fileno(), content, 0)
            await trio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02, 0.03]))
            file = await netfs.look_up(volume, str(path))
            if netfs.get_attr(file).strength is Strength.STRONG:
                n_strong += 1
                assert contents.setdefault(netfs.get_aux(file), content) == content
    assert n_strong
