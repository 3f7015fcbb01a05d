"""Sizes as people write them, for the options of plugins."""

from __future__ import annotations

import re

from fscache_core.errors import CallerError

_SIZE = re.compile(r"(\d+) ?(?:([KMGT])(?:iB|B)?|B)?", re.ASCII | re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def read_size(option: str, value: object) -> int:
    """Read a number of bytes: ``1048576``, ``500M``, ``20GB``, ``1 TiB``; always powers of 1024.

    Args:
      option: what it is called in the error, such as ``memory: max_bytes``.
      value: an integer or a text; what comes from TOML may be anything.

    Raises:
      CallerError: it is none.
    """
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise CallerError(f"{option}={value!r} is not a size like 1048576, 500M or 20GiB")
    return int(match[1]) << _SHIFTS[(match[2] or "").upper()]
