"""The netfs adapter: hooks of `fscache_core.hookspecs.NetfsSpec` over buckets."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError
from fscache_core.hookspecs import (
    API_VERSION,
    AuxOutcome,
    DirectoryEntry,
    FileAttributes,
    FileKind,
    Location,
    Strength,
    netfs_hook,
)
from fscache_core.netfs import fit_key
from fscache_core.option import read_count, read_flag, read_number, read_text
from netfs_s3.account import resolve_account
from netfs_s3.arrival import Arrival
from netfs_s3.bucket import PART_SIZE, Bucket
from netfs_s3.fault import Fault, FaultKind
from netfs_s3.location import SCHEME, ObjectName, parse_path, printable, split_url
from netfs_s3.retry import Deadlines
from netfs_s3.upload import Upload
from netfs_s3.version import ObjectVersion

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Sequence

    from obstore import Bytes

#: What a listing may fail with to explain a failure of HEAD.
_SAME_REASON = {
    FaultKind.NOT_FOUND: {FaultKind.NOT_FOUND},
    FaultKind.PERMISSION: {FaultKind.PERMISSION},
    FaultKind.OTHER: {FaultKind.PERMISSION, FaultKind.OTHER},
}
#: Sockets can be told no more than some 24 days.
_MOST_SECONDS = 1e6
_DIRECTORY = FileAttributes(FileKind.DIRECTORY, 0, strength=Strength.NONE)


@dataclass(frozen=True, slots=True)
class S3File:
    """An object in one version, a directory, or only a name."""

    bucket: Bucket
    name: ObjectName
    version: ObjectVersion | None = None  #: None: a directory, or nothing is known
    kind: FileKind = FileKind.FILE

    def known_version(self) -> ObjectVersion:
        if self.version is None:
            raise CallerError(f"{self.bucket.describe(self.name)}: is not a file that was looked up")
        return self.version


class S3Netfs:
    """Objects in S3 buckets.  All options may be left out, and may be text.

    Args:
      endpoint: URL of the server, without the bucket; default from the AWS variables and files, else AWS
        itself.
      region: likewise; default ``us-east-1``.
      profile: section of ``~/.aws/credentials`` and ``~/.aws/config``.
      anonymous: send no credentials (public buckets).
      identity: name the account in the cache's keys by this text instead of the access key id.  Set it where
        key ids change (temporary credentials) and the rights do not: the cache then outlives them.
      requester_pays: agree to pay for requests.
      virtual_hosted: put the bucket into the host name (True) or the path (False); default: by host at AWS,
        by path elsewhere.
      deadline_seconds: how long a silent or busy origin is waited for, counted from the last byte that
        arrived.
      connect_seconds: likewise, an origin that accepts no connection.
      parallel: how many requests of one bucket run at once; each has a thread.

    Raises:
      CallerError: an option makes no sense.
    """

    name = "s3"
    version = 1
    api_version = API_VERSION

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        anonymous: bool | str = False,
        identity: str | None = None,
        requester_pays: bool | str = False,
        virtual_hosted: bool | str | None = None,
        deadline_seconds: float | str = 30.0,
        connect_seconds: float | str = 3.0,
        parallel: int | str = 16,
    ) -> None:
        self._endpoint = read_text("s3: endpoint", endpoint) or None
        self._region = read_text("s3: region", region) or None
        self._profile = read_text("s3: profile", profile) or None
        self._identity = read_text("s3: identity", identity) or None
        self._anonymous = read_flag("s3: anonymous", anonymous)
        self._requester_pays = read_flag("s3: requester_pays", requester_pays)
        self._virtual_hosted = (
            None if virtual_hosted is None else read_flag("s3: virtual_hosted", virtual_hosted)
        )
        self._deadlines = Deadlines(
            deadline_seconds=_read_seconds("s3: deadline_seconds", deadline_seconds),
            connect_seconds=_read_seconds("s3: connect_seconds", connect_seconds),
        )
        self._parallel = read_count("s3: parallel", parallel)

    # -- where files are -----------------------------------------------------------------

    @netfs_hook
    def parse_url(self, url: str) -> Location:
        bucket, path = split_url(url)
        return Location(f"{SCHEME}{bucket}", path)

    @netfs_hook
    async def open_volume(self, location: Location) -> Bucket:
        bucket, _ = split_url(location.volume)
        account = resolve_account(
            endpoint=self._endpoint,
            region=self._region,
            profile=self._profile,
            anonymous=self._anonymous,
            identity=self._identity,
        )
        return Bucket(
            bucket,
            account,
            deadlines=self._deadlines,
            parallel=self._parallel,
            requester_pays=self._requester_pays,
            virtual_hosted=self._virtual_hosted,
        )

    @netfs_hook
    async def close_volume(self, volume: Bucket) -> None:
        await volume.close()

    @netfs_hook
    def name_file(self, volume: Bucket, path: str) -> S3File:
        return S3File(volume, parse_path(path))

    @netfs_hook
    def recall_file(self, volume: Bucket, path: str, aux: bytes, object_size: int) -> S3File:
        version = ObjectVersion.decode(aux)
        if version.size != object_size:
            raise CallerError(f"label is of {version.size} bytes, object has {object_size}")
        return S3File(volume, parse_path(path), version)

    # -- the definition of a cookie --------------------------------------------------------

    @netfs_hook
    def get_key(self, netfs_data: Bucket | S3File) -> bytes:
        if isinstance(netfs_data, Bucket):
            return fit_key(netfs_data.key)
        # The bucket itself has an empty key; "." is one that no object reachable from here can have.
        return fit_key(netfs_data.name.path.encode() or b".")

    @netfs_hook
    def get_attr(self, netfs_data: S3File) -> FileAttributes:
        return (
            _DIRECTORY if netfs_data.kind is FileKind.DIRECTORY else netfs_data.known_version().attributes()
        )

    @netfs_hook
    def get_aux(self, netfs_data: S3File) -> bytes:
        return netfs_data.known_version().encode()

    @netfs_hook
    def check_aux(self, netfs_data: S3File, aux: bytes, object_size: int) -> AuxOutcome:
        return netfs_data.known_version().check(aux, object_size)

    # -- reading ---------------------------------------------------------------------------

    @netfs_hook
    async def look_up(self, volume: Bucket, path: str) -> S3File:
        """An object is a file; the empty path, and a name that other keys continue after a ``/``, is a
        directory.

        An object wins over a directory of the same name; but one without a byte whose key ends in ``/`` is
        what other tools make to mark a directory, and is one.
        """
        name = parse_path(path)
        try:
            return await self._look_up(volume, name)
        except Fault as fault:
            raise fault.error(volume.describe(name)) from None

    async def _look_up(self, volume: Bucket, name: ObjectName) -> S3File:
        directory = S3File(volume, name, kind=FileKind.DIRECTORY)
        if not name.key:
            await volume.list_page("", n_keys=1)
            return directory
        try:
            version = await volume.head(name)
        except Fault as fault:
            if fault.kind not in _SAME_REASON:
                raise
            # An answer to HEAD has no body.  That to a listing says which of many reasons it was.
            try:
                page = await volume.list_page(_prefix(name.key), n_keys=1)
            except Fault as reason:
                raise (reason if reason.kind in _SAME_REASON[fault.kind] else fault) from None
            found = page.objects or page.prefixes
            if fault.kind is FaultKind.NOT_FOUND and name.version_id is None and found:
                return directory
            raise
        if name.key.endswith("/") and version.size == 0:
            return directory
        return S3File(volume, name, version)

    @netfs_hook
    async def fetch(
        self, netfs_data: S3File, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        with Arrival(buffer, arrived) as arrival:
            try:
                await netfs_data.bucket.fetch(netfs_data.name, netfs_data.known_version(), offset, arrival)
            except Fault as fault:
                what = netfs_data.bucket.describe(netfs_data.name, offset, len(buffer))
                raise fault.error(what) from None

    @netfs_hook
    async def fetch_whole(self, netfs_data: S3File, offset: int, size: int) -> Bytes | bytearray:
        bucket, version = netfs_data.bucket, netfs_data.known_version()
        try:
            return await bucket.fetch_whole(netfs_data.name, version, offset, size)
        except Fault as fault:
            raise fault.error(bucket.describe(netfs_data.name, offset, size)) from None

    @netfs_hook
    async def list_directory(self, volume: Bucket, path: str) -> Sequence[DirectoryEntry]:
        """Names up to the next ``/``.  A directory whose name is empty (``a//b``) is listed as ``/``; an
        object with content that has the name of the directory (``a/``) as a file without a name.

        Raises:
          CallerError: it is an object (ENOTDIR).
        """
        name = parse_path(path)
        prefix = _prefix(name.key)
        entries: list[DirectoryEntry] = []
        marked = not prefix
        continuation: str | None = None
        try:
            while True:
                page = await volume.list_page(prefix, continuation=continuation)
                for key, version in page.objects:
                    marked = marked or key == prefix
                    if key != prefix or version.size:
                        entries.append(DirectoryEntry(key[len(prefix) :], version.attributes()))
                entries += (
                    DirectoryEntry(below[len(prefix) : -1] or "/", _DIRECTORY) for below in page.prefixes
                )
                continuation = page.continuation
                if continuation is None:
                    break
        except Fault as fault:
            raise fault.error(volume.describe(name)) from None
        if not entries and not marked:
            with suppress(Fault):  # nor that: there is no such thing
                await volume.head(name)
                raise CallerError(f"{volume.describe(name)} is not a directory", errno=errno.ENOTDIR)
            raise Fault(FaultKind.NOT_FOUND, "no such directory").error(volume.describe(name))
        entries.sort(key=lambda entry: entry.name)
        return entries

    # -- writing through -------------------------------------------------------------------

    @netfs_hook
    async def put_file(
        self, volume: Bucket, path: str, source: AsyncIterable[bytes], replaces: S3File | None
    ) -> S3File:
        """Other clients see the object whole or not at all; what `Bucket.put` says of ``replaces`` holds."""
        name = _writable_name(path)
        version = None if replaces is None else replaces.known_version()
        try:
            return S3File(volume, name, await volume.put(name, Upload(source, PART_SIZE), version))
        except Fault as fault:
            raise fault.error(volume.describe(name)) from None

    @netfs_hook
    async def unlink(self, volume: Bucket, path: str) -> None:
        """Removing what is not there is no error: S3 does not tell, and a repeated request must not fail."""
        name = _writable_name(path)
        try:
            await volume.delete(name)
        except Fault as fault:
            raise fault.error(volume.describe(name)) from None


def _read_seconds(option: str, value: object) -> float:
    seconds = read_number(option, value, at_least=0.001)
    if seconds > _MOST_SECONDS:
        raise CallerError(f"{option}={value!r} is not at most {_MOST_SECONDS:g}")
    return seconds


def _writable_name(path: str) -> ObjectName:
    name = parse_path(path)
    if not name.key or name.version_id is not None:
        raise CallerError(f"neither a bucket nor one version of an object is written: {printable(path)!r}")
    return name


def _prefix(key: str) -> str:
    return key if not key or key.endswith("/") else f"{key}/"
