"""A proxy in front of a real HTTP server that does wrong, as told, what the server would do right.

::

    with HttpProxy(server.host, server.port) as proxy:
        ...  # read through proxy.host, proxy.port, as if it were the server
        proxy.fault("bucket/key", Fault(reset_after=4096), times=2)
        proxy.stop()  # the server is gone

What `CountingOrigin` can do wrong and counts, with the answers of a server that people use: whatever is not
told otherwise is passed on as it is, headers and the path as the client wrote it included, so that signed
requests stay valid.
"""

from __future__ import annotations

import http.client
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fscache_core.testing.http_origin import BLOCK_SIZE, Conversation, CountingOrigin, Exchange, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.testing.http_origin import Connection

#: Between two neighbours only.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class HttpProxy(CountingOrigin):
    """The proxy.  Constructed is running; ``with`` or `close` ends it.  It puts, and serves, nothing itself.

    Paths of faults and of `exchanges` are decoded and have no query.

    Args:
      server_host, server_port: where the server is.  It may come and go.
    """

    name = "http-proxy"

    def __init__(self, server_host: str, server_port: int) -> None:
        self._server = (server_host, server_port)
        super().__init__()

    def _converse(self, connection: Connection) -> None:
        _Relay(self, connection, http.client.HTTPConnection(*self._server, timeout=60, blocksize=BLOCK_SIZE))


@dataclass(frozen=True, slots=True)
class _Passing:
    """The body of an answer that is being received."""

    reader: http.client.HTTPResponse | io.BytesIO

    def blocks(self, first: int, length: int) -> Iterator[bytes]:
        while length > 0 and (block := self.reader.read(min(BLOCK_SIZE, length))):
            length -= len(block)
            yield block


class _Relay(Conversation):
    """One connection of a client, and one to the server for it."""

    def __init__(
        self, origin: CountingOrigin, connection: Connection, server: http.client.HTTPConnection
    ) -> None:
        self._server = server
        self._body = b""
        try:
            super().__init__(origin, connection)
        finally:
            server.close()

    def relay(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)  # Server and Date come from the server

    def respond(self, exchange: Exchange, fault: Fault) -> None:
        response = self._ask()
        try:
            headers = {
                name: value for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP
            }
            if fault.content_range is not None and response.status == 206:
                headers = {name: value for name, value in headers.items() if name.lower() != "content-range"}
                headers["Content-Range"] = fault.content_range
            told = response.getheader("Content-Length")
            if told is not None and int(told) > 0 and self.command != "HEAD":
                content, length = _Passing(response), int(told)
            else:  # little or nothing; or in chunks, as listings are
                whole = response.read()
                content, length = _Passing(io.BytesIO(whole)), int(told or len(whole))
            self.send(exchange, response.status, headers, content, 0, length, fault)
        finally:
            if not response.isclosed():  # what the client was not to see is in the way of the next answer
                self._server.close()

    def _ask(self) -> http.client.HTTPResponse:
        self._server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                self._server.putheader(name, value)
        self._server.endheaders(self._body or None)
        return self._server.getresponse()
