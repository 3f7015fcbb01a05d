"""The record of one cookie in a cachefiles cache.

``label`` and ``size`` say which version this object holds.  They are taken from the cookie when the
object is looked up, updated, resized or invalidated, never in between: the cookie may already know of
a newer version while pages of this one are still being stored.

A data object has no backing until something is stored in it (or promised to it).  Core runs no two of those
hooks at once that change the backing, except that pages are stored while others are read.
"""

import logging
from typing import TYPE_CHECKING

from fscache_cachefiles.check_time import write_check_time
from fscache_cachefiles.key import cook_key
from fscache_cachefiles.namei import SMALL_SIZE_MAX
from fscache_cachefiles.xattr import Label
from fscache_core.errors import CallerError
from fscache_core.folio import PageRuns
from fscache_core.object import CacheObject
from fscache_core.outcome import AuxOutcome, CookieType

if TYPE_CHECKING:
    from fscache_cachefiles.backing import Backing
    from fscache_cachefiles.place import Index, Place
    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie

log = logging.getLogger(__name__)

#: One for all objects: almost none has any.
NO_BLOCKS: frozenset[int] = frozenset()


class CachefilesObject(CacheObject):
    """An object of this backend."""

    __slots__ = (
        "backing",
        "check_time",
        "cooked",
        "damaged",
        "held",
        "index",
        "label",
        "pinned",
        "place",
        "reserved_size",
        "size",
        "superseded",
    )

    def __init__(self, cache: "Cache", cookie: "Cookie") -> None:
        super().__init__(cache, cookie)
        try:
            self.cooked = cook_key(cookie.key, cookie.type)
        except ValueError as error:
            raise CallerError(str(error)) from error
        self.index: Index | None = None  #: of an index object that is available
        self.place: Place | None = None  #: known once it is looked up
        self.backing: Backing | None = None  #: of a data object that has something stored
        self.label = Label(cookie.type, b"")
        self.size = 0  #: bytes
        self.check_time = 0.0  #: when the origin last confirmed this version, seconds since the epoch
        self.pinned = False
        self.reserved_size = 0  #: bytes
        self.superseded = False  #: another version has the name; this one is stored nowhere
        self.held = PageRuns()  #: fill locks
        self.damaged = NO_BLOCKS  #: blocks reported as such

    @property
    def is_index(self) -> bool:
        return self.cookie.type == CookieType.INDEX

    @property
    def is_small(self) -> bool:
        return self.size <= SMALL_SIZE_MAX

    def take_version(self) -> None:
        """Take label and size from the cookie: what is stored from now on is that version."""
        if self.cookie.aux is not None:
            self.label = Label(self.cookie.type, self.cookie.aux)
        self.size = self.cookie.object_size
        self.check_time = 0.0
        self.superseded = False

    def judge(self, label: Label, size: int) -> AuxOutcome:
        """Have the netfs say what a label is worth that was found with ``size`` bytes."""
        if label.cookie_type != self.cookie.type:
            return AuxOutcome.OBSOLETE
        return self.check_aux(label.aux, size)

    def keep_check_time(self) -> None:
        """Note with what is stored, if others can find it, when the origin last confirmed it.  Blocks."""
        if self.check_time and self.backing is not None and self.backing.published:
            write_check_time(self.backing, self.label, self.check_time)

    def note_damage(self, blocks: list[int]) -> None:
        """Log blocks whose checksum did not match, each once."""
        new = set(blocks) - self.damaged
        if new:
            self.damaged |= new
            log.warning(
                "%r (%r): block %s does not match its checksum and is fetched again",
                self,
                self.cookie,
                ", ".join(map(str, sorted(new))),
            )


def own(obj: CacheObject) -> CachefilesObject:
    """What core gives back to us as it sees it."""
    assert isinstance(obj, CachefilesObject)
    return obj
