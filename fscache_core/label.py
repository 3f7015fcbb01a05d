"""Labels of files: what is stored beside a file's data, to tell later which version it is of.

A label is the adapter's own evidence, behind a mark of the file layer's that says how strong it was.  Weak
evidence may be equal though the bytes are not, so its mark makes each such label another one: or a backend
would take what two processes stored for one version.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

STRONG_MARK = b"\x01"
_OLD_WEAK = b"\x02"  # not followed by anything
_WEAK = b"\x03"
_NONCE_SIZE = 8


def new_weak_mark() -> bytes:
    """A mark of weak evidence, and no other label's."""
    return _WEAK + os.urandom(_NONCE_SIZE)


@dataclass(frozen=True, slots=True)
class Label:
    """One label, taken apart."""

    mark: bytes
    evidence: bytes  #: the adapter's aux data

    @classmethod
    def read(cls, aux: bytes) -> Label:
        """Take a cookie's aux data apart.  A mark that nobody knows is neither strong nor weak."""
        mark_size = 1 + _NONCE_SIZE if aux[:1] == _WEAK else 1
        return cls(aux[:mark_size], aux[mark_size:])

    @property
    def strong(self) -> bool:
        return self.mark == STRONG_MARK

    @property
    def weak(self) -> bool:
        return self.mark[:1] in (_WEAK, _OLD_WEAK)
