"""One filesystem of fsspec, and blocking calls to it, each for one trip to a worker thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import fsspec.core  # type: ignore[import-untyped]
from fsspec.dircache import DirCache  # type: ignore[import-untyped]
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from fscache_core.errors import OriginError, StaleError
from fscache_core.hookspecs import FileKind
from netfs_fsspec.url import Place, split
from netfs_fsspec.version import Version, proves_something

Info = Mapping[str, object]

#: Filesystems whose times this machine's own clock makes.
_OURS = frozenset({"file", "local", "memory"})
_TICK_NS = 20_000_000
#: What `open` reads beyond the range asked for, where cat_file has to go through it.
_BLOCK_SIZE = 64 * 1024


class Filesystem(Protocol):
    """What we use of fsspec's AbstractFileSystem."""

    async_impl: bool

    def info(self, path: str) -> Info: ...
    def ls(self, path: str, detail: bool) -> Sequence[Info]: ...
    def cat_file(self, path: str, start: int, end: int, **kwargs: object) -> bytes: ...
    def modified(self, path: str) -> object: ...
    def ukey(self, path: str) -> object: ...
    def _strip_protocol(self, path: str) -> str: ...


def import_filesystem(protocol: str) -> None:
    """Import what fsspec needs for a protocol.  Raises what fsspec raises."""
    fsspec.core.get_filesystem_class(protocol)


class Source:
    """A place, opened when first needed.  If it is in a file (an archive): anew when that has changed."""

    def __init__(
        self,
        place: Place,
        options: Mapping[str, Mapping[str, object]],
        margin_ns: int,
        trusted: frozenset[str],
    ) -> None:
        self._place = place
        self._options = options
        self._margin_ns = _TICK_NS if place.protocol in _OURS else max(_TICK_NS, margin_ns)
        self._trusted = trusted
        self._opened: Filesystem | None = None
        self._opened_in: Version | None = None
        self._container: Source | None = None
        self._container_path = ""
        if place.chain:
            below = split(f"fsspec:{place.chain}")
            self._container = Source(Place.of(below.volume), options, margin_ns, trusted)
            self._container_path = below.path

    @property
    def concurrent(self) -> bool:
        """Whether several threads may use it at once; not if it has one connection, or is in a file."""
        if self._container is not None:
            return False
        return self._place.protocol in _OURS or self._filesystem().async_impl

    def look_up(self, path: str) -> Version:
        """Observe a file or directory.  Raises OriginError if it is of no use, and whatever fsspec raises."""
        container = self._observe_container()
        now_ns = time.time_ns()
        filesystem, name = self._filesystem(), self._name(path)
        _forget_listings(filesystem)
        info = filesystem.info(name)
        extra: dict[str, object] = {}
        if container is None and info.get("type") == "file" and not proves_something(info):
            extra = _other_evidence(filesystem, name)
        version = self._version(info, extra, container, now_ns)
        if version is None:
            raise OriginError("the filesystem does not tell how long it is")
        if version.kind is FileKind.SYMLINK:
            raise OriginError("it is a link, which this filesystem does not follow")
        return version

    def require(self, path: str, version: Version) -> None:
        """Raise StaleError unless the file is in ``version``."""
        present = self.look_up(path)
        if not present.same_file(version):
            raise StaleError(f"it has changed: {present.size} bytes, {present.attributes.evidence}")

    def read(self, path: str, version: Version, offset: int, size: int, first: bool) -> bytes:
        """Read ``size`` bytes of ``version``.

        fsspec cannot ask for a version, so the file is looked at again after each piece; and before the
        ``first`` too if the same evidence could come back with the old bytes after other bytes.
        """
        if first and not version.unique:
            self.require(path, version)
        filesystem, name = self._filesystem(), self._name(path)
        options: dict[str, object] = {}
        if not filesystem.async_impl and type(filesystem).cat_file is AbstractFileSystem.cat_file:
            options["block_size"] = _BLOCK_SIZE
        data = filesystem.cat_file(name, start=offset, end=offset + size, **options)
        self.require(path, version)
        if len(data) == version.size != size:  # the filesystem knows no ranges
            data = data[offset : offset + size]
        if len(data) != size:
            raise OriginError(f"got {len(data)} bytes")
        return data

    def list_directory(self, path: str) -> list[tuple[str, Version]]:
        """Every entry with its attributes, sorted by name."""
        container = self._observe_container()
        now_ns = time.time_ns()
        filesystem, directory = self._filesystem(), self._name(path)
        _forget_listings(filesystem)
        if filesystem.info(directory).get("type") == "file":
            raise NotADirectoryError("it is a file")
        found: dict[str, Version] = {}
        for info in filesystem.ls(directory, detail=True):
            whole = str(info.get("name", "")).rstrip("/")
            name = whole.rpartition("/")[2]
            version = self._version({**info, "size": info.get("size") or 0}, {}, container, now_ns)
            if name and whole != directory.rstrip("/") and version is not None:
                found[name] = version
        return sorted(found.items())

    def close(self) -> None:
        """Let go of the filesystem."""
        self._opened = None
        if self._container is not None:
            self._container.close()

    def _version(self, info: Info, extra: Info, container: Version | None, now_ns: int) -> Version | None:
        return Version.observe(
            info, extra, container=container, now_ns=now_ns, margin_ns=self._margin_ns, trusted=self._trusted
        )

    def _observe_container(self) -> Version | None:
        """The version of the file that holds this filesystem, if one does."""
        if self._container is None:
            return None
        present = self._container.look_up(self._container_path)
        if present.kind is not FileKind.FILE:
            return None  # a directory below another (dir::), whose files speak for themselves
        if self._opened_in is not None and not present.same_file(self._opened_in):
            self._opened = None
        self._opened_in = present
        return present

    def _filesystem(self) -> Filesystem:
        if self._opened is None:
            # Other users of this program may have filesystems of the same kind, whose listings may be old.
            options = {
                protocol: {**self._options.get(protocol, {}), "skip_instance_cache": True}
                for protocol in self._place.protocols
            }
            opened, _ = fsspec.core.url_to_fs(self._place.url("/"), **options)
            if opened.async_impl and isinstance(opened.dircache, DirCache):
                # Threads share it: a listing that one began before a change would answer another after it.
                opened.dircache.use_listings_cache = False
            self._opened = opened
        assert self._opened is not None
        return self._opened

    def _name(self, path: str) -> str:
        """A path as the filesystem itself has it."""
        return self._filesystem()._strip_protocol(self._place.url(path).partition("::")[0])


def _forget_listings(filesystem: object) -> None:
    """Have a filesystem, and any that it shows a directory of (dir::), ask its server next.

    It forgets everything: some (FTP, Azure) look a file up in the listing of its directory, which they keep
    if told to forget the file alone.
    """
    while isinstance(filesystem, AbstractFileSystem):
        filesystem.invalidate_cache()
        filesystem = getattr(filesystem, "fs", None)


def _other_evidence(filesystem: Filesystem, name: str) -> dict[str, object]:
    """What a filesystem tells of a version outside of `info`: `modified`, and a `ukey` of its own."""
    found: dict[str, object] = {}
    with suppress(NotImplementedError):
        found["modified"] = filesystem.modified(name)
    if (
        type(filesystem).ukey is not AbstractFileSystem.ukey
    ):  # the general one is a hash of all that info says
        found["ukey"] = filesystem.ukey(name)
    return found
