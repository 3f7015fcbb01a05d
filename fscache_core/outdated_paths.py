"""The paths of a volume of which what is cached may be older than what is known of the origin.

It is not enough to delete what is cached: another process may put an older version back into the cache any
time.  So they are remembered as long as the volume is attached.
"""

from __future__ import annotations

#: Paths, and beginnings of paths, that are remembered.  If there are more, all that is cached and not in use
#: counts as old.
MAX_OUTDATED = 10_000


class OutdatedPaths:
    """See the module.  ``in`` tells whether a path is one of them."""

    __slots__ = ("_below", "_labels")

    def __init__(self) -> None:
        # By path, the adapter's evidence of the version that the origin has named since, or None.
        self._labels: dict[str, bytes | None] = {}
        self._below: set[str] = set()  # the same for all paths that begin so, up to a slash, or all

    def __contains__(self, path: str) -> bool:
        if path in self._labels:
            return True
        ends = (at + 1 for at, letter in enumerate(path) if letter == "/") if self._below else ()
        return "" in self._below or any(path[:end] in self._below for end in ends)

    def may_adopt(self, path: str) -> bool:
        """Whether a version that is cached may be the present one, or can be told from it (`doubts`)."""
        return self._labels.get(path) is not None or path not in self

    def doubts(self, path: str, aux: bytes) -> bool:
        """Whether the origin is known to have had another version than the one labelled so."""
        return self._labels.get(path, aux) not in (aux, None)

    def note(self, path: str, aux: bytes | None) -> None:
        """Note that what is cached is old, unless it is labelled ``aux``."""
        self._labels[path] = aux
        self._limit()

    def note_below(self, prefix: str) -> None:
        """Note that of the paths known already those that begin with ``prefix`` have changed once more."""
        for path in self._labels:
            if path.startswith(prefix):
                self._labels[path] = None

    def distrust_below(self, prefix: str) -> None:
        """Note every path that begins with ``prefix``, which ends with a slash."""
        self._below.add(prefix)
        self._limit()

    def _limit(self) -> None:
        if len(self._labels) + len(self._below) > MAX_OUTDATED:
            self._labels.clear()
            self._below = {""}
