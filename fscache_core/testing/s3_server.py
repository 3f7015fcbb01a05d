"""Real S3 on loopback: Ceph's RADOS Gateway on a one-node cluster, or moto where Ceph is not installed.

::

    with s3_server() as server:
        server.create_bucket("photos")
        server.put("photos", "a/b.jpg", b"...")
        ...  # connect to server.endpoint with server.access_key, server.secret_key, server.region, path-style
        server.stop()  # offline: connections break, new ones are refused
        server.start()  # back on the same port, with its objects

Constructed is running; ``with`` or `close` ends it.  Methods may be called from any thread, one at a time;
those that `client` offers from several.  What a server does not do as S3 does is in ``server.lacks``, for
tests to skip on.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from fscache_core.testing.s3_client import S3Client, S3Response
from fscache_core.testing.workspace import (
    LOOPBACK,
    ServerFailedError,
    ServerNotInstalledError,
    ServerProcess,
    Workspace,
    free_port,
    port_is_open,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_CEPH_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# Why each line that is not obvious is there:
#   mon host = v1:           no guessing of the protocol
#   paxos propose interval   the monitor collects changes for a second by default; each pool and each state of
#                            the OSD is a change, and with 50 ms the cluster is up in 1 s instead of 12 s
#   osd ... update on start  the OSD would send these first of all; whatever a Ceph program sends before the
#                            monitor's map has reached it is refused, and the OSD then ends ("wrong fsid").
#                            One start in ten did.  A command, which can be repeated, does it instead.
#   osd class dir            Ceph 18 of Debian 13 has a relative path built in, and finds no classes
#   osd client watch ...     a killed gateway leaves a watch behind; its successor waits until that times out
#   tcp_nodelay              without it a GET takes 44 ms instead of 2 ms
#   gc                       deleted objects give their memory back in seconds, not hours
_CEPH_CONFIG = """\
[global]
fsid = {fsid}
mon host = v1:{host}:{mon_port}
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
ms bind ipv6 = false
public addr = {host}
cluster addr = {host}
paxos propose interval = 0.05
paxos min wait = 0.01
mon tick interval = 1
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd crush update on start = false
osd class update on start = false
{class_directory}
osd client watch timeout = 3
osd objectstore = memstore
memstore device bytes = {capacity}
mon data = {directory}/mon
osd data = {directory}/osd
run dir = {directory}/run
admin socket = {directory}/run/$cluster-$name.$pid.asok
pid file = {directory}/run/$name.pid
crash dir = {directory}/crash
log file = {directory}/$name.log
keyring = {directory}/keyring

[client.rgw.a]
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw gc obj min wait = 5
rgw gc processor period = 5
"""

# Below /usr, by distribution.
_CLASS_DIRECTORIES = ("lib/*/rados-classes", "lib64/rados-classes", "lib/rados-classes")

# Commands on standard input; its end ends the process.  The objects stay in memory between "stop" and
# "start".
_MOTO_PROGRAM = """\
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
host, port = sys.argv[1], int(sys.argv[2])
app = DomainDispatcherApplication(create_backend_app)
server = thread = None
for line in sys.stdin:
    if line == "start\\n":
        server = make_server(host, port, app, True, request_handler=MotoRequestHandler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
    elif line == "stop\\n":
        server.shutdown()
        server.server_close()
        thread.join()
sys.stdout.flush()
import os
os._exit(0)
"""


class _S3ServerFiles:
    """What both servers have in common: where and as whom to connect, and how to set up what is stored."""

    name: str
    lacks: ClassVar[frozenset[str]]

    def __init__(self) -> None:
        self._workspace = Workspace(self.name)
        self.host = LOOPBACK
        self.port = free_port()
        self.access_key = "FSCACHETEST"
        self.secret_key = uuid.uuid4().hex
        self.region = "us-east-1"
        self.client = S3Client(self.host, self.port, self.access_key, self.secret_key, self.region)

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def create_bucket(self, bucket: str, *, versioning: bool = False) -> None:
        self.client.create_bucket(bucket, versioning=versioning)

    def put(self, bucket: str, key: str, data: bytes | Path) -> S3Response:
        return self.client.put(bucket, key, data)

    def put_tree(self, bucket: str, directory: Path, prefix: str = "") -> int:
        return self.client.put_tree(bucket, directory, prefix)

    def get(self, bucket: str, key: str) -> bytes:
        return self.client.get(bucket, key)

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete(bucket, key)

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Stop everything and remove the files.  Idempotent."""
        self.client.close()
        self._workspace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class CephServer(_S3ServerFiles):
    """``radosgw`` over one ``ceph-mon`` and one ``ceph-osd`` that keeps objects in memory; as root or as any
    user.

    Args:
      capacity: bytes the store may hold.  Nothing is taken before it is used; then about twice the objects'
        size.

    Raises:
      ServerNotInstalledError: a Ceph program is missing.
    """

    name = "ceph"
    lacks = frozenset()

    def __init__(self, capacity: int = 8 << 30) -> None:
        missing = ceph_missing()
        if missing:
            raise ServerNotInstalledError(missing)
        super().__init__()
        self._gateway: ServerProcess | None = None
        self._cluster: list[ServerProcess] = []
        self._config = self._workspace.directory / "ceph.conf"
        try:
            self._start_cluster(capacity)
            self.start()
            self._make_user()
        except BaseException:
            self.close()
            raise

    def _start_cluster(self, capacity: int) -> None:
        workspace, config, directory = self._workspace, self._config, self._workspace.directory
        fsid, osd_id, mon_port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
        config.write_text(
            _CEPH_CONFIG.format(
                fsid=fsid,
                host=self.host,
                mon_port=mon_port,
                port=self.port,
                capacity=capacity,
                directory=directory,
                class_directory=_class_directory_line(),
            )
        )
        for name in ("mon", "osd", "run", "crash"):
            (directory / name).mkdir()
        monmap = directory / "monmap"
        address = f"[v1:{self.host}:{mon_port}]"
        workspace.run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap])
        workspace.run(["ceph-mon", "-c", config, "-i", "a", "--mkfs", "--monmap", monmap])
        self._cluster.append(workspace.spawn(["ceph-mon", "-c", config, "-i", "a", "-f"], "mon.out"))
        # The same id in both commands: a store made with another one leaves the OSD "booting" for ever.
        workspace.run(["ceph-osd", "-c", config, "-i", "0", "--mkfs", "--osd-uuid", osd_id])
        self._tell_monitor("osd", "new", osd_id, "0")
        self._tell_monitor("osd", "crush", "create-or-move", "osd.0", "1", "root=default", "host=localhost")
        self._cluster.append(workspace.spawn(["ceph-osd", "-c", config, "-i", "0", "-f"], "osd.out"))

    def _tell_monitor(self, *command: str) -> None:
        """Run an idempotent ``ceph`` command; again, if it lost the race for the monitor's map."""
        attempts_left = 20
        while True:
            attempts_left -= 1
            try:
                self._workspace.run(["ceph", "-c", self._config, *command])
                return
            except ServerFailedError as error:
                if not attempts_left or "EPERM" not in str(error):
                    raise

    def _make_user(self) -> None:
        admin = ["radosgw-admin", "-c", str(self._config), "-n", "client.rgw.a"]
        keys = ["--access-key", self.access_key, "--secret-key", self.secret_key]
        user = ["--uid", "fscache-test", "--display-name", "fscache test"]
        _once_the_store_answers(lambda: self._workspace.run([*admin, "user", "create", *user, *keys]))

    def start(self) -> None:
        """Start the gateway, on the same port.  No effect if it runs."""
        if self._gateway is None:
            _once_the_store_answers(self._start_gateway)

    def _start_gateway(self) -> None:
        command = ["radosgw", "-c", str(self._config), "-n", "client.rgw.a", "-f"]
        self._gateway = self._workspace.spawn(command, "radosgw.out")
        try:
            self._gateway.wait_ready(self._answers, 240, "radosgw")
        except ServerFailedError as error:
            self.stop()
            log = self._workspace.directory / "client.rgw.a.log"
            text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise ServerFailedError(f"{error}\n{text}") from error

    def _answers(self) -> bool:
        for process in self._cluster:
            if not process.alive:  # the gateway would wait for it for ever
                raise ServerFailedError(f"the cluster ended:\n{process.log_tail()}")
        return port_is_open(self.port)

    def stop(self) -> None:
        """Stop the gateway; the cluster behind it keeps the objects.  Idempotent."""
        if self._gateway is not None:
            self.client.close()
            self._gateway.stop(grace_seconds=5)
            self._gateway = None


