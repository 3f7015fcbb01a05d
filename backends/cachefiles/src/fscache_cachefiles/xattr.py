"""Extended attributes: the label of an object, its seal, its pin, the time of its last check.

The only importer of pyxattr.

Every function takes an open descriptor, never a path.  Faults are split in three: not there
(`None`), there but not what the format says (`BadAttributeError`), and the filesystem failing
(`OSError` as raised).

Source: the on-disk format, section 3 (`LABEL`).  `SEAL`, `PIN` and `CHECKED` are additions of ours; the
reference ignores attributes it does not know.
"""

import errno
import struct
from dataclasses import dataclass

import xattr

LABEL = b"user.CacheFiles.cache"
SEAL = b"user.CacheFiles.seal"
PIN = b"user.CacheFiles.pin"
CHECKED = b"user.CacheFiles.checked"
MASTER_INDEX_LABEL = b"C3"
#: The longest label (bytes): a type byte and 512 of aux data.
LABEL_SIZE_MAX = 513

_SEAL = struct.Struct("<QQQQ")
_PIN = struct.Struct("<BQ")
_CHECKED = struct.Struct("<dQ")


class BadAttributeError(ValueError):
    """An attribute is there, but the format has no such value."""


@dataclass(frozen=True, slots=True)
class Label:
    """Which version of what an object holds: a type byte, then the netfs's aux data."""

    cookie_type: int
    aux: bytes

    def pack(self) -> bytes:
        return bytes((self.cookie_type,)) + self.aux


@dataclass(frozen=True, slots=True)
class Seal:
    """What ties the parts of a data object together.  Written once, before it is published.

    Every checksum of the object is seeded with its path and ``nonce``, so a block, a map or a
    file that belongs to another object or another version of it never matches.
    """

    nonce: int  #: 64 random bits, new for every inode
    size: int  #: of the object, bytes
    entry: int  #: block map entry of a small object; 0 for a large one
    check: int  #: over the path and the fields above (`blockmap.seal_check`)

    def pack(self) -> bytes:
        return _SEAL.pack(self.nonce, self.size, self.entry, self.check)


@dataclass(frozen=True, slots=True)
class Pin:
    """What an object was promised.  Whoever evicts or admits honours it."""

    pinned: bool  #: never culled
    reserved_size: int  #: the first so many bytes of the object are already paid for

    def pack(self) -> bytes:
        return _PIN.pack(self.pinned, self.reserved_size)


NO_PIN = Pin(False, 0)


@dataclass(frozen=True, slots=True)
class Checked:
    """When the origin last confirmed the version that the label names."""

    time: float  #: seconds since the epoch
    check: int  #: over the label, the seal and the time (`blockmap.time_check`)

    def pack(self) -> bytes:
        return _CHECKED.pack(self.time, self.check)


def has_attributes(descriptor: int) -> bool:
    """Whether the filesystem keeps user attributes.  Asks by reading, so nothing is left behind."""
    try:
        _read(descriptor, LABEL)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True


def read_label(descriptor: int) -> Label | None:
    """The label of an object, ``None`` if it has none (an interrupted cull)."""
    value = _read(descriptor, LABEL)
    if value is None:
        return None
    if not 1 <= len(value) <= LABEL_SIZE_MAX:
        raise BadAttributeError(f"a label of {len(value)} bytes")
    return Label(value[0], value[1:])


def create_label(descriptor: int, label: Label) -> None:
    """Label a new object.  `FileExistsError` if it has a label already."""
    xattr.set(descriptor, LABEL, label.pack(), flags=xattr.XATTR_CREATE)


def replace_label(descriptor: int, label: Label) -> None:
    """Rewrite the label of an object that has one; ENODATA if it has none."""
    xattr.set(descriptor, LABEL, label.pack(), flags=xattr.XATTR_REPLACE)


def remove_label(descriptor: int) -> None:
    """Make an object stale for everybody, whatever happens next.  No label is success."""
    _remove(descriptor, LABEL)


def label_master_index(descriptor: int) -> None:
    """Label ``cache/``, or check that it is labelled as one of ours.

    Raises:
      BadAttributeError: it carries something else.
      OSError: EOPNOTSUPP where the filesystem has no user attributes.
    """
    try:
        xattr.set(descriptor, LABEL, MASTER_INDEX_LABEL, flags=xattr.XATTR_CREATE)
    except FileExistsError:
        value = _read(descriptor, LABEL)
        if value != MASTER_INDEX_LABEL:
            raise BadAttributeError(f"the master index is labelled {value!r}") from None


def read_seal(descriptor: int) -> Seal | None:
    value = _read(descriptor, SEAL)
    if value is None:
        return None
    try:
        nonce, size, entry, check = _SEAL.unpack(value)
    except struct.error as error:
        raise BadAttributeError(f"a seal of {len(value)} bytes") from error
    return Seal(nonce, size, entry, check)


def create_seal(descriptor: int, seal: Seal) -> None:
    xattr.set(descriptor, SEAL, seal.pack(), flags=xattr.XATTR_CREATE)


def remove_seal(descriptor: int) -> None:
    _remove(descriptor, SEAL)


def read_pin(descriptor: int) -> Pin | None:
    value = _read(descriptor, PIN)
    if value is None:
        return None
    try:
        pinned, reserved_size = _PIN.unpack(value)
    except struct.error as error:
        raise BadAttributeError(f"a pin of {len(value)} bytes") from error
    return Pin(bool(pinned), reserved_size)


def write_pin(descriptor: int, pin: Pin) -> None:
    """Set the pin; one that promises nothing is removed."""
    if pin.pinned or pin.reserved_size:
        xattr.set(descriptor, PIN, pin.pack())
    else:
        _remove(descriptor, PIN)


def read_checked(descriptor: int) -> Checked | None:
    value = _read(descriptor, CHECKED)
    if value is None:
        return None
    try:
        time, check = _CHECKED.unpack(value)
    except struct.error as error:
        raise BadAttributeError(f"a check time of {len(value)} bytes") from error
    return Checked(time, check)


def write_checked(descriptor: int, checked: Checked) -> None:
    xattr.set(descriptor, CHECKED, checked.pack())


def _read(descriptor: int, name: bytes) -> bytes | None:
    try:
        value: bytes = xattr.get(descriptor, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise
    return value


def _remove(descriptor: int, name: bytes) -> None:
    try:
        xattr.remove(descriptor, name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOENT):
            raise
