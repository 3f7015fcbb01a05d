"""Servers that people use: nginx, and Python's own, which has no ranges."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import OriginNotFoundError, OriginPermissionError, StaleError
from fscache_core.hookspecs import Strength
from fscache_core.testing.workspace import free_port
from netfs_http import HttpNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 1000

NGINX = """
daemon off; pid {directory}/pid; error_log {directory}/log; worker_processes 1;
events {{}}
http {{
  access_log off; gzip on; gzip_types *; gzip_min_length 1;
  client_body_temp_path {directory}/tmp; proxy_temp_path {directory}/tmp; fastcgi_temp_path {directory}/tmp;
  uwsgi_temp_path {directory}/tmp; scgi_temp_path {directory}/tmp;
  server {{
    listen 127.0.0.1:{port}; root {directory}/www;
    location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
    location /whole/ {{ alias {directory}/www/; max_ranges 0; }}
    location /secret/ {{ deny all; }}
  }}
}}
"""


@asynccontextmanager
async def nginx(directory: Path) -> AsyncIterator[str]:
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
    if program is None:
        pytest.skip("no nginx (Debian: apt-get install nginx-light)")
    port = free_port()
    (directory / "www").mkdir()
    # As root, its worker would otherwise be a user who may not enter this directory.
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "conf").write_text(user + NGINX.format(directory=directory, port=port))
    async with trio.open_nursery() as nursery:
        command = [program, "-e", str(directory / "log"), "-c", str(directory / "conf")]
        server = await nursery.start(trio.run_process, command)
        with trio.fail_after(120):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.integration
async def test_nginx(tmp_path: Path) -> None:
    async with nginx(tmp_path) as base:
        path = tmp_path / "www" / "f.bin"
        path.write_bytes(DATA)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        netfs = HttpNetfs()
        volume = await netfs.open_volume(netfs.parse_url(base))
        try:
            buffer = bytearray(1000)
            for name in ("/f.bin", "/moved/f.bin", "/whole/f.bin"):
                file = await netfs.look_up(volume, name)
                assert netfs.get_attr(file).size == len(DATA)
                assert netfs.get_attr(file).strength is Strength.STRONG
                await netfs.fetch(file, 5000, memoryview(buffer), lambda n: None)
                assert buffer == DATA[5000:6000]
            with pytest.raises(OriginNotFoundError):
                await netfs.look_up(volume, "/none")
            with pytest.raises(OriginPermissionError):
                await netfs.look_up(volume, "/secret/f.bin")

            file = await netfs.look_up(volume, "/f.bin")
            path.write_bytes(DATA[::-1])
            os.utime(path, (4_000_000_000, 4_000_000_000))
            with pytest.raises(StaleError, match="412"):
                await netfs.fetch(file, 5000, memoryview(buffer), lambda n: None)
            # Its tag is the second and the size.  A file of this very second (or later) may change under it.
            file = await netfs.look_up(volume, "/f.bin")
            assert netfs.get_attr(file).strength is Strength.WEAK
        finally:
            await netfs.close_volume(volume)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def python_server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_pythons_own_server(python_server: str, tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(DATA)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    netfs = HttpNetfs()
    volume = await netfs.open_volume(netfs.parse_url(python_server))
    try:
        file = await netfs.look_up(volume, "/f.bin")
        assert netfs.get_attr(file).strength is Strength.STRONG
        buffer = bytearray(len(DATA))
        for offset in range(0, len(DATA), 16_000):
            await netfs.fetch(file, offset, memoryview(buffer)[offset : offset + 16_000], lambda n: None)
        assert buffer == DATA
        os.utime(path, (1_000_000_007, 1_000_000_007))
        with pytest.raises(StaleError):
            await netfs.fetch(file, 0, memoryview(buffer), lambda n: None)
    finally:
        await netfs.close_volume(volume)
