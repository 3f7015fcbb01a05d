"""The body of an answer, read forward into a reader's buffer."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import OriginError, OriginUnreachableError, StaleError
from netfs_http.failure import Failure
from netfs_http.transport import failure_of, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from netfs_http.skipped import Skipped
    from netfs_http.version import Version

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


def content_length(response: httpx.Response) -> int | None:
    """What the answer says of the length of its body, bytes; None if it does not."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def content_range(response: httpx.Response) -> tuple[int, int, int | None]:
    """Start and end (exclusive) of the bytes in a 206 and the size of the whole, or None if it is not told.

    A 416 has none of the bytes: start and end are 0.  Raises `Failure`.
    """
    text = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise Failure(OriginError, f"{response.status_code} with Content-Range {text!r}", transient=True)
    first, last, total = match.groups()
    start, end = (0, 0) if first is None else (int(first), int(last) + 1)
    return start, end, None if total == "*" else int(total)


class Body:
    """What is left of the body of one answer.  Whoever has it closes it.

    ``position`` is the offset in the file of the next byte, ``end`` that after the last one.
    ``certain`` says that the head proves which bytes follow, so that they may be handed on as they
    come; otherwise only the end of the body shows whether it was what it should be.
    """

    def __init__(self, response: httpx.Response, start: int, end: int, *, certain: bool) -> None:
        self.position = start
        self.end = end
        self.certain = certain
        self.whole = response.status_code == 200
        self.progressed: Callable[[], None] = lambda: None  #: called when bytes come
        self._response = response
        self._chunks = response.aiter_raw()
        self._chunk = memoryview(b"")
        self._started = False

    @classmethod
    def of(cls, response: httpx.Response, version: Version, offset: int, size: int) -> Body:
        """Check the head of an answer to a request for ``size`` bytes at ``offset`` of ``version``.

        Raises `Failure`: refused, another version, or not what was asked for.
        """
        length = content_length(response)
        if response.status_code == 206:
            start, end, total = content_range(response)
            if start != offset or not start < end <= offset + size:
                cause = f"sent bytes {start}-{end - 1} instead of {offset}-{offset + size - 1}"
                raise Failure(OriginError, cause, transient=True)
            if length is not None and length != end - start:
                raise Failure(OriginError, f"Content-Length {length} for {end - start} bytes", transient=True)
            certain = length is not None
        elif response.status_code == 200:
            start, end, total = 0, version.size, length
            certain = length is not None
        else:
            raise refusal(response)
        if difference := version.difference(response.headers, total):
            raise Failure(StaleError, f"it has changed: {difference}")
        if not version.proven_by(response.headers):
            raise Failure(OriginError, f"an answer without the {version.validator} that the version has")
        return cls(response, start, end, certain=certain)

    async def skip_to(self, offset: int, skipped: Skipped) -> None:
        """Read what is before ``offset``, and keep what is good of it."""
        while self.position < offset:
            await self._fill()
            start = self.position
            piece = self._take(min(len(self._chunk), offset - start))
            if self.certain:
                skipped.add(start, piece)

    async def read_into(self, view: memoryview, landed: Callable[[int], None]) -> None:
        """Fill ``view``; call ``landed(n)`` when its first ``n`` bytes are good.  Raises `Failure`."""
        done = 0
        while done < len(view):
            await self._fill()
            piece = self._take(min(len(self._chunk), len(view) - done))
            view[done : done + len(piece)] = piece
            done += len(piece)
            if self.certain:
                landed(done)
        if not self.certain:
            await self.finish()
            landed(done)

    async def finish(self) -> None:
        """Read to the end, so that the connection is used again.  Raises `Failure` if that is elsewhere."""
        while await self._more():
            self._take(len(self._chunk))
            if self.position > self.end:
                raise Failure(OriginError, "sent more bytes than asked for", transient=True)
        if self.position < self.end:
            raise self._ended_early()

    async def aclose(self) -> None:
        """Close the connection, unless the body was read to its end.  Idempotent."""
        if self._started and not self._response.is_closed:
            # Closing only the outermost of the nested generators of httpx and httpcore leaves the inner ones
            # to the garbage collector, which trio reports.  A cancelled read goes through and ends them all.
            with trio.CancelScope() as scope, suppress(Failure):
                scope.cancel()
                while await self._more():
                    self._chunk = memoryview(b"")
        await self._response.aclose()

    def _take(self, n_bytes: int) -> memoryview:
        piece, self._chunk = self._chunk[:n_bytes], self._chunk[n_bytes:]
        self.position += n_bytes
        return piece

    async def _fill(self) -> None:
        """Have at least one byte at hand."""
        if not await self._more():
            raise self._ended_early()

    def _ended_early(self) -> Failure:
        cause = f"ended {self.end - self.position} bytes early"
        return Failure(OriginUnreachableError, cause, transient=True)

    async def _more(self) -> bool:
        self._started = True
        while not self._chunk:
            try:
                self._chunk = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                return False
            except Exception as error:
                raise failure_of(error) from error
            self.progressed()
        return True
