"""What the netfs says of a kind of cookie: its type and the callbacks that answer for it (section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.outcome import AuxOutcome

MAX_KEY_SIZE = 511  #: bytes
MAX_AUX_SIZE = 510  #: bytes


@dataclass(frozen=True, slots=True)
class CookieDefinition:
    """What kind of cookie it is and how the netfs answers for it (section 2).

    Every callable gets the cookie's ``netfs_data`` first, is called in the trio thread and must not block.
    """

    name: str  #: at most 15 characters; shown in the object list
    type: int  #: a `CookieType`, or 3 to 255 for further special types
    get_key: Callable[[object], bytes]
    get_attr: Callable[[object], int] | None = None  #: size in bytes
    #: Version evidence.  None, or an answer of None: whatever the cache holds is right (it is adopted),
    #: and nothing is created if it holds nothing.
    get_aux: Callable[[object], bytes | None] | None = None
    check_aux: Callable[[object, bytes, int], AuxOutcome] | None = None
    get_context: Callable[[object, object], None] | None = None
    put_context: Callable[[object, object], None] | None = None
    mark_pages_cached: Callable[[object, int, int], None] | None = None
    now_uncached: Callable[[object], None] | None = None
    select_cache: Callable[[object, object], str | None] | None = None
    netfs: str = ""  #: who answers, in messages; ``name`` if not given

    @property
    def whose(self) -> str:
        return self.netfs or self.name

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 15:
            raise CallerError(f"cookie definition name {self.name!r}: 1 to 15 characters are allowed")
        if not 0 <= self.type <= 255:
            raise CallerError(f"cookie definition {self.name}: type {self.type} is not 0 to 255")
