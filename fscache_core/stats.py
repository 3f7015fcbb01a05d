"""Counters: the reference's under its names (section 12), and one record per volume.

Counters are plain integers changed in the trio thread; reading them costs nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(slots=True, init=False)
class Stats:
    """Every counter of the reference.  Field ``label_key`` is row ``label``, key ``key``."""

    cookies_idx: int = 0
    cookies_dat: int = 0
    cookies_spc: int = 0
    objects_alc: int = 0
    objects_nal: int = 0
    objects_avl: int = 0
    objects_ded: int = 0
    chkaux_non: int = 0
    chkaux_ok: int = 0
    chkaux_upd: int = 0
    chkaux_obs: int = 0
    pages_mrk: int = 0
    pages_unc: int = 0
    acquire_n: int = 0
    acquire_nul: int = 0
    acquire_noc: int = 0
    acquire_ok: int = 0
    acquire_nbf: int = 0
    acquire_oom: int = 0
    lookups_n: int = 0
    lookups_neg: int = 0
    lookups_pos: int = 0
    lookups_crt: int = 0
    lookups_tmo: int = 0
    invals_n: int = 0
    invals_run: int = 0
    updates_n: int = 0
    updates_nul: int = 0
    updates_run: int = 0
    relinqs_n: int = 0
    relinqs_nul: int = 0
    relinqs_wcr: int = 0
    relinqs_rtr: int = 0
    attrchg_n: int = 0
    attrchg_ok: int = 0
    attrchg_nbf: int = 0
    attrchg_oom: int = 0
    attrchg_run: int = 0
    allocs_n: int = 0
    allocs_ok: int = 0
    allocs_wt: int = 0
    allocs_nbf: int = 0
    allocs_int: int = 0
    alloc_ops: int = 0
    alloc_owt: int = 0
    alloc_abt: int = 0
    retrvls_n: int = 0
    retrvls_ok: int = 0
    retrvls_wt: int = 0
    retrvls_nod: int = 0
    retrvls_nbf: int = 0
    retrvls_int: int = 0
    retrvls_oom: int = 0
    retrvl_ops: int = 0
    retrvl_owt: int = 0
    retrvl_abt: int = 0
    stores_n: int = 0
    stores_ok: int = 0
    stores_agn: int = 0
    stores_nbf: int = 0
    stores_oom: int = 0
    store_ops: int = 0
    store_run: int = 0
    store_pgs: int = 0
    store_rxd: int = 0
    store_olm: int = 0
    vmscan_nos: int = 0
    vmscan_gon: int = 0
    vmscan_bsy: int = 0
    vmscan_can: int = 0
    vmscan_wt: int = 0
    ops_pend: int = 0
    ops_run: int = 0
    ops_enq: int = 0
    ops_can: int = 0
    ops_rej: int = 0
    ops_ini: int = 0
    ops_dfr: int = 0
    ops_rel: int = 0
    ops_gc: int = 0
    cacheop_alo: int = 0
    cacheop_luo: int = 0
    cacheop_luc: int = 0
    cacheop_gro: int = 0
    cacheop_inv: int = 0
    cacheop_upo: int = 0
    cacheop_dro: int = 0
    cacheop_pto: int = 0
    cacheop_atc: int = 0
    cacheop_syn: int = 0
    cacheop_rap: int = 0
    cacheop_ras: int = 0
    cacheop_alp: int = 0
    cacheop_als: int = 0
    cacheop_wrp: int = 0
    cacheop_ucp: int = 0
    cacheop_dsp: int = 0
    cacheev_nsp: int = 0
    cacheev_stl: int = 0
    cacheev_rtr: int = 0
    cacheev_cul: int = 0

    def __init__(self, **counts: int) -> None:
        # To have one made, with a hundred arguments, takes longer than the rest of this module.
        for name in counters():
            setattr(self, name, counts.pop(name, 0))
        if counts:
            raise TypeError(f"no such counters: {', '.join(counts)}")

    def text(self) -> str:
        """The reference's text form, exactly."""
        lines = ["FS-Cache statistics"]
        for label, group, keys in ROWS:
            values = " ".join(f"{key}={getattr(self, f'{group}_{key}')}" for key in keys)
            lines.append(f"{label:<7}: {values}")
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, int]:
        """Every counter by its field name."""
        return asdict(self)

    def since(self, earlier: Mapping[str, int]) -> dict[str, int]:
        """What was counted since `as_dict` gave ``earlier``: counters that grew, without gauges."""
        return {
            name: value - earlier.get(name, 0)
            for name, value in self.as_dict().items()
            if value > earlier.get(name, 0) and not name.startswith(GAUGES)
        }

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Stats:
        """Statistics of counts by field name; names it does not know are left out."""
        known = set(counters())
        return cls(**{name: value for name, value in counts.items() if name in known})

    def prometheus(self) -> str:
        """Prometheus text exposition, version 0.0.4."""
        lines = []
        for label, group, keys in ROWS:
            kind = "gauge" if group.startswith(GAUGES) else "counter"
            suffix = "" if kind == "gauge" else "_total"
            for key in keys:
                name = f"fscache_{group}_{key}{suffix}"
                lines.append(f"# HELP {name} {label.strip()} {key}")
                lines.append(f"# TYPE {name} {kind}")
                lines.append(f"{name} {getattr(self, f'{group}_{key}')}")
        return "\n".join(lines) + "\n"


