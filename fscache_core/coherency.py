"""When a cached version may be used: chosen per volume."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fscache_core.errors import CallerError


class CoherencyMode(enum.Enum):
    ALWAYS = "always"  #: ask the origin at each open
    TTL = "ttl"  #: ask at open if the last answer is older than ``ttl_seconds``
    IMMUTABLE = "immutable"  #: never ask about a file that is cached


@dataclass(frozen=True, slots=True)
class Coherency:
    """How sure a volume wants to be that what it serves is what the origin has."""

    mode: CoherencyMode = CoherencyMode.ALWAYS
    ttl_seconds: float = 0.0  #: for ``TTL``
    stale_if_error: bool = False  #: serve what is cached when the origin cannot be reached
    offline: bool = False  #: never contact the origin
    negative_ttl_seconds: float = 0.0  #: how long "there is no such file" is remembered

    def __post_init__(self) -> None:
        if self.mode is CoherencyMode.TTL and not self.ttl_seconds > 0:
            raise CallerError(
                f"coherency: a ttl of {self.ttl_seconds:g} seconds makes no sense; use 'always'"
            )
        if not self.negative_ttl_seconds >= 0:
            raise CallerError(f"negative_ttl: {self.negative_ttl_seconds:g} seconds make no sense")

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        stale_if_error: bool = False,
        offline: bool = False,
        negative_ttl_seconds: float = 0.0,
    ) -> Coherency:
        """Read ``always``, ``ttl=SECONDS`` or ``immutable``.

        Raises:
          CallerError: anything else.
        """
        word, _, number = text.partition("=")
        try:
            mode = CoherencyMode(word)
            ttl_seconds = float(number) if mode is CoherencyMode.TTL else 0.0
            if mode is not CoherencyMode.TTL and number:
                raise ValueError(text)
        except ValueError:
            raise CallerError(f"coherency {text!r} is not one of: always, ttl=SECONDS, immutable") from None
        return cls(mode, ttl_seconds, stale_if_error, offline, negative_ttl_seconds)

    @classmethod
    def of(cls, given: Coherency | str) -> Coherency:
        """What a program gave, which may be the text that `parse` reads.

        Raises:
          CallerError: it is neither.
        """
        if isinstance(given, Coherency):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        raise CallerError(f"coherency {given!r} is not one of: always, ttl=SECONDS, immutable, a Coherency")

    @property
    def adopts(self) -> bool:
        """Whether a cached version is used without asking, however old."""
        return self.offline or self.mode is CoherencyMode.IMMUTABLE
