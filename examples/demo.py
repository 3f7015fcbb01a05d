"""The main job, end to end, on real servers: ``make demo``.

A tree of files is put on an SFTP server and on an S3 server (OpenSSH and Ceph where they are installed), and
all of it is read through one shared cache: cold, then warm in a new process, then in another new process with
both servers stopped; at last cold and warm through a cache in memory.  Every byte read is hashed and
compared.  Ends with a table, and with status 1 if a byte differed or a warm or offline run fetched anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fscache_core import Coherency, FscacheError, open_fscache
from fscache_core.testing.s3_server import s3_server
from fscache_core.testing.sftp_server import sftp_server
from fscache_core.testing.tree import make_tree
from fscache_core.testing.workspace import ServerFailedError, ServerNotInstalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fscache_core import FsCache

READ_SIZE = 4 << 20
INLINE_SIZE = 256 << 10  # hashing less takes less time than a way to a thread and back
N_READERS = 8
BUCKET = "fscache-demo"


Options: TypeAlias = dict[str, Any]  # of a backend or an adapter


@dataclass
class Plan:
    """What one process is to read, and through which cache.  Goes to it as JSON."""

    backend: str
    options: Options
    netfs: dict[str, Options]
    sha256: dict[str, str]  #: URL -> of what it must hold
    n_bytes: int  #: all files together
    titles: list[str]  #: one pass over everything for each
    offline: bool = False


@dataclass
class Result:
    """What one pass came to."""

    title: str
    from_origin: int
    from_cache: int
    seconds: float
    differing: list[str] = field(default_factory=list)  #: URLs


# -- reading: the part that uses fscache ---------------------------------------------------


async def read_everything(plan: Plan) -> list[Result]:
    async with open_fscache(coherency=Coherency(offline=plan.offline)) as fscache:
        await fscache.add_cache(plan.backend, **plan.options)
        for name, options in plan.netfs.items():
            fscache.add_netfs(name, **options)
        return [await one_pass(fscache, plan, title) for title in plan.titles]


async def one_pass(fscache: FsCache, plan: Plan, title: str) -> Result:
    fetched_before = bytes_fetched(fscache)
    left = list(plan.sha256)
    differing: list[str] = []
    n_read = 0
    started = time.perf_counter()

    async def reader(advance: Callable[[int], None]) -> None:
        def count(arrived: int) -> None:
            nonlocal n_read
            n_read += arrived
            advance(arrived)

        while left:
            url = left.pop()
            if await sha256_of(fscache, url, count) != plan.sha256[url]:
                differing.append(url)

    with bar(title, plan.n_bytes) as advance:
        async with trio.open_nursery() as nursery:
            for _ in range(N_READERS):
                nursery.start_soon(reader, advance)
    seconds = time.perf_counter() - started
    fetched = bytes_fetched(fscache) - fetched_before
    # What is fetched passes through the cache as well; only what was there before is counted as from it.
    return Result(title, fetched, max(0, n_read - fetched), seconds, differing)


async def sha256_of(fscache: FsCache, url: str, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    async with await fscache.open_file(url) as file:
        for offset in range(0, file.size, READ_SIZE):
            data = await file.read(offset, READ_SIZE)
            if len(data) > INLINE_SIZE:
                await trio.to_thread.run_sync(digest.update, data)
            else:
                digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def bytes_fetched(fscache: FsCache) -> int:
    return sum(volume.stats.bytes_from_origin for volume in fscache.volumes)


@contextmanager
def bar(title: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=n_bytes)
        yield lambda arrived: progress.advance(task, arrived)


# -- the demonstration -------------------------------------------------------------------


def in_new_process(plan: Plan) -> list[Result]:
    """Read as planned, say how it went in plain lines."""
    command = [sys.executable, __file__, "--read-plan"]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), stdout=subprocess.PIPE, text=True, check=True
    )
    results = [Result(**result) for result in json.loads(done.stdout)]
    for result in results:
        say(f"{result.title}: {result.seconds:.1f} s, {size_text(result.from_origin)} from the origin")
    return results


def read_as_told() -> int:
    """The new process: a plan comes in, results go out."""
    plan = Plan(**json.load(sys.stdin))
    status = 0
    try:
        done = trio.run(read_everything, plan)
    except* FscacheError as errors:
        for error in errors.exceptions:
            print(error, file=sys.stderr)
        status = 1
    else:
        json.dump([asdict(result) for result in done], sys.stdout)
    return status


def say(text: str) -> None:
    print(text, flush=True)


def size_text(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes else "0"


def demonstrate(arguments: argparse.Namespace) -> tuple[list[Result], int]:
    with ExitStack() as stack:
        top = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="fscache-demo-", dir=arguments.dir))
        )
        say("starting servers, making files ...")
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(s3_server)
            manifest = make_tree(top / "tree", arguments.seed, arguments.files, arguments.large_mib << 20)
            s3 = stack.enter_context(starting.result())
        sftp = stack.enter_context(sftp_server(top / "tree"))
        s3.create_bucket(BUCKET)
        s3.put_tree(BUCKET, top / "tree")
        n_bytes = 2 * sum(file.size for file in manifest.values())
        say(f"{len(manifest)} files on SFTP ({sftp.name}) and S3 ({s3.name}), {size_text(n_bytes)} in all")

        # A path of an sshfs URL is percent-encoded, a key of an s3 URL is literal.
        directory = f"sshfs://{sftp.user}@{sftp.host}:{sftp.port}{sftp.root}"
        sha256 = {f"{directory}/{quote(name)}": file.sha256 for name, file in manifest.items()}
        sha256 |= {f"s3://{BUCKET}/{name}": file.sha256 for name, file in manifest.items()}
        netfs: dict[str, Options] = {
            "sshfs": {"known_hosts": str(sftp.known_hosts), "client_keys": str(sftp.client_key)},
            "s3": {"endpoint": s3.endpoint, "region": s3.region},
        }
        os.environ |= {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        shared: Options = {"dir": str(top / "cache")}

        def read(
            backend: str, options: dict[str, object], *titles: str, offline: bool = False
        ) -> list[Result]:
            return in_new_process(Plan(backend, options, netfs, sha256, n_bytes, list(titles), offline))

        results = read("cachefiles", shared, "cachefiles, cold")
        results += read("cachefiles", shared, "cachefiles, new process")
        sftp.stop()
        s3.stop()
        results += read("cachefiles", shared, "cachefiles, servers stopped", offline=True)
        sftp.start()
        s3.start()
        results += read("memory", {}, "memory, cold", "memory, warm")
    return results, n_bytes


def closing_table(results: list[Result], n_bytes: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title in ("from\norigin", "from\ncache", "\nseconds", "\nMB/s", "SHA-256\nequal"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.title,
            size_text(result.from_origin),
            size_text(result.from_cache),
            f"{result.seconds:.1f}",
            f"{n_bytes / result.seconds / 1e6:.0f}",
            "no" if result.differing else "yes",
        )
    return table


def complaints(results: list[Result]) -> list[str]:
    found = [f"{result.title}: differs: {url}" for result in results for url in result.differing]
    found += [
        f"{result.title}: fetched {result.from_origin} bytes; it should fetch none"
        for result in results
        if "cold" not in result.title and result.from_origin
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000, help="small files on each server (%(default)s)")
    parser.add_argument("--large-mib", type=int, default=200, help="size of the large one (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other files")
    parser.add_argument("--dir", type=Path, help="where to put files and cache for the time of the run")
    parser.add_argument("--read-plan", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read_plan:
        return read_as_told()
    try:
        results, n_bytes = demonstrate(arguments)
    except subprocess.CalledProcessError as error:
        say(f"a reading process ended with status {error.returncode}")
        return 1
    except (ServerNotInstalledError, ServerFailedError) as error:
        say(f"cannot start the servers: {error}")
        return 1
    Console().print(closing_table(results, n_bytes))
    for complaint in (problems := complaints(results)):
        say(complaint)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
