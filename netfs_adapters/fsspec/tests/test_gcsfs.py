"""Objects of an emulator of Google Cloud Storage through gcsfs."""

from __future__ import annotations

import json
import random
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import pytest
from fsspec_session import opened, read  # type: ignore[import-not-found]

from fscache_core import open_fscache
from fscache_core.errors import OriginError, OriginNotFoundError, OriginPermissionError, StaleError
from fscache_core.hookspecs import FileKind, Strength
from fscache_core.testing.http_origin import Fault
from fscache_core.testing.http_proxy import HttpProxy
from fscache_core.testing.workspace import LOOPBACK, Workspace, free_port, port_is_open
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("gcp_storage_emulator", reason="no emulator (pip install gcp-storage-emulator)")
pytestmark = pytest.mark.integration

BUCKET = "netfs-fsspec-test"
DATA = random.Random(41).randbytes(1_500_000)


class Emulator:
    """A running server with one bucket, and ways to change what is in it that do not go through gcsfs."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, data: bytes | None = None) -> dict[str, object]:
        request = Request(f"http://{LOOPBACK}:{self.port}{path}", data, method=method)
        with urlopen(request, timeout=240) as answer:
            found: dict[str, object] = json.loads(answer.read() or b"{}")
        return found

    def put(self, name: str, data: bytes) -> str:
        """Returns the generation."""
        query = urlencode({"uploadType": "media", "name": name})
        return str(self.ask("POST", f"/upload/storage/v1/b/{BUCKET}/o?{query}", data)["generation"])

    def delete(self, name: str) -> None:
        self.ask("DELETE", f"/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pytest.MonkeyPatch.context() as environment:
        # Read when gcsfs is imported. It asks over gRPC whether a bucket has directories of its own, which
        # the emulator does not speak, and waits for a minute to learn so.
        environment.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason="no gcsfs (pip install gcsfs)")
    workspace = Workspace("gcs", tmp_path_factory.mktemp("gcs"))
    try:
        port = free_port()
        emulator = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
        options = ["--host", LOOPBACK, "--port", str(port), "--default-bucket", BUCKET]
        process = workspace.spawn([*emulator, *options], "emulator.log")
        process.wait_ready(lambda: port_is_open(port), 240, "the emulator")
        yield Emulator(port)
    finally:
        workspace.close()


def netfs_for(port: int, **options: object) -> FsspecNetfs:
    of_gs = {"token": "anon", "project": "test", "endpoint_url": f"http://{LOOPBACK}:{port}"}
    return FsspecNetfs(storage_options={"gs": of_gs}, **{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]


async def test_an_object_is_looked_up_listed_and_read_in_ranges(server: Emulator) -> None:
    generation = server.put("a/b c+ü.bin", DATA)
    netfs = netfs_for(server.port, piece_bytes=400_000)
    async with opened(netfs, f"fsspec:gs://{BUCKET}/a/b c+ü.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert (attributes.kind, attributes.size, attributes.strength) == (
            FileKind.FILE,
            len(DATA),
            Strength.STRONG,
        )
        assert f"generation {generation}" in attributes.evidence
        assert "etag" in attributes.evidence
        assert "md5Hash" in attributes.evidence
        assert await read(netfs, file, 0, len(DATA)) == DATA
        assert await read(netfs, file, 399_999, 2) == DATA[399_999:400_001]
        recalled = netfs.recall_file(volume, path, netfs.get_aux(file), len(DATA))
        assert await read(netfs, recalled, 1_000_000, 10) == DATA[1_000_000:1_000_010]
        (entry,) = await netfs.list_directory(volume, "/a")
        assert (entry.name, entry.attributes) == ("b c+ü.bin", attributes)
        assert netfs.get_attr(await netfs.look_up(volume, "/a")).kind is FileKind.DIRECTORY


async def test_an_object_that_is_overwritten_or_deleted_is_stale(server: Emulator) -> None:
    server.put("b/changing", DATA)
    netfs = netfs_for(server.port)
    async with opened(netfs, f"fsspec:gs://{BUCKET}/b/changing") as (volume, path):
        await netfs.list_directory(volume, "/b")  # gcsfs could answer from it
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 0, 10) == DATA[:10]
        server.put("b/changing", DATA[::-1])  # of equal size
        with pytest.raises(StaleError, match=r"^fsspec:gs://.*/changing, bytes 10-19: it has changed"):
            await read(netfs, file, 10, 10)
        again = await netfs.look_up(volume, path)
        assert await read(netfs, again, 10, 10) == DATA[::-1][10:20]
        server.delete("b/changing")
        with pytest.raises((StaleError, OriginNotFoundError)):
            await read(netfs, again, 20, 10)
        with pytest.raises(OriginNotFoundError):
            await netfs.look_up(volume, path)


async def test_an_object_is_fetched_once_until_it_changes_and_read_without_its_origin(
    server: Emulator, tmp_path: Path
) -> None:
    server.put("c", DATA)
    url = f"fsspec:gs://{BUCKET}/c"
    with HttpProxy(LOOPBACK, server.port) as proxy:

        async def fetched(expected: bytes, offline: bool = False) -> int:
            """Read it in a session of its own.  Returns how many bytes of objects came for that."""
            before = len(proxy.exchanges)
            async with open_fscache(offline=offline) as fscache:
                await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
                fscache.add_netfs(netfs_for(proxy.port))
                async with await fscache.open_file(url) as file:
                    assert await file.read(0, len(expected)) == expected
            exchanges = proxy.exchanges[before:]
            assert bool(exchanges) is not offline
            return sum(each.body_bytes for each in exchanges if each.path.startswith("download/"))

        assert await fetched(DATA) == len(DATA)
        assert await fetched(DATA) == 0
        server.put("c", DATA[::-1])
        assert await fetched(DATA[::-1]) == len(DATA)
        assert await fetched(DATA[::-1]) == 0
        assert await fetched(DATA[::-1], offline=True) == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=403), OriginPermissionError),
        (Fault(status=404), OriginNotFoundError),
        (Fault(status=416), OriginError),
        (Fault(truncated_by=10), OriginError),
        (Fault(extra=10), OriginError),
    ],
    ids=repr,
)
async def test_what_gcsfs_makes_of_a_fault_is_one_error_of_its_kind(
    server: Emulator, fault: Fault, kind: type[OriginError]
) -> None:
    server.put("d", DATA)
    with HttpProxy(LOOPBACK, server.port) as proxy:
        netfs = netfs_for(proxy.port, retries=1)
        async with opened(netfs, f"fsspec:gs://{BUCKET}/d") as (volume, path):
            file = await netfs.look_up(volume, path)
            proxy.fault(f"download/storage/v1/b/{BUCKET}/o/d", fault, times=1_000_000)
            with pytest.raises(kind, match=rf"^fsspec:gs://{BUCKET}/d, bytes 0-99: "):
                await read(netfs, file, 0, 100)
            proxy.clear_faults()
            assert await read(netfs, file, 0, 100) == DATA[:100]
