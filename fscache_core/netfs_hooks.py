# The methods of a spec are only their signatures and docstrings.
# mypy: disable-error-code="empty-body"
"""Hooks of a netfs adapter, and the values they give: a part of the contract, `fscache_core.hookspecs`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Sequence

    from typing_extensions import Buffer

    from fscache_core.outcome import AuxOutcome

_spec = pluggy.HookspecMarker("fscache.netfs")


class FileKind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class Strength(enum.Enum):
    """How much an origin's version evidence proves."""

    STRONG = "strong"  #: equal evidence means equal bytes (ETag, version id, an mtime that has aged)
    WEAK = "weak"  #: equal evidence proves nothing yet (an mtime as young as its resolution)
    NONE = "none"  #: the origin offers no evidence at all


@dataclass(frozen=True, slots=True)
class FileAttributes:
    """What an origin says of a file at one moment."""

    kind: FileKind
    size: int  #: bytes
    mtime_ns: int | None = None  #: since the epoch; None if the origin does not tell
    mode: int | None = None  #: permission bits
    evidence: str = ""  #: the version evidence as a person would read it, e.g. ``etag "5d41"``
    strength: Strength = Strength.STRONG


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One entry of a listing."""

    #: Without its directory; undecodable bytes as surrogate escapes.  What no local file can be called (an
    #: empty name, one with a ``/``) is listed all the same: recursive work says that it leaves it out.
    name: str
    attributes: FileAttributes


@dataclass(frozen=True, slots=True)
class Location:
    """A URL, split where the volume ends.

    ``volume`` is canonical (default port left out or put in, host in lower case, ...): equal text
    means the same files seen with the same rights.  It holds no secret.  ``path`` names a file of it.
    """

    volume: str  #: e.g. ``sshfs://joe@host:22``, ``s3://bucket``, ``https://host``, ``file://``
    path: str  #: e.g. ``/data/a.bin``, ``a/b.bin``


class NetfsSpec:
    """Hooks of a netfs adapter.

    ``volume`` is whatever the adapter's `open_volume` returned; ``netfs_data`` is a volume or a file
    of the adapter's own making (`name_file`, `look_up`).  Both are opaque to core, and a file's
    is never changed after it was made: it stands for one version.

    Beside its hooks an adapter has a ``name``, which is part of every key, and the scheme of its URLs
    unless it is added with another one; and it may have a ``version``, an int, of the format of its keys
    and aux data (0 if it has none).
    """

    # The definition of a cookie (reference section 2).

    @_spec(firstresult=True)
    def get_key(self, netfs_data: object) -> bytes:
        """Give the key of a volume within its netfs, or of a file within its volume.

        Mandatory.  Kernel: ``fscache_cookie_def.get_key``.

        Called: when a cookie is acquired.  Must not block.

        Returns:
          1 to 511 bytes, the same for ever for the same thing.  A volume's key holds everything that
          makes bytes or access differ: endpoint, host, port, user or identity of the credentials.
          Longer names: ``fscache_core.netfs.fit_key``.

        Raises:
          FscacheError: goes to whoever opens the file.
          anything else, as a wrong answer: logged with the adapter's name; the file is read from the origin,
            uncached.  What is cached stays.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def get_attr(self, netfs_data: object) -> FileAttributes:
        """Give size, times and strength of evidence of a file that was looked up or recalled.

        Mandatory.  Kernel: ``fscache_cookie_def.get_attr``.

        Called: when a file is opened.  Must not block.

        Raises:
          anything: goes to whoever opens the file; what is no `FscacheError`, and a wrong answer, as a
            `PluginError` that names the adapter.  What is cached stays.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def get_aux(self, netfs_data: object) -> bytes:
        """Give the version evidence of a file that was looked up, as it goes into the label.

        Mandatory.  Kernel: ``fscache_cookie_def.get_aux``.

        Called: when a file is opened or updated.  Must not block.

        Returns:
          At most 509 bytes (the file layer adds one of its own) holding all that the origin offers:
          ETag, version id, size, mtime with its resolution, inode, change counter.
          `recall_file` must be able to read it.  Longer: hash.

        Raises:
          FscacheError: goes to whoever opens the file.
          anything else, as a wrong answer: logged with the adapter's name; the file is read from the origin,
            uncached.  What is cached stays.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        """Say whether a stored label still describes the file.

        Optional.  Kernel: ``fscache_cookie_def.check_aux``.  Default: ``OKAY`` if ``aux`` equals
        `get_aux` and ``object_size`` equals the size, else ``OBSOLETE``.

        Called: during lookup, in the object's task; must not block.

        Raises:
          anything: logged with the adapter's name; the label counts as obsolete.  Backends see none of it.

        Cancellation: no-effect.
        """

    @_spec
    def get_context(self, netfs_data: object, context: object) -> None:
        """Hold ``context`` for the time of a read from the cache.

        Optional.  Kernel: ``fscache_cookie_def.get_context``.

        Called: when a retrieval with a context is made; not on the hot path (`read_resident`).
            Must not block.

        Args:
          context: what `fscache_core.page.read_or_alloc_pages` was given; of the file layer's reads
            ``netfs_data`` itself.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_spec
    def put_context(self, netfs_data: object, context: object) -> None:
        """Release what `get_context` held.

        Optional.  Kernel: ``fscache_cookie_def.put_context``.

        Called: when that retrieval is released; exactly once.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_spec
    def mark_pages_cached(self, netfs_data: object, first: int, n_pages: int) -> None:
        """Note that the cache has, or has room for, these pages.

        Optional.  Kernel: ``fscache_cookie_def.mark_page_cached``.

        Called: after a read or an allocation.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_spec
    def now_uncached(self, netfs_data: object) -> None:
        """Note that the file is not cached any more: its object went away.

        Optional.  Kernel: ``fscache_cookie_def.now_uncached`` (documented, never called there).

        Called: after the object of a cookie still in use was dropped.  Must not block.

        Raises:
          anything: logged with the adapter's name; nothing else comes of it.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def select_cache(self, parent_netfs_data: object, netfs_data: object) -> str | None:
        """Choose a cache by its tag.

        Optional.  Kernel: ``fscache_cookie_def.select_cache``.  Default: None.

        Called: of the parent index of a file, if that index has no object yet.  Must not block.

        Returns:
          A tag, or None for no preference.

        Raises:
          anything: logged with the adapter's name; there is no preference.

        Cancellation: no-effect.
        """

    # Where files are.

    @_spec(firstresult=True)
    def parse_url(self, url: str) -> Location:
        """Split a URL of one of this adapter's schemes.

        Mandatory.  Kernel: none (mount options).

        Called: for every URL; must not block, look anything up on a network or need credentials.

        Raises:
          CallerError: not a URL of this adapter, or a malformed one.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def open_volume(self, location: Location) -> object:
        """Make a volume.  The origin need not be reachable: connect when first needed.

        Mandatory.  Kernel: a netfs's mount.

        Called: once per volume and `FsCache`; then `close_volume`.

        Returns:
          The adapter's volume; `get_key` of it works without the origin.

        Raises:
          CallerError: an option or credential is malformed.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def close_volume(self, volume: object) -> None:
        """Close connections, threads and descriptors of a volume.

        Optional.  Kernel: a netfs's umount.

        Called: once; nothing is being fetched.

        Cancellation: shielded (core allows 10 seconds).
        """

    @_spec(firstresult=True)
    def name_file(self, volume: object, path: str) -> object:
        """Make a file of which nothing is known but its name.

        Mandatory.  Kernel: none.

        Called: to find a file in the cache without the origin.  Must not block or contact the origin.

        Returns:
          A file for which `get_key` works; core asks it for nothing else.

        Raises:
          CallerError: not a name this origin can have.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    def recall_file(self, volume: object, path: str, aux: bytes, object_size: int) -> object:
        """Make a file as its label described it: the version that the cache holds.

        Mandatory.  Kernel: none.

        Called: when a cached version is used without asking the origin.  Must not block.

        Args:
          aux: what `get_aux` returned once.
          object_size: size of that version, bytes.

        Returns:
          A file like that from `look_up`; `fetch` of it gets that version or raises ``StaleError``.

        Raises:
          CallerError: ``aux`` is not readable.  Core treats the object as stale.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def look_up(self, volume: object, path: str) -> object:
        """Ask the origin what the file is now.  Follows symbolic links.

        Mandatory.  Kernel: a netfs's lookup and getattr.

        Called: when a file is opened, as coherency demands; several at once.

        Returns:
          The file in its present version.  A directory is returned too (``get_attr().kind``).

        Raises:
          OriginNotFoundError, OriginPermissionError, OriginUnreachableError, OriginTimeoutError, OriginError:
            naming origin, file and cause.  The open fails, or is served stale if the user chose that.

        Cancellation: no-effect.
        """

    @_spec
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        """Fetch a byte range of exactly this version into ``buffer``.

        Mandatory.  Kernel: a netfs's readpages.

        Called: beside others, also on one file.  Retries, back-off and deadline are the adapter's.

        Args:
          netfs_data: from `look_up` or `recall_file`.
          offset: bytes; ``offset + len(buffer)`` is not beyond the version's size; buffer not empty.
          buffer: the adapter's to write until it returns.
          arrived: call ``arrived(n)`` when the first ``n`` bytes of ``buffer`` are there AND known to be
            of this version; ascending; from the trio thread only.  They are handed on at once, and the
            adapter must not touch them again.  On return all of it has arrived (no final call needed).

        Raises:
          StaleError: the origin has another version now (also: shorter or longer than it should be).
          OriginError and its kinds: naming origin, file, range and cause.
            In both cases bytes that had arrived stay good; the rest is dropped.

        Cancellation: may-be-partial.  Bytes that had arrived are good; the buffer is not touched any more.
        """

    @_spec(firstresult=True)
    async def fetch_whole(self, netfs_data: object, offset: int, size: int) -> Buffer:
        """Fetch a byte range of exactly this version, all of it at once, in memory of the adapter's own.

        Optional.  Kernel: none.  Default: `fetch`.  For clients that hand out memory of their own: core
        keeps it for readers and cache, and nothing is copied in between.

        Called: in place of `fetch` where the range is short, or the origin so fast that nobody would have
          any of it much sooner; never if the netfs has wrappers.  Else as `fetch`.

        Args:
          netfs_data: from `look_up` or `recall_file`.
          offset: bytes; ``offset + size`` is not beyond the version's size.
          size: bytes, not 0.

        Returns:
          A bytes-like object of exactly ``size`` bytes, all of them known to be of this version.  Nobody
          changes it from then on.

        Raises:
          StaleError, OriginError and its kinds: as `fetch`.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def list_directory(self, volume: object, path: str) -> Sequence[DirectoryEntry]:
        """List a directory, not recursively, without ``.`` and ``..``, sorted by name.

        Optional.  Kernel: a netfs's readdir.  Default: ``UnsupportedError``.

        Called: by ``fscache ls`` and recursive work.

        Raises:
          OriginNotFoundError, OriginError and its kinds.

        Cancellation: no-effect.
        """

    # Writing through.  Every one of these is done at the origin when it returns.

    @_spec(firstresult=True)
    async def put_file(
        self, volume: object, path: str, source: AsyncIterable[bytes], replaces: object | None
    ) -> object:
        """Create or replace a whole file from a stream.

        Optional.  Kernel: a netfs's create and writepages.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Args:
          source: chunks of any size.
          replaces: the version that must be there now, or None for no condition.

        Returns:
          The file in its new version.

        Raises:
          StaleError: ``replaces`` is not what is there.
          OriginError and its kinds.

        Cancellation: may-be-partial.  Whether other clients can see a part is the origin's nature.
        """

    @_spec(firstresult=True)
    async def store(self, netfs_data: object, offset: int, buffer: memoryview) -> object:
        """Write bytes into an existing file.

        Optional.  Kernel: a netfs's writepage.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Returns:
          The file in its new version.

        Raises:
          OriginError and its kinds.

        Cancellation: may-be-partial.
        """

    @_spec(firstresult=True)
    async def truncate(self, netfs_data: object, size: int) -> object:
        """Set the size of an existing file; returns it in its new version.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: by one writer at a time per file and process.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def rename(self, volume: object, path: str, new_path: str) -> None:
        """Rename a file or directory, replacing a file of the new name.

        Optional.  Kernel: a netfs's rename.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def unlink(self, volume: object, path: str) -> None:
        """Remove a file or symbolic link.

        Optional.  Kernel: a netfs's unlink.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def mkdir(self, volume: object, path: str, mode: int) -> None:
        """Make a directory.

        Optional.  Kernel: a netfs's mkdir.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def rmdir(self, volume: object, path: str) -> None:
        """Remove an empty directory.

        Optional.  Kernel: a netfs's rmdir.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def symlink(self, volume: object, target: str, path: str) -> None:
        """Make ``path`` a symbolic link to ``target``, which is not interpreted.

        Optional.  Kernel: a netfs's symlink.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def chmod(self, volume: object, path: str, mode: int) -> None:
        """Set permission bits.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def utimens(self, volume: object, path: str, atime_ns: int, mtime_ns: int) -> None:
        """Set access and modification time, nanoseconds since the epoch.

        Optional.  Kernel: a netfs's setattr.  Default: ``UnsupportedError``.

        Called: beside others.

        Cancellation: all-or-nothing.
        """
