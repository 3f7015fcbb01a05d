"""Cooking: turning the raw key of a cookie into the path of its object, and back.

A cooked path is relative to the directory of the parent object and always has the form
``@xx/…name``: a hash directory, then the name.  A name that would be longer than 255 bytes is
cut into pieces of 252 characters; every piece but the last is a directory ``+piece``, the last
keeps the type letter.  Nothing in a cooked path can escape the parent's directory: ``/`` and NUL
are never printable, and every component starts with one of ``@ + I J D E S T``.

Source: the on-disk format, section 2.
"""

import enum

#: The longest file name (bytes) the format uses; NAME_MAX of every Linux filesystem in use.
NAME_SIZE_MAX = 255
#: The longest key (bytes) the encoder takes.
KEY_SIZE_MAX = 512

_PIECE_SIZE = 252  # characters per component of a split name, type letter or `+` not counted
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_PRINTABLE = frozenset(range(0x21, 0x2F)) | frozenset(range(0x30, 0x80))


class ObjectKind(enum.Enum):
    """What a name says about an object.  Special types share one letter; the label tells them apart."""

    INDEX = 0
    DATA = 1
    SPECIAL = 2

    @classmethod
    def of(cls, cookie_type: int) -> "ObjectKind":
        """The kind of a cookie type byte (0 index, 1 data, 2 to 255 special)."""
        if not 0 <= cookie_type <= 255:
            raise ValueError(f"cookie type {cookie_type} is not in 0..255")
        return cls(min(cookie_type, 2))


# For each kind the letter of a printable and of an encoded name.
_LETTERS = {ObjectKind.INDEX: ("I", "J"), ObjectKind.DATA: ("D", "E"), ObjectKind.SPECIAL: ("S", "T")}
_KINDS = {letter: (kind, at == 0) for kind, pair in _LETTERS.items() for at, letter in enumerate(pair)}


def cook_key(key: bytes, cookie_type: int) -> str:
    """The path of the object with ``key`` relative to its parent's directory."""
    size = len(key)
    if size > KEY_SIZE_MAX:
        raise ValueError(f"a key of {size} bytes is longer than {KEY_SIZE_MAX}")
    printable, encoded = _LETTERS[ObjectKind.of(cookie_type)]
    hash_directory = f"@{(sum(key) + (size & 0xFF) + (size >> 8)) & 0xFF:02x}"
    if _PRINTABLE.issuperset(key):
        letter = printable
        text = _DIGITS[size >> 6 & 63] + _DIGITS[size & 63] + key.decode("ascii")
    else:
        letter = encoded
        text = _encode(size.to_bytes(2, "little") + key)
    if len(text) < NAME_SIZE_MAX:
        return f"{hash_directory}/{letter}{text}"
    pieces = [text[at : at + _PIECE_SIZE] for at in range(0, len(text), _PIECE_SIZE)]
    directories = "".join(f"+{piece}/" for piece in pieces[:-1])
    return f"{hash_directory}/{directories}{letter}{pieces[-1]}"


def uncook_key(path: str) -> tuple[bytes, ObjectKind]:
    """The key and kind that cook to ``path``.

    Raises:
      ValueError: no key does: a foreign name, a wrong hash directory, or another spelling of a
        name that the encoder would write differently.
    """
    hash_directory, _, rest = path.partition("/")
    *directories, name = rest.split("/")
    kind, is_printable = _KINDS.get(name[:1], (None, False))
    if kind is None or not all(piece.startswith("+") for piece in directories):
        raise ValueError(f"{path!r} is not a cooked path")
    text = "".join(piece[1:] for piece in directories) + name[1:]
    try:
        if is_printable:
            key = text[2:].encode("ascii")
        else:
            raw = _decode(text)
            key = raw[2 : 2 + int.from_bytes(raw[:2], "little")]
        known = cook_key(key, kind.value)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path!r} is not a cooked path") from error
    # Comparing with what the encoder writes checks everything at once: digits, length word,
    # padding, splitting and the hash directory.
    if known != path:
        raise ValueError(f"{hash_directory}/… should be {known!r}, not {path!r}")
    return key, kind


def _encode(raw: bytes) -> str:
    out: list[str] = []
    for at in range(0, len(raw), 3):
        accumulator = int.from_bytes(raw[at : at + 3], "little")
        out += (
            _DIGITS[accumulator & 63],
            _DIGITS[accumulator >> 6 & 63],
            _DIGITS[accumulator >> 12 & 63],
            _DIGITS[accumulator >> 18],
        )
    return "".join(out)


def _decode(text: str) -> bytes:
    if len(text) % 4:
        raise ValueError(f"{len(text)} digits are not a multiple of 4")
    out = bytearray()
    for at in range(0, len(text), 4):
        accumulator = sum(_VALUES[digit] << 6 * place for place, digit in enumerate(text[at : at + 4]))
        out += accumulator.to_bytes(3, "little")
    return bytes(out)