#: Fields of this group count calls now in progress; all others only grow.
GAUGES = "cacheop"

#: (label, field group, keys): the rows of the text form, in order.
ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Cookies", "cookies", ("idx", "dat", "spc")),
    ("Objects", "objects", ("alc", "nal", "avl", "ded")),
    ("ChkAux", "chkaux", ("non", "ok", "upd", "obs")),
    ("Pages", "pages", ("mrk", "unc")),
    ("Acquire", "acquire", ("n", "nul", "noc", "ok", "nbf", "oom")),
    ("Lookups", "lookups", ("n", "neg", "pos", "crt", "tmo")),
    ("Invals", "invals", ("n", "run")),
    ("Updates", "updates", ("n", "nul", "run")),
    ("Relinqs", "relinqs", ("n", "nul", "wcr", "rtr")),
    ("AttrChg", "attrchg", ("n", "ok", "nbf", "oom", "run")),
    ("Allocs", "allocs", ("n", "ok", "wt", "nbf", "int")),
    ("Allocs", "alloc", ("ops", "owt", "abt")),
    ("Retrvls", "retrvls", ("n", "ok", "wt", "nod", "nbf", "int", "oom")),
    ("Retrvls", "retrvl", ("ops", "owt", "abt")),
    ("Stores", "stores", ("n", "ok", "agn", "nbf", "oom")),
    ("Stores", "store", ("ops", "run", "pgs", "rxd", "olm")),
    ("VmScan", "vmscan", ("nos", "gon", "bsy", "can", "wt")),
    ("Ops", "ops", ("pend", "run", "enq", "can", "rej")),
    ("Ops", "ops", ("ini", "dfr", "rel", "gc")),
    ("CacheOp", "cacheop", ("alo", "luo", "luc", "gro")),
    ("CacheOp", "cacheop", ("inv", "upo", "dro", "pto", "atc", "syn")),
    ("CacheOp", "cacheop", ("rap", "ras", "alp", "als", "wrp", "ucp", "dsp")),
    ("CacheEv", "cacheev", ("nsp", "stl", "rtr", "cul")),
)


@dataclass(slots=True)
class VolumeStats:
    """What happened on one volume in this process.  Sizes in bytes."""

    opens: int = 0  #: files opened
    hits: int = 0  #: reads answered from the cache alone
    misses: int = 0  #: reads that needed the origin for some byte
    bytes_from_cache: int = 0  #: handed to readers
    bytes_from_origin: int = 0  #: fetched, read-ahead included
    bytes_stored: int = 0  #: accepted for storing
    joined: int = 0  #: waits for a fetch that another task or process had begun
    verification_failures: int = 0  #: pages that the backend found damaged
    fallbacks: int = 0  #: reads that went to the origin because the cache failed
    stale_served: int = 0  #: opens served from the cache because the origin could not be asked
    weak: int = 0  #: opens whose evidence proved nothing
    origin_checks: int = 0  #: look-ups sent to the origin

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def counters() -> Iterator[str]:
    """Names of all counters of `Stats`."""
    return (f.name for f in fields(Stats))


@dataclass(slots=True)
class Histogram:
    """Times in buckets of one jiffy (1/``hz`` second); the last bucket takes what is longer."""

    hz: int = 100
    columns: dict[str, list[int]] = field(default_factory=dict)

    NAMES: ClassVar[tuple[str, ...]] = ("obj_inst", "op_runs", "obj_runs", "retrv_dly", "retrievls")

    def note(self, column: str, seconds: float) -> None:
        counts = self.columns.setdefault(column, [0] * self.hz)
        counts[min(int(seconds * self.hz), self.hz - 1)] += 1

    def as_dict(self) -> dict[str, list[int]]:
        """Every column as the counts of its buckets."""
        return {name: list(self.columns.get(name, [0] * self.hz)) for name in self.NAMES}

    def text(self) -> str:
        """The reference's text form; rows of zeros are left out."""
        lines = [
            "JIFS  SECS  OBJ INST  OP RUNS   OBJ RUNS  RETRV DLY RETRIEVLS",
            "===== ===== ========= ========= ========= ========= =========",
        ]
        for jiffy in range(self.hz):
            row = [self.columns[name][jiffy] if name in self.columns else 0 for name in self.NAMES]
            if any(row):
                milliseconds = jiffy * 1000 // self.hz
                lines.append(f"{jiffy:4d}  0.{milliseconds:03d} " + " ".join(f"{n:9d}" for n in row))
        return "\n".join(lines) + "\n"
