"""The object list: a line per object of every cache, as the reference prints it (section 13)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from fscache_core.outcome import CookieType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fscache_core.domain import Domain
    from fscache_core.object import CacheObject

LETTERS = "KACcBbWwRrSs"

_HEADER = (
    "OBJECT   PARENT   STAT CHLDN OPS OOP IPR EX READS EM EV FL S"
    " | NETFS_COOKIE_DEF TY FL NETFS_DATA       OBJECT_KEY, AUX_DATA"
)
_RULERS = (
    "======== ======== ==== ===== === === === == ===== == == == ="
    " | ================ == == ================ ================"
)
_NO_PARENT = 0xFFFFFFFF
_KINDS: dict[int, str] = {CookieType.INDEX: "IX", CookieType.DATA: "DT"}


@dataclass(frozen=True, slots=True)
class ObjectLine:
    """One object, as it was at one moment."""

    object: int  #: debug id
    parent: int | None  #: debug id
    cache: str  #: tag
    state: str
    short: str  #: short name of the state
    n_children: int
    n_ops: int
    n_obj_ops: int
    n_in_progress: int
    n_exclusive: int
    n_reads: int
    event_mask: int
    events: int
    flags: int
    work: int  #: 1 waiting for a place in the pool, 2 running, 0 at rest
    definition: str | None  #: None: the netfs has given the cookie back
    type: int | None
    cookie_flags: int | None
    netfs_data: int | None  #: identity of the netfs's own data
    key: str  #: hexadecimal
    aux: str  #: hexadecimal

    def text(self, letters: str) -> str:
        """The line as the reference prints it, with key and aux data if ``letters`` ask for them."""
        parent = _NO_PARENT if self.parent is None else self.parent
        line = (
            f"{self.object:8x} {parent:8x} {self.short} {self.n_children:5d}"
            f" {self.n_ops:3d} {self.n_obj_ops:3d} {self.n_in_progress:3d} {self.n_exclusive:2d}"
            f" {self.n_reads:5d} {self.event_mask:2x} {self.events:2x} {self.flags:2x} {self.work:1x} | "
        )
        if self.definition is None or self.type is None:
            return line + "<no_netfs>"
        kind = _KINDS.get(self.type, f"{self.type:02d}")
        line += f"{self.definition:<16} {kind} {self.cookie_flags:2x} {self.netfs_data:016x}"
        shown = [text for letter, text in (("K", self.key), ("A", self.aux)) if letter in letters]
        return f"{line} {', '.join(shown)}" if shown else line


def list_objects(domain: Domain, letters: str = "") -> list[ObjectLine]:
    """Every object, ordered by id.

    Args:
      letters: which ones: ``C``/``c`` with or without a cookie in use, ``B``/``b`` busy or idle, ``W``/``w``
        with pending writes or not, ``R``/``r`` with reads or not, ``S``/``s`` with work queued or not.  Where
        neither of a pair is given, both are meant.  ``K`` and ``A`` (key, aux data) only matter to
        `ObjectLine.text`.

    Raises:
      CallerError: a letter that is none of these.
    """
    unknown = sorted(set(letters) - set(LETTERS))
    if unknown:
        raise CallerError(f"object list: unknown letters {''.join(unknown)!r}; there are {LETTERS}")
    objects = [obj for cache in domain.caches for obj in cache.objects.values() if _chosen(obj, letters)]
    return [_line(obj) for obj in sorted(objects, key=lambda obj: obj.debug_id)]


def object_list_text(lines: Iterable[ObjectLine], letters: str = "") -> str:
    """The whole list as the reference prints it.  Without any letters, everything is shown."""
    letters = letters or LETTERS
    return "\n".join([_HEADER, _RULERS, *(line.text(letters) for line in lines)]) + "\n"


def object_list_json(lines: Iterable[ObjectLine]) -> list[dict[str, object]]:
    """The list as values for JSON."""
    return [asdict(line) for line in lines]


def _chosen(obj: CacheObject, letters: str) -> bool:
    busy = obj.active or obj.ops.n_ops > 0 or obj.n_children > 0 or obj.flags != 0 or bool(obj.dependents)
    for letter, is_so in (
        ("C", not obj.cookie.relinquished),
        ("B", busy),
        ("W", obj.storage is not None),
        ("R", obj.ops.n_reads > 0),
        ("S", obj.work > 0),
    ):
        wanted, unwanted = letter in letters, letter.lower() in letters
        if wanted != unwanted and wanted != is_so:
            return False
    return True


def _line(obj: CacheObject) -> ObjectLine:
    cookie, ops = obj.cookie, obj.ops
    used = not cookie.relinquished
    return ObjectLine(
        object=obj.debug_id,
        parent=obj.parent.debug_id if obj.parent is not None else None,
        cache=obj.cache.tag,
        state=obj.state.name,
        short=obj.state.short,
        n_children=obj.n_children,
        n_ops=ops.n_ops,
        n_obj_ops=ops.n_obj_ops,
        n_in_progress=ops.n_in_progress,
        n_exclusive=ops.n_exclusive,
        n_reads=ops.n_reads,
        event_mask=obj.machine.event_mask,
        events=obj.machine.events,
        flags=obj.flags,
        work=obj.work,
        definition=cookie.definition.name if used else None,
        type=cookie.type if used else None,
        cookie_flags=cookie.flags if used else None,
        netfs_data=id(cookie.netfs_data) if used else None,
        key=cookie.key.hex(),
        aux=(cookie.aux or b"").hex(),
    )
