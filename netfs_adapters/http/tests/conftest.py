"""An origin that says exactly what a test tells it to, for answers that no proper server would give."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator


class Request:
    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }


class ScriptedOrigin:
    """Sends ``answer(request)``, raw, for the one request of each connection, then closes it."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], bytes] = lambda request: b""
        self.requests: list[Request] = []
        self.tls: ssl.SSLContext | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.tls is not None:
                connection = stack.enter_context(self.tls.wrap_socket(connection, server_side=True))
            received = b""
            while data := connection.recv(65536):
                received += data
                if not received.endswith(b"\r\n\r\n"):
                    continue
                request = Request(received[:-4])
                received = b""
                self.requests.append(request)
                status, _, rest = self.answer(request).partition(b"\r\n")
                connection.sendall(status + b"\r\nConnection: close\r\n" + rest if rest else status)
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def scripted() -> Iterator[ScriptedOrigin]:
    with contextlib.closing(ScriptedOrigin()) as origin:
        yield origin
