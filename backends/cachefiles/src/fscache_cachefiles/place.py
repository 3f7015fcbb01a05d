"""Where objects belong: below an index, under a cooked name."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs: below which index, under which cooked name."""

    index: "Index"
    cooked: str

    @property
    def path(self) -> str:
        """Relative to ``cache/``."""
        return f"{self.index.path}/{self.cooked}" if self.index.path else self.cooked

    @property
    def name(self) -> str:
        return self.cooked.rpartition("/")[2]

    @property
    def container(self) -> list[str]:
        """The ``@`` and ``+`` directories between the index and the name."""
        return self.cooked.split("/")[:-1]


class Index:
    """The backing of an index object: its directory, held in use until the last reference is gone."""

    __slots__ = ("descriptor", "emptied", "inode", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path  #: relative to ``cache/``; empty for the master index
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self.emptied = False  #: what was below it was deleted; it may go too if that was all

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close
