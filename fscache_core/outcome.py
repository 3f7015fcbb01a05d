"""What a call can come to, where every caller must handle every case.

These are values, not exceptions.  In brackets: what the reference returns there.
"""

import enum


class CookieType(enum.IntEnum):
    """The kinds of cookie.  2 to 255 are special objects; `SPECIAL` is the first of them."""

    INDEX = 0
    DATA = 1
    SPECIAL = 2


class LookupOutcome(enum.Enum):
    """What ``lookup_object`` found."""

    OBTAINED = "obtained"  #: exists, and its label is valid
    CREATED = "created"  #: did not exist, or was stale; a new and empty object is there now
    RETRY = "retry"  #: stuck behind another object; core looks it up again (ETIMEDOUT)
    ABSENT = "absent"  #: does not exist, and the cookie said not to create it (no aux data)


class ReadOutcome(enum.Enum):
    """What a read or an allocation came to."""

    HIT = "hit"  #: every page was read (0)
    NO_DATA = "no data"  #: some pages are not in the cache; fetch and store them (ENODATA)
    NO_BUFFERS = "no buffers"  #: some pages are not in the cache and cannot be (ENOBUFS)


class WriteOutcome(enum.Enum):
    """What a store came to."""

    STORED = "stored"  #: queued (netfs side) or written (backend side) (0)
    NO_BUFFERS = "no buffers"  #: not cacheable now; nothing was kept (ENOBUFS)


class AuxOutcome(enum.Enum):
    """Whether a stored label still describes the netfs's file."""

    OKAY = "okay"
    NEEDS_UPDATE = "needs update"  #: the data is good, the label is to be rewritten
    OBSOLETE = "obsolete"  #: stale: retire the object and make a new one


class ConsistencyOutcome(enum.Enum):
    """What ``check_consistency`` found."""

    CONSISTENT = "consistent"  #: or not cached at all (0)
    STALE = "stale"  #: (ESTALE)


class ReserveOutcome(enum.Enum):
    """What pinning or reserving came to."""

    GRANTED = "granted"  #: (0)
    REFUSED = "refused"  #: not offered by this backend, or no room (ENOBUFS)


class LockOutcome(enum.Enum):
    """What ``lock_pages`` came to."""

    LOCKED = "locked"  #: the caller holds the lock: look again, then fetch what is missing
    CHANGED = "changed"  #: somebody else holds it; pages may have arrived meanwhile: look again


class KillReason(enum.Enum):
    """Why the backend ended an object (the reference's CacheEv counters)."""

    IS_STALE = "stl"
    NO_SPACE = "nsp"
    WAS_RETIRED = "rtr"
    WAS_CULLED = "cul"


#: What ``read_resident`` returns when it cannot give all of the range at once.
NOT_RESIDENT = -1
