"""Asking the origin of a volume what a path is, and remembering for a while what is not there.

What we change while the origin is asked may be newer than its answer: then it is asked once more.  After an
invalidation the answer is handed out all the same, but nothing is remembered of it: who invalidates a file
often does not keep others from ever opening it where the origin is slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import OriginNotFoundError

if TYPE_CHECKING:
    from fscache_core.volume import Volume

#: Paths that are remembered to be missing.
MAX_ABSENT = 10_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What the origin said of a path."""

    netfs_data: object
    invalidated: bool  #: the path was, since the origin was asked: not for others, and not for later


class OriginLookup:
    """The look-ups of one volume."""

    __slots__ = ("_absent", "_questions", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._absent: dict[str, float] = {}  # path -> trio time until which it is known not to exist
        self._questions: set[_Question] = set()  # under way

    async def look_up(self, path: str) -> Answer:
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
                    return Answer(answer, question.invalidated)
                raise volume.closed_error()
            except OriginNotFoundError:
                if question.outdated:
                    continue
                if volume.coherency.negative_ttl_seconds and not question.invalidated:
                    self._absent.pop(path, None)
                    self._absent[path] = trio.current_time() + volume.coherency.negative_ttl_seconds
                    if len(self._absent) > MAX_ABSENT:
                        del self._absent[next(iter(self._absent))]  # the oldest
                raise
            finally:
                self._questions.remove(question)

    def changed(self, path: str) -> None:
        """A path was changed through the cache, or may have been."""
        self._absent.pop(path, None)
        for question in self._questions:
            question.outdated |= question.path == path

    def changed_below(self, prefix: str) -> None:
        """`changed` for every path that begins with ``prefix``."""
        self._absent.clear()
        for question in self._questions:
            question.outdated |= question.path.startswith(prefix)

    def invalidated(self, path: str) -> None:
        """Nothing that the origin has said of a path so far is to be used again."""
        self._absent.pop(path, None)
        for question in self._questions:
            question.invalidated |= question.path == path


class _Question:
    """A look-up under way.  The answer may be older than what has happened since."""

    __slots__ = ("invalidated", "outdated", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.outdated = False  #: we have changed, or may have, what it asks for
        self.invalidated = False
