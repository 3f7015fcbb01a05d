"""An HTTP/1.1 origin in this process that counts what it sends and misbehaves on request.

::

    with CountingOrigin({"a.bin": b"..."}) as origin:
        ...  # read origin.url("a.bin") through the code under test
        assert origin.bytes_sent == 3
        origin.rate = 1_000_000  # bytes per second, over all connections
        origin.fault("a.bin", Fault(reset_after=4096), times=2)
        origin.stop()  # offline: connections are reset, new ones refused
        origin.start()  # back on the same port

GET and HEAD of whole files and single ranges, with the preconditions of RFC 9110 section 13.  A request for
several ranges gets the whole file, which the RFC allows.  Every method may be called from any thread while
requests run; the plain attributes may be assigned at any time and hold from the next block sent.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self
from urllib.parse import quote, unquote, urlsplit

from fscache_core.testing.workspace import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

BLOCK_SIZE = 64 * 1024

Validators = Literal["strong", "weak", "date", "none"]
"""What a response tells of its version: a strong ETag and a date; a weak ETag and a date; a date only (whole
seconds); nothing."""


class Stall:
    """A point in a body where the origin waits until released: ordering for tests, without sleeping."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._reached = threading.Event()
        self._released = threading.Event()

    def wait_reached(self, timeout_seconds: float = 240.0) -> None:
        """Block until a response has sent its first `after` bytes and waits.

        Raises:
          TimeoutError: none did.
        """
        if not self._reached.wait(timeout_seconds):
            raise TimeoutError(f"no response came to byte {self.after} in {timeout_seconds:g} s")

    def release(self) -> None:
        """Let this and every later response with this stall go on."""
        self._released.set()


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do wrong in one response.  Lengths are body bytes."""

    status: int | None = None
    """Answer with this status, and `body`."""
    body: bytes = b""
    """Sent with `status`."""
    reset_after: int | None = None
    """Reset the connection after this many bytes (0: after the headers)."""
    short_by: int = 0
    """Close the connection that many bytes before the end that Content-Length announced."""
    truncated_by: int = 0
    """Send that many bytes fewer and say so in Content-Length, while Content-Range still promises all."""
    extra: int = 0
    """Send that many bytes more than asked for and say so in Content-Length; they are 0xEE."""
    content_range: str | None = None
    """Send this Content-Range with a 206."""
    stall: Stall | None = None
    """Wait in the middle of the body."""


_FAULTLESS = Fault()


@dataclass(slots=True)
class Exchange:
    """One request and what became of it.  ``body_bytes`` is counted before each block is handed to the
    kernel, so it is never below what the client has received, and at most one block above it if the client
    went away."""

    method: str
    path: str
    headers: Mapping[str, str]
    """As sent, names in lower case."""
    asked: tuple[int, int | None] | None
    """The Range asked for, as (first, last) inclusive; (-n, None) for the last n bytes; None for no single
    range."""
    status: int = 0
    body_bytes: int = 0


class Content(Protocol):
    """What bodies are made of."""

    def blocks(self, first: int, length: int) -> Iterator[memoryview | bytes]:
        """The bytes from ``first`` on, in order, at most `BLOCK_SIZE` at a time."""


@dataclass(frozen=True, slots=True)
class _Version:
    data: bytes | Path
    size: int
    tag: str
    modified: float

    def blocks(self, first: int, length: int) -> Iterator[memoryview | bytes]:
        if isinstance(self.data, bytes):
            view = memoryview(self.data)[first : first + length]
            for start in range(0, len(view), BLOCK_SIZE):
                yield view[start : start + BLOCK_SIZE]
            return
        with self.data.open("rb") as file:
            file.seek(first)
            while length > 0 and (block := file.read(min(BLOCK_SIZE, length))):
                length -= len(block)
                yield block


@dataclass(slots=True)
class _Faults:
    fault: Fault
    left: int


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    thread: threading.Thread
    aborted: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """End the connection with an RST, from any thread, and wake the one that serves it."""
        self.aborted.set()
        # To connect to an address of no family drops a TCP connection at once (connect(2)); Python's
        # connect cannot say that.  A close() would end it with a FIN, and not wake a thread that reads.
        with suppress(OSError):
            ctypes.CDLL(None).connect(self.socket.fileno(), bytes(16), 16)


@dataclass(slots=True)
class _State:
    """Everything that changes under the origin's lock."""

    versions: dict[str, _Version] = field(default_factory=dict)
    faults: dict[str, _Faults] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    n_connections: int = 0
    rate_free_at: float = 0.0


