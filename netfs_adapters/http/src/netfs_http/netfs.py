"""The hooks: resources of an HTTP server as files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError
from fscache_core.hookspecs import API_VERSION, AuxOutcome, FileAttributes, Location, netfs_hook
from fscache_core.late_import import importing
from fscache_core.netfs import fit_key
from fscache_core.option import read_count, read_flag, read_number, read_text, read_words
from netfs_http import url as urls
from netfs_http.failure import Failure, Patience, patience
from netfs_http.settings import Credentials, Settings, header_lines, header_value
from netfs_http.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from netfs_http.origin import Origin


@dataclass(slots=True, eq=False)
class HttpVolume:
    """One scheme, host and port, seen with one set of rights.  It connects when first asked."""

    url: str
    key: bytes
    headers: Mapping[str, str] = field(repr=False)
    connecting: trio.Lock = field(default_factory=trio.Lock)
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class HttpFile:
    """A file by name; with ``version`` one that was looked up or recalled."""

    volume: HttpVolume
    path: str
    version: Version | None = None
    ranges: bool | None = None  #: whether the server sends parts of it, if it said so

    @property
    def known(self) -> Version:
        if self.version is None:
            raise CallerError(f"{self.url}: only its name is known")
        return self.version

    @property
    def url(self) -> str:
        return urls.redacted(self.volume.url + self.path)


class HttpNetfs:
    """Resources of HTTP servers, as ``http://`` and ``https://`` URLs.  Options: README.md."""

    name = "http"
    version = 1
    api_version = API_VERSION

    def __init__(
        self,
        *,
        timeout_seconds: float | str = 15.0,
        connect_timeout_seconds: float | str = 10.0,
        deadline_seconds: float | str = 60.0,
        retries: int | str = 5,
        backoff_seconds: float | str = 0.1,
        connections: int | str = 16,
        trust_env: bool | str = True,
        ca_file: str = "",
        user_agent: str = "fscache-netfs-http",
        headers: str | Mapping[str, str] = "",
        hosts: str | Iterable[str] = (),
        netrc: str = "",
        identity: str = "",
    ) -> None:
        self._settings = Settings(
            timeout_seconds=read_number("http: timeout_seconds", timeout_seconds, at_least=0.001),
            connect_timeout_seconds=read_number(
                "http: connect_timeout_seconds", connect_timeout_seconds, at_least=0.001
            ),
            deadline_seconds=read_number("http: deadline_seconds", deadline_seconds, at_least=0.001),
            retries=read_count("http: retries", retries, at_least=0),
            backoff_seconds=read_number("http: backoff_seconds", backoff_seconds),
            connections=read_count("http: connections", connections),
            trust_env=read_flag("http: trust_env", trust_env),
            ca_file=read_text("http: ca_file", ca_file),
            user_agent=header_value("http: user_agent", user_agent),
        )
        lines = header_lines(headers)
        allowed = frozenset(host.lower() for host in read_words("http: hosts", hosts))
        if lines and not allowed:
            raise CallerError("http: headers: say which hosts may see them (option hosts)")
        self._credentials = Credentials(
            lines, allowed, read_text("http: netrc", netrc), read_text("http: identity", identity)
        )

    # -- volumes and names ---------------------------------------------------------------

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        return urls.split(url)

    @netfs_hook
    async def open_volume(self, location: Location) -> object:
        if urls.split(location.volume).volume != location.volume:
            raise CallerError(f"{location.volume}: not a volume of http")
        # Answers may depend on who asks, so those with other credentials get other objects.
        headers, identity = await trio.to_thread.run_sync(self._credentials.for_volume, location.volume)
        key = location.volume + (f" {identity}" if identity else "")
        return HttpVolume(location.volume, _fitting(key), headers)

    @netfs_hook
    async def close_volume(self, volume: object) -> None:
        where = _volume(volume)
        origin, where.origin = where.origin, None
        if origin is not None:
            await origin.aclose()

    @netfs_hook
    def name_file(self, volume: object, path: str) -> object:
        return HttpFile(_volume(volume), _checked(path))

    @netfs_hook
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        return HttpFile(_volume(volume), _checked(path), Version.from_aux(aux, object_size))

    @netfs_hook
    def get_key(self, netfs_data: object) -> bytes:
        return netfs_data.key if isinstance(netfs_data, HttpVolume) else _fitting(_file(netfs_data).path)

    @netfs_hook
    def get_attr(self, netfs_data: object) -> FileAttributes:
        file = _file(netfs_data)
        attributes = file.known.attributes
        if file.ranges is False:
            return replace(attributes, evidence=f"{attributes.evidence}, no ranges")
        return attributes

    @netfs_hook
    def get_aux(self, netfs_data: object) -> bytes:
        return _file(netfs_data).known.aux

    @netfs_hook
    def check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        version = _file(netfs_data).known
        try:
            stored = Version.from_aux(aux, object_size)
        except CallerError:
            return AuxOutcome.OBSOLETE
        if stored == version:
            return AuxOutcome.OKAY
        return AuxOutcome.NEEDS_UPDATE if version.proves(stored) else AuxOutcome.OBSOLETE

    # -- reading -------------------------------------------------------------------------

    @netfs_hook
    async def look_up(self, volume: object, path: str) -> object:
        file = HttpFile(_volume(volume), _checked(path))
        origin = await self._origin(file.volume)
        try:
            with self._patience() as patient:
                version, ranges = await origin.look_up(file.path, patient)
        except Failure as failure:
            raise failure.error(file.url) from failure.__cause__
        return replace(file, version=version, ranges=ranges)

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        file = _file(netfs_data)
        origin = await self._origin(file.volume)
        good = 0  # bytes handed on: kept by every later attempt
        async with origin.turn(file.path, offset, ranges=file.ranges):
            try:
                with self._patience() as patient:

                    def landed(n_bytes: int) -> None:
                        nonlocal good
                        good = start + n_bytes
                        patient.progressed()
                        arrived(good)

                    while good < len(buffer):
                        start = good
                        try:
                            await origin.fetch(
                                file.path,
                                file.known,
                                offset + start,
                                buffer[start:],
                                landed,
                                patient,
                            )
                        except Failure as failure:
                            await patient.wait(failure)
            except Failure as failure:
                where = f"{file.url}, bytes {offset + good}-{offset + len(buffer) - 1}"
                raise failure.error(where) from failure.__cause__

    def _patience(self) -> AbstractContextManager[Patience]:
        settings = self._settings
        return patience(settings.retries, settings.backoff_seconds, settings.deadline_seconds)

    async def _origin(self, volume: HttpVolume) -> Origin:
        if volume.origin is None:
            async with volume.connecting:
                if volume.origin is None:
                    # Importing httpx and reading certificates takes as long as many cached reads.
                    volume.origin = await trio.to_thread.run_sync(self._connect, volume)
        return volume.origin

    def _connect(self, volume: HttpVolume) -> Origin:
        with importing:
            from netfs_http.origin import Origin

            # httpx imports the half of what it needs only when a client is made.
            return Origin(volume.url, self._settings, volume.headers, self._credentials.hosts)


def _volume(volume: object) -> HttpVolume:
    if not isinstance(volume, HttpVolume):
        raise CallerError(f"not a volume of http: {volume!r}")
    return volume


def _file(netfs_data: object) -> HttpFile:
    if not isinstance(netfs_data, HttpFile):
        raise CallerError(f"not a file of http: {netfs_data!r}")
    return netfs_data


def _checked(path: str) -> str:
    if not path.startswith("/"):
        raise CallerError(f"{urls.redacted(path)!r}: a path on a server begins with /")
    return path


def _fitting(text: str) -> bytes:
    return fit_key(text.encode("utf-8", "surrogateescape"))