def _once_the_store_answers(begin: Callable[[], object]) -> None:
    """Do it again if a program of the gateway's gave up because the store did not answer in time."""
    attempts_left = 20
    while True:
        attempts_left -= 1
        try:
            begin()
            return
        except ServerFailedError as error:
            if not attempts_left or "init storage provider" not in str(error):
                raise


class MotoServer(_S3ServerFiles):
    """moto's S3 mock, in a process of its own.

    Raises:
      ServerNotInstalledError: no moto with its server.
    """

    name = "moto"
    lacks = frozenset({"authentication"})

    def __init__(self) -> None:
        missing = moto_missing()
        if missing:
            raise ServerNotInstalledError(missing)
        super().__init__()
        self._running = False
        try:
            command = [sys.executable, "-c", _MOTO_PROGRAM, self.host, str(self.port)]
            self._process = self._workspace.spawn(command, "moto.log", stdin=True)
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Listen again, on the same port.  No effect on a running server."""
        if not self._running:
            self._process.send("start")
            self._process.wait_ready(lambda: port_is_open(self.port), 240, "moto")
            self._running = True

    def stop(self) -> None:
        """Stop listening; the objects stay.  Idempotent."""
        if self._running:
            self.client.close()
            self._process.send("stop")
            self._process.wait_ready(lambda: not port_is_open(self.port), 240, "the end of moto's listening")
            self._running = False


S3Server: TypeAlias = CephServer | MotoServer


def ceph_missing() -> str | None:
    """Why `CephServer` cannot run here, or None if it can."""
    absent = [program for program in _CEPH_PROGRAMS if shutil.which(program) is None]
    if absent:
        packages = "ceph-mon ceph-osd radosgw ceph-common"
        return f"no {', '.join(absent)} (Debian: apt-get install --no-install-recommends {packages})"
    return None


def _class_directory_line() -> str:
    """A line for the configuration; empty if there is nothing better than what Ceph was built with."""
    found = [str(path) for pattern in _CLASS_DIRECTORIES for path in Path("/usr").glob(pattern)]
    return f"osd class dir = {found[0]}" if found else ""


def moto_missing() -> str | None:
    """Why `MotoServer` cannot run here, or None if it can."""
    absent = [module for module in ("moto", "werkzeug", "flask") if importlib.util.find_spec(module) is None]
    return f"no {', '.join(absent)} (pip install 'moto[s3,server]')" if absent else None


def s3_server() -> S3Server:
    """Start the best S3 server installed: Ceph, else moto.

    Raises:
      ServerNotInstalledError: neither is installed.
    """
    without_ceph = ceph_missing()
    if without_ceph is None:
        return CephServer()
    without_moto = moto_missing()
    if without_moto is None:
        return MotoServer()
    raise ServerNotInstalledError(f"{without_ceph}; {without_moto}")
