"""A stream of the caller's, on its way into an upload that runs in a worker thread."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable


class Upload:
    """Iterates over a source: first in the trio thread, to see whether it is small; then from a worker
    thread.

    Iterated in the thread, it reads the source in the trio thread, as the task that waits for the thread:
    cancelling that task ends the iteration with an exception, and with it the upload.
    """

    def __init__(self, source: AsyncIterable[bytes], part_size: int) -> None:
        self._part_size = part_size
        self._part = hashlib.md5(usedforsecurity=False)
        self._part_room = part_size
        self._digests: list[bytes] = []
        self._source = aiter(source)
        self._head = b""
        self._last_check: Callable[[], Awaitable[None]] | None = None
        self.size = 0  #: bytes taken from the source

    async def read_small(self) -> bytes | None:
        """Return all of the source if it is at most one part; None, and nothing is lost, if it is more."""
        chunks: list[bytes] = []
        while self.size <= self._part_size:
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                return b"".join(chunks)
            chunks.append(chunk)
            self.size += len(chunk)
        self._head = b"".join(chunks)
        return None

    def check_at_end(self, check: Callable[[], Awaitable[None]]) -> None:
        """Before the last byte counts as sent, call ``check``; what it raises ends the upload."""
        self._last_check = check

    def __iter__(self) -> Upload:
        return self

    def __next__(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            self._digest(head)
            return head
        chunk = trio.from_thread.run(self._read)
        if chunk is None:
            raise StopIteration
        self.size += len(chunk)
        self._digest(chunk)
        return chunk

    @property
    def e_tag_of_parts(self) -> str:
        """What S3 makes of the parts, unless it encrypts them: the MD5 of their MD5s, and their number."""
        last = [self._part.digest()] if self._part_room < self._part_size else []
        digests = self._digests + last
        return f'"{hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"'

    def _digest(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            self._part.update(rest[: self._part_room])
            n_taken = min(len(rest), self._part_room)
            self._part_room -= n_taken
            rest = rest[n_taken:]
            if not self._part_room:
                self._digests.append(self._part.digest())
                self._part = hashlib.md5(usedforsecurity=False)
                self._part_room = self._part_size

    async def _read(self) -> bytes | None:
        async for chunk in self._source:
            if chunk:
                return chunk
        if self._last_check is not None:
            await self._last_check()
        return None