class CountingOrigin:
    """The origin.  Constructed is running; ``with`` or `close` ends it and every thread of it.

    Args:
      content: path -> bytes, or a directory whose files are served as they are when asked for; None for
        nothing yet.
    """

    name = "http"

    def __init__(self, content: Mapping[str, bytes] | Path | None = None) -> None:
        self.host = LOOPBACK
        self.port = free_port()
        self.rate: float | None = None
        """Bytes per second over all connections together; None for no limit."""
        self.latency_seconds = 0.0
        """Waited before each response."""
        self.validators: Validators = "strong"
        self.ranges = True
        """Whether Range requests are honoured; if not, they are answered with the whole file and 200."""
        self.tells_ranges = True
        """Whether Accept-Ranges is sent; many servers without ranges do not mention it."""
        self._directory = content if isinstance(content, Path) else None
        self._lock = threading.Lock()
        self._state = _State()
        self._tags = itertools.count(1)
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        if content is not None and not isinstance(content, Path):
            for path, data in content.items():
                self.put(path, data)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- what is served ---

    def url(self, path: str = "") -> str:
        return f"http://{self.host}:{self.port}/{quote(path.lstrip('/'))}"

    def put(self, path: str, data: bytes, *, modified: float | None = None) -> None:
        """Replace content, ETag and date in one step: a response under way goes on with the version it began
        with.

        Args:
          modified: seconds since the epoch; now if not given.  The date sent has whole seconds, so two
            versions put in one second differ in their ETag alone.
        """
        version = _Version(
            data, len(data), f"v{next(self._tags)}", time.time() if modified is None else modified
        )
        with self._lock:
            self._state.versions[path.lstrip("/")] = version

    def remove(self, path: str) -> None:
        with self._lock:
            del self._state.versions[path.lstrip("/")]

    def etag(self, path: str) -> str:
        """The strong ETag now served for `path`, with its quotes."""
        version = self._version(path.lstrip("/"))
        if version is None:
            raise KeyError(path)
        return f'"{version.tag}"'

    def _version(self, path: str) -> _Version | None:
        with self._lock:
            version = self._state.versions.get(path)
        if version is not None or self._directory is None:
            return version
        file = self._directory / path
        if not file.resolve().is_relative_to(self._directory.resolve()) or not file.is_file():
            return None
        stat = file.stat()
        return _Version(
            file, stat.st_size, f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}", stat.st_mtime
        )

    # --- what goes wrong ---

    def fault(self, path: str, fault: Fault, *, times: int = 1) -> None:
        """Do this wrong in the next `times` responses for `path`; replaces an earlier fault of that path."""
        with self._lock:
            self._state.faults[path.lstrip("/")] = _Faults(fault, times)

    def clear_faults(self) -> None:
        with self._lock:
            self._state.faults.clear()

    def reset_connections(self) -> int:
        """Reset every open connection; new ones are accepted.

        Returns:
          the number of connections.
        """
        with self._lock:
            connections = list(self._state.connections)
            for connection in connections:
                connection.reset()
        return len(connections)

    def start(self) -> None:
        """Listen again on the same port.  No effect on a running origin."""
        if self._listener is not None:
            return
        self._stopping.clear()
        listener = socket.create_server((self.host, self.port), backlog=128)
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="fscache-http-origin")
        self._acceptor.start()

    def stop(self) -> None:
        """Refuse new connections, reset open ones and wait for their threads.  Content and counts stay.
        Idempotent."""
        if self._listener is None or self._acceptor is None:
            return
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join()
        self._listener.close()
        self._listener = self._acceptor = None
        with self._lock:
            threads = [connection.thread for connection in self._state.connections]
        self.reset_connections()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        self.stop()

    # --- what was sent ---

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request since the last reset of the counters, in order of arrival."""
        with self._lock:
            return list(self._state.exchanges)

    @property
    def n_requests(self) -> int:
        return len(self.exchanges)

    @property
    def n_connections(self) -> int:
        """Connections accepted since the last reset of the counters."""
        with self._lock:
            return self._state.n_connections

    @property
    def bytes_sent(self) -> int:
        """Body bytes of all responses."""
        return sum(exchange.body_bytes for exchange in self.exchanges)

    def requests_for(self, path: str) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.path == path.lstrip("/")]

    def bytes_for(self, path: str) -> int:
        return sum(exchange.body_bytes for exchange in self.requests_for(path))

    def ranges_for(self, path: str) -> list[tuple[int, int | None]]:
        """The single ranges asked for, in order; requests without one are left out."""
        return [exchange.asked for exchange in self.requests_for(path) if exchange.asked is not None]

    def reset_counters(self) -> None:
        with self._lock:
            self._state.exchanges = []
            self._state.n_connections = 0

    # --- connections ---

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                continue  # the client went away between connecting and being accepted
            client.settimeout(3600)  # so that Python waits in poll(), which a reset from another thread ends
            connection = Connection(client, threading.current_thread())
            connection.thread = threading.Thread(
                target=self._serve, args=(connection,), name="fscache-http-connection"
            )
            with self._lock:
                self._state.connections.append(connection)
                self._state.n_connections += 1
            connection.thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            with suppress(OSError):  # the client, a fault or stop() ended the connection
                self._converse(connection)
        finally:
            with self._lock:  # also against a reset that uses the descriptor
                self._state.connections.remove(connection)
                connection.socket.close()

    def _converse(self, connection: Connection) -> None:
        Conversation(self, connection)

    def _record(self, exchange: Exchange) -> Fault:
        """Enter a request into the books; returns what to do wrong in its response."""
        with self._lock:
            self._state.exchanges.append(exchange)
            faults = self._state.faults.get(exchange.path)
            if faults is None or faults.left <= 0:
                return _FAULTLESS
            faults.left -= 1
            return faults.fault

    def _seconds_to_wait(self, n_bytes: int) -> float:
        """Until the rate allows `n_bytes` more, which are taken as sent then."""
        rate = self.rate
        if rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._state.rate_free_at = max(now, self._state.rate_free_at) + n_bytes / rate
            return self._state.rate_free_at - now


class Conversation(BaseHTTPRequestHandler):
    """All requests of one connection, in order; the constructor returns when it ends."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "fscache-test"
    sys_version = ""

    def __init__(self, origin: CountingOrigin, connection: Connection) -> None:
        self._origin = origin
        self._connection = connection
        # The server argument is only kept for the use of subclasses, and we are the only one.
        super().__init__(connection.socket, connection.socket.getpeername(), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `CountingOrigin.exchanges` is the log."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _pause(self, seconds: float) -> None:
        if seconds > 0 and self._connection.aborted.wait(seconds):
            raise ConnectionAbortedError("reset while it waited")

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        headers = {name.lower(): value for name, value in self.headers.items()}
        exchange = Exchange(self.command, path, headers, _parse_range(headers.get("range")))
        fault = self._origin._record(exchange)
        self._pause(self._origin.latency_seconds)
        if fault.status is not None:
            self.send(exchange, fault.status, {}, _Version(fault.body, 0, "", 0), 0, len(fault.body))
        else:
            self.respond(exchange, fault)

    def respond(self, exchange: Exchange, fault: Fault) -> None:
        """Answer with what there is."""
        version = self._origin._version(exchange.path)
        if version is None:
            self.send(exchange, 404, {})
        else:
            self._answer_version(exchange, version, fault)

    def _answer_version(self, exchange: Exchange, version: _Version, fault: Fault) -> None:
        kind = self._origin.validators
        etag = {"strong": f'"{version.tag}"', "weak": f'W/"{version.tag}"'}.get(kind)
        modified = None if kind == "none" else int(version.modified)
        offered = {}
        if self._origin.tells_ranges:
            offered["Accept-Ranges"] = "bytes" if self._origin.ranges else "none"
        if etag is not None:
            offered["ETag"] = etag
        if modified is not None:
            offered["Last-Modified"] = formatdate(modified, usegmt=True)

        refused = _precondition(exchange.headers, etag, modified)
        if refused is not None:
            self.send(exchange, refused, offered)
            return
        first, length = 0, version.size
        ranged = (
            exchange.asked is not None
            and self._origin.ranges
            and exchange.method == "GET"
            and _if_range_holds(exchange.headers.get("if-range"), etag, modified)
        )
        if ranged and exchange.asked is not None:
            first, last = exchange.asked
            if first < 0:
                first, last = max(0, version.size + first), None
            length = min(version.size, version.size if last is None else last + 1) - first
            if length <= 0:
                self.send(exchange, 416, {**offered, "Content-Range": f"bytes */{version.size}"})
                return
            stated = f"bytes {first}-{first + length - 1}/{version.size}"
            offered["Content-Range"] = stated if fault.content_range is None else fault.content_range
        self.send(exchange, 206 if ranged else 200, offered, version, first, length, fault)

    def send(
        self,
        exchange: Exchange,
        status: int,
        headers: Mapping[str, str],
        content: Content | None = None,
        first: int = 0,
        length: int = 0,
        fault: Fault = _FAULTLESS,
    ) -> None:
        """Send an answer with ``length`` bytes of the content, and do wrong what the fault says of bodies."""
        exchange.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            told = length if exchange.method == "HEAD" else max(0, length - fault.truncated_by) + fault.extra
            self.send_header("Content-Length", str(told))
        self.end_headers()
        if content is None or exchange.method == "HEAD":
            return
        length = max(0, length - fault.short_by - fault.truncated_by)
        stall_after = None if fault.stall is None else fault.stall.after
        stops = sorted({stop for stop in (fault.reset_after, stall_after) if stop is not None})
        body = itertools.chain(content.blocks(first, length), [b"\xee" * fault.extra] if fault.extra else [])
        sent = 0
        for block in body:
            rest = memoryview(block)
            while rest:
                at = next((stop for stop in stops if stop >= sent), None)
                if at == sent:
                    stops.remove(sent)
                    self._stop_in_body(sent, fault)
                    continue
                piece = rest[: self._piece_size() if at is None else min(self._piece_size(), at - sent)]
                self._pause(self._origin._seconds_to_wait(len(piece)))
                exchange.body_bytes += len(piece)
                self.wfile.write(piece)
                sent += len(piece)
                rest = rest[len(piece) :]
        for stop in stops:
            if stop == sent:
                self._stop_in_body(sent, fault)
        if fault.short_by:
            self.close_connection = True

    def _piece_size(self) -> int:
        """Small enough under a rate limit for about twenty pieces a second."""
        rate = self._origin.rate
        return BLOCK_SIZE if rate is None else max(512, min(BLOCK_SIZE, int(rate / 20)))

    def _stop_in_body(self, sent: int, fault: Fault) -> None:
        if fault.stall is not None and fault.stall.after == sent:
            fault.stall._reached.set()
            while not fault.stall._released.wait(0.02):
                if self._connection.aborted.is_set():
                    raise ConnectionAbortedError("reset while it stalled")
        if fault.reset_after == sent:
            self._connection.reset()
            raise ConnectionAbortedError("reset as told")


def _parse_range(value: str | None) -> tuple[int, int | None] | None:
    """The one range of a Range header; None if there is none, several, or it is not understood (RFC 9110,
    14.2)."""
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", value or "")
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        return -int(last), None
    if last and int(last) < int(first):
        return None
    return int(first), int(last) if last else None


def _date(value: str) -> int | None:
    try:
        return int(parsedate_to_datetime(value).timestamp())
    except ValueError:
        return None


def _matches(value: str, etag: str | None, *, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match value names this ETag (of a file that exists)."""
    if value.strip() == "*":
        return True
    if etag is None or (not weak and etag.startswith("W/")):
        return False
    tags = re.findall(r'(W/)?("[^"]*")', value)
    return any(tag == etag.removeprefix("W/") and (weak or not mark) for mark, tag in tags)


def _precondition(headers: Mapping[str, str], etag: str | None, modified: int | None) -> int | None:
    """304 or 412 if the request must not be answered, in the order of RFC 9110, 13.2.2; else None."""
    if (wanted := headers.get("if-match")) is not None:
        if not _matches(wanted, etag, weak=False):
            return 412
    elif (since := _date(headers.get("if-unmodified-since", ""))) is not None and modified is not None:  # noqa: SIM102
        if modified > since:
            return 412
    if (known := headers.get("if-none-match")) is not None:
        if _matches(known, etag, weak=True):
            return 304
    elif (since := _date(headers.get("if-modified-since", ""))) is not None and modified is not None:  # noqa: SIM102
        if modified <= since:
            return 304
    return None


def _if_range_holds(value: str | None, etag: str | None, modified: int | None) -> bool:
    if value is None:
        return True
    if '"' in value:
        return value.strip() == etag and not etag.startswith("W/")
    return modified is not None and _date(value) == modified
