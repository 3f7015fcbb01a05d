"""Asking the origin of a volume what a path is, and remembering for a while what is not there.

What we change while the origin is asked may be newer than its answer: then it is asked once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fscache_core.errors import OriginNotFoundError

if TYPE_CHECKING:
    from fscache_core.volume import Volume

#: Paths that are remembered to be missing.
MAX_ABSENT = 10_000


class OriginLookup:
    """The look-ups of one volume."""

    __slots__ = ("_absent", "_questions", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._absent: dict[str, float] = {}  # path -> trio time until which it is known not to exist
        self._questions: set[_Question] = set()  # under way

    async def look_up(self, path: str) -> object:
        """What the adapter says of a path, minding a recent "no such file".

        Raises:
          OriginError and its kinds: the origin's answer, now or a short while ago.
          CallerError: the volume is closed.
        """
        volume = self._volume
        volume.check_open()
        until = self._absent.get(path)
        if until is not None:
            if trio.current_time() < until:
                raise OriginNotFoundError(f"{volume.named(path)}: no such file (as of a short while ago)")
            del self._absent[path]
        while True:
            volume.check_open()
            question = _Question(path)
            self._questions.add(question)
            volume.stats.origin_checks += 1
            try:
                with volume.under_way():
                    answer = await volume.netfs.call("look_up", volume.netfs.look_up, volume.data, path)
                    if question.outdated:
                        continue
                    return answer
                raise volume.closed_error()
            except OriginNotFoundError:
                if question.outdated:
                    continue
                if volume.coherency.negative_ttl_seconds:
                    self._absent.pop(path, None)
                    self._absent[path] = trio.current_time() + volume.coherency.negative_ttl_seconds
                    if len(self._absent) > MAX_ABSENT:
                        del self._absent[next(iter(self._absent))]  # the oldest
                raise
            finally:
                self._questions.remove(question)

    def changed(self, path: str) -> None:
        """A path was changed through the cache, or may have been."""
        self.forget(path)
        for question in self._questions:
            question.outdated |= question.path == path

    def changed_below(self, prefix: str) -> None:
        """`changed` for every path that begins with ``prefix``."""
        self._absent.clear()
        for question in self._questions:
            question.outdated |= question.path.startswith(prefix)

    def forget(self, path: str) -> None:
        """Forget that a path was not there."""
        self._absent.pop(path, None)


class _Question:
    """A look-up under way, and whether we changed what it asks for: then the answer may be older."""

    __slots__ = ("outdated", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.outdated = False
