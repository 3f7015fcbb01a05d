"""sshfs and s3 behind one cachefiles cache: the project's main job, on real servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from fscache_core import OriginUnreachableError, open_fscache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import Origins

pytestmark = pytest.mark.integration

#: Reads everything in a process of its own: standard input is a JSON object, standard output another.
READER = """
import hashlib, json, sys
import trio
from fscache_core import open_fscache

plan = json.load(sys.stdin)

async def main():
    async with open_fscache(offline=plan["offline"]) as fscache:
        await fscache.add_cache("cachefiles", dir=plan["dir"])
        for name, options in plan["netfs"].items():
            fscache.add_netfs(name, **options)
        found = {}
        for url in plan["urls"]:
            async with await fscache.open_file(url) as file:
                found[url] = hashlib.sha256(await file.read(0, file.size)).hexdigest()
        fetched = sum(volume.stats.bytes_from_origin for volume in fscache.volumes)
        checks = sum(volume.stats.origin_checks for volume in fscache.volumes)
        json.dump({"sha256": found, "fetched": fetched, "checks": checks}, sys.stdout)

trio.run(main)
"""


def read_in_new_process(origins: Origins, directory: Path, *, offline: bool = False) -> dict[str, Any]:
    plan = {
        "dir": str(directory),
        "netfs": origins.netfs_options,
        "urls": list(origins.sha256),
        "offline": offline,
    }
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(plan),
        env={**os.environ, **origins.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def stopped(origins: Origins) -> Iterator[None]:
    """Both servers stopped for the time of a test."""
    origins.sftp.stop()
    origins.s3.stop()
    try:
        yield
    finally:
        origins.sftp.start()
        origins.s3.start()


@pytest.fixture(scope="module")
def warm(origins: Origins, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache directory into which one process has read everything, and what that came to."""
    directory = tmp_path_factory.mktemp("cache")
    return directory, read_in_new_process(origins, directory)


def test_a_cold_read_fetches_every_byte_once_and_gets_it_right(
    origins: Origins, warm: tuple[Path, dict[str, Any]]
) -> None:
    _, cold = warm
    assert cold["sha256"] == origins.sha256
    assert cold["fetched"] == origins.size


def test_a_warm_read_in_a_new_process_fetches_nothing(
    origins: Origins, warm: tuple[Path, dict[str, Any]]
) -> None:
    again = read_in_new_process(origins, warm[0])
    assert again["sha256"] == origins.sha256
    assert again["fetched"] == 0
    assert again["checks"] == len(origins.sha256)  # it did ask whether the files are the same still


@pytest.mark.usefixtures("stopped")
def test_with_both_servers_stopped_everything_cached_is_read_offline(
    origins: Origins, warm: tuple[Path, dict[str, Any]]
) -> None:
    again = read_in_new_process(origins, warm[0], offline=True)
    assert again["sha256"] == origins.sha256
    assert again["fetched"] == again["checks"] == 0


@pytest.mark.usefixtures("stopped")
async def test_with_both_servers_stopped_but_not_told_so_an_open_fails_clearly(
    origins: Origins, warm: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in origins.environment.items():
        monkeypatch.setenv(name, value)
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=str(warm[0]))
        for name, options in origins.netfs_options.items():
            fscache.add_netfs(name, **options)  # type: ignore[arg-type]
        for url in list(origins.sha256)[:2]:
            with pytest.raises(OriginUnreachableError) as caught:
                await fscache.open_file(url)
            assert "\n" not in str(caught.value)


def test_eight_processes_that_start_together_get_it_right_and_fetch_it_about_once(
    origins: Origins, tmp_path: Path
) -> None:
    """Shared evenly, each byte is fetched by exactly one of them."""

    async def main() -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []

        async def one() -> None:
            results.append(await trio.to_thread.run_sync(read_in_new_process, origins, tmp_path))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        return results

    results = trio.run(main)
    assert all(result["sha256"] == origins.sha256 for result in results)
    assert sum(result["fetched"] for result in results) == origins.size


def test_what_is_on_disk_is_not_the_readers_word_alone(origins: Origins, tmp_path: Path) -> None:
    """The manifest tells what is on the server's own disk, so the rest means something."""
    name, digest = next((url, digest) for url, digest in origins.sha256.items() if url.startswith("s3://"))
    key = name.removeprefix("s3://").split("/", 1)[1]
    path = origins.sftp.root / "integration" / key
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
