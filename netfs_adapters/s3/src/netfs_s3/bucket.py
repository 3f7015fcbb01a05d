"""One bucket at one endpoint, as one account: the requests, in trio and with retries.

Every call of obstore blocks, without the GIL, in a worker thread under the bucket's own limiter.  obstore is
imported and its client made with the first request: a file served from the cache needs neither.

object_store's paths cannot hold every key (no ``//``, no leading or trailing ``/``, no control characters).
A URL can; so for such a key a store is made whose *endpoint* is the object's URL, closed by ``?x-id=``: a
parameter that S3 ignores and that swallows the ``/`` object_store appends.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import trio

from fscache_core.errors import UnsupportedError
from fscache_core.late_import import importing
from netfs_s3.arrival import Arrival
from netfs_s3.fault import Fault, FaultKind, from_obstore
from netfs_s3.listing import Page, request_page
from netfs_s3.location import ObjectName, printable
from netfs_s3.retry import Deadlines, Patience
from netfs_s3.version import ObjectVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore import Bytes, GetOptions, GetResult, ObjectMeta, PutMode, PutResult
    from obstore.store import S3Store

    from netfs_s3.account import Account
    from netfs_s3.upload import Upload

P = ParamSpec("P")
R = TypeVar("R")

#: Bytes are handed on in chunks of at least this (bytes), or the rest.  Of a fast origin they are larger by
#: themselves; over a slow line nobody waits for more.
CHUNK_SIZE = 16 << 10
#: No request takes as long: silence, not duration, ends one.
_REQUEST_TIMEOUT = timedelta(days=1)
#: Objects longer than this (bytes) are sent in parts of this size; S3 takes up to 10 000, hence 160 GB.
PART_SIZE = 16 << 20
PARTS_AT_ONCE = 4
#: After these, some of what was asked for may have come.
_BROKEN_OFF = frozenset({FaultKind.LOST, FaultKind.TIMEOUT})
_SIGNATURE_LIFE = timedelta(minutes=15)
_CLOSE_SECONDS = 1.0


class Bucket:
    """The volume of the adapter."""

    def __init__(
        self,
        name: str,
        account: Account,
        *,
        deadlines: Deadlines,
        parallel: int,
        requester_pays: bool = False,
        virtual_hosted: bool | None = None,
    ) -> None:
        self.name = name
        self.account = account
        self.deadlines = deadlines
        self._requester_pays = requester_pays
        # A dot in the bucket's name would not match the wildcard certificate of AWS.
        by_host = virtual_hosted if virtual_hosted is not None else account.is_aws and "." not in name
        parts = urlsplit(account.endpoint)
        self.url = (
            f"{parts.scheme}://{name}.{parts.netloc}{parts.path}" if by_host else f"{account.endpoint}/{name}"
        )
        self._limiter = trio.CapacityLimiter(parallel)
        self._lock = threading.Lock()
        self._plain_store: S3Store | None = None
        self._store_of_url = lru_cache(maxsize=16)(self._make_store)

    @property
    def key(self) -> bytes:
        return f"{self.account.endpoint}\n{self.name}\n{self.account.identity}".encode()

    def describe(self, name: ObjectName, offset: int | None = None, size: int = 0) -> str:
        """Origin, key and range, for an error."""
        text = f"s3://{self.name}/{printable(name.path)} at {self.account.endpoint}"
        if self.account.anonymous:
            text += " without credentials"
        return text if offset is None else f"{text}, bytes {offset}-{offset + size - 1}"

    async def close(self) -> None:
        """Close idle connections, and wait a little for threads that a cancelled request left behind."""
        places: list[object] = []
        with trio.move_on_after(_CLOSE_SECONDS):
            while len(places) < self._limiter.total_tokens:
                place = object()
                await self._limiter.acquire_on_behalf_of(place)
                places.append(place)
        for place in places:
            self._limiter.release_on_behalf_of(place)
        self._store_of_url.cache_clear()
        self._plain_store = None

    # -- requests, from the trio thread ------------------------------------------------------

    async def head(self, name: ObjectName) -> ObjectVersion:
        """Raises Fault."""
        return await self._retried(self._head, name)

    async def list_page(self, prefix: str, *, continuation: str | None = None, n_keys: int = 1000) -> Page:
        """One page of the keys below ``prefix``, grouped at the next ``/``.  Raises Fault."""
        return await self._retried(self._list_page, prefix, continuation, n_keys)

    async def fetch(self, name: ObjectName, version: ObjectVersion, offset: int, arrival: Arrival) -> None:
        """Fill `arrival` with bytes of exactly this version.

        Raises: as `fetch_whole`.
        """
        await self._fetch(name, version, offset, arrival, Patience(self.deadlines))

    async def _fetch(
        self, name: ObjectName, version: ObjectVersion, offset: int, arrival: Arrival, patience: Patience
    ) -> None:
        await self._of_version(
            lambda by_id: self._get_into(name, version, by_id, offset, arrival),
            name,
            version,
            patience,
            arrival,
        )

    async def fetch_whole(
        self, name: ObjectName, version: ObjectVersion, offset: int, size: int
    ) -> Bytes | bytearray:
        """Bytes of exactly this version, ``size`` of them.

        If the object was overwritten meanwhile, the version is asked for by its id, where it has one.

        Raises:
          Fault: ``CHANGED`` if the version cannot be had any more.
        """
        patience = Patience(self.deadlines)
        try:
            return await self._of_version(
                lambda by_id: self._get_whole(name, version, by_id, offset, size), name, version, patience
            )
        except Fault as fault:
            if fault.kind not in _BROKEN_OFF:
                raise
            await patience.wait_before_retry(fault)
        # What came of it is lost.  In pieces it goes on where it breaks off the next time: somebody on the
        # way may let no answer through that is as long.
        buffer = bytearray(size)
        with Arrival(memoryview(buffer), lambda n: None) as arrival:
            await self._fetch(name, version, offset, arrival, patience)
        return buffer

    async def _of_version(
        self,
        get: Callable[[bool], R],
        name: ObjectName,
        version: ObjectVersion,
        patience: Patience,
        arrival: Arrival | None = None,
    ) -> R:
        by_id = name.version_id is not None
        overwritten: Fault | None = None
        while True:
            had = 0 if arrival is None else arrival.size
            try:
                return await self._in_thread(get, by_id)
            except Fault as fault:
                if arrival is None and fault.kind in _BROKEN_OFF:
                    raise
                if arrival is not None and arrival.size > had:
                    patience.progress()
                if fault.kind in (FaultKind.CHANGED, FaultKind.NOT_FOUND):
                    if overwritten is None and not by_id and version.version_id not in (None, "null"):
                        by_id, overwritten = True, fault
                        continue
                    gone = fault.kind is FaultKind.NOT_FOUND
                    fault = Fault(FaultKind.CHANGED, f"is gone: {fault.cause}") if gone else fault
                if overwritten is not None and self.deadlines.of(fault.kind) == 0:
                    raise overwritten from None
                await patience.wait_before_retry(fault)

    async def put(self, name: ObjectName, upload: Upload, replaces: ObjectVersion | None) -> ObjectVersion:
        """Store a whole object; it is seen whole or not at all.

        Up to `PART_SIZE` it is one request, and its condition (If-Match) exact.  Elsewhere ``replaces`` is
        compared just before, and a writer between these two requests is not noticed: where the object is
        longer (it is sent in parts, for which object_store has no condition), where there is no strong
        ETag, and where the server does not do If-Match.

        Raises:
          Fault: ``CHANGED`` if ``replaces`` is not what is there.
        """
        body = await upload.read_small()
        if body is None:
            if replaces is not None:
                upload.check_at_end(partial(self._check, name, replaces))
            written = await trio.to_thread.run_sync(self._put_parts, name, upload, limiter=self._limiter)
        elif replaces is None:
            written = await self._retried(self._put, name, body, None)
        else:
            written = await self._replace(name, body, replaces)
        # Ceph before 17 tells no ETag of parts put together.
        version = ObjectVersion(upload.size, written["e_tag"] or upload.e_tag_of_parts, written["version"])
        try:
            found = await self.head(name)  # only this tells the date
        except Fault:
            return version
        return version if version.differs_from(found) else found

    async def _replace(self, name: ObjectName, body: bytes, replaces: ObjectVersion) -> PutResult:
        # Ceph before 17 takes the quotes of the header for a part of the ETag, and in a bucket with versions
        # finds no ETag to match.  Whether a refusal is one is seen by looking.
        if_match = replaces.if_match
        for condition in () if if_match is None else (if_match, if_match.strip('"')):
            try:
                return await self._retried(self._put, name, body, condition)
            except Fault as fault:
                if fault.kind not in (FaultKind.CHANGED, FaultKind.NOT_FOUND):
                    raise
            await self._check(name, replaces)
        if if_match is None:
            await self._check(name, replaces)
        return await self._retried(self._put, name, body, None)

    async def _check(self, name: ObjectName, expected: ObjectVersion) -> None:
        """Raises Fault, ``CHANGED``, if another version is there, or none."""
        try:
            difference = expected.differs_from(await self.head(name))
        except Fault as fault:
            if fault.kind is not FaultKind.NOT_FOUND:
                raise
            difference = fault.cause
        if difference is not None:
            raise Fault(FaultKind.CHANGED, f"has changed: {difference}")

    async def delete(self, name: ObjectName) -> None:
        """Remove an object (hide it, in a bucket with versions), if it is there.  Raises Fault."""
        await self._retried(self._delete, name)

    async def _retried(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        patience = Patience(self.deadlines)
        while True:
            try:
                return await self._in_thread(call, *args, **kwargs)
            except Fault as fault:
                await patience.wait_before_retry(fault)

    async def _in_thread(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        # Abandoned when cancelled: the thread ends by itself, at the latest when the server has been silent
        # for `silence_seconds`, and keeps its place in the limiter until then.
        return await trio.to_thread.run_sync(
            partial(call, *args, **kwargs), abandon_on_cancel=True, limiter=self._limiter
        )

    # -- the same, in a worker thread --------------------------------------------------------

    def _head(self, name: ObjectName) -> ObjectVersion:
        with _faults():
            store, path = self._store(name.key)
            import obstore

            options: GetOptions = {"head": True}
            if name.version_id is not None:
                options["version"] = name.version_id
            return _version(obstore.get(store, path, options=options).meta)

    def _get(self, name: ObjectName, version: ObjectVersion, by_id: bool, start: int, end: int) -> GetResult:
        store, path = self._store(name.key)
        import obstore

        options: GetOptions = {"range": (start, end)}
        if version.if_match is not None:
            options["if_match"] = version.if_match
        if by_id:
            options["version"] = name.version_id or version.version_id
        result = obstore.get(store, path, options=options)
        # Servers exist that ignore If-Match.
        difference = version.differs_from(_version(result.meta))
        if difference is not None:
            raise Fault(FaultKind.CHANGED, f"has changed: {difference}")
        return result

    def _get_into(
        self, name: ObjectName, version: ObjectVersion, by_id: bool, offset: int, arrival: Arrival
    ) -> None:
        start, end = offset + arrival.size, offset + arrival.capacity
        with _faults():
            result = self._get(name, version, by_id, start, end)
            for chunk in result.stream(min_chunk_size=CHUNK_SIZE):
                if not arrival.put(chunk):
                    break
            else:
                if arrival.size == arrival.capacity:
                    return
        if arrival.is_open:
            raise _size_fault(end - start)

    def _get_whole(
        self, name: ObjectName, version: ObjectVersion, by_id: bool, offset: int, size: int
    ) -> Bytes:
        with _faults():
            body = self._get(name, version, by_id, offset, offset + size).bytes()
        if len(body) != size:
            raise _size_fault(size)
        return body

    def _put(self, name: ObjectName, body: bytes, if_match: str | None) -> PutResult:
        with _faults():
            store, path = self._store(name.key)
            import obstore

            mode: PutMode = "overwrite" if if_match is None else {"e_tag": if_match}
            return obstore.put(store, path, body, mode=mode, use_multipart=False)

    def _put_parts(self, name: ObjectName, upload: Upload) -> PutResult:
        with _faults():
            url, path = self._address(name.key)
            # obstore repeats a part by itself: the parts before it need not be sent again.
            store = self._make_store(url, n_retries=10)
            import obstore

            # What the source raises comes out of obstore as it was.
            return obstore.put(
                store, path, upload, use_multipart=True, chunk_size=PART_SIZE, max_concurrency=PARTS_AT_ONCE
            )

    def _delete(self, name: ObjectName) -> None:
        with _faults():
            store, path = self._store(name.key)
            import obstore

            obstore.delete(store, path)

    def _list_page(self, prefix: str, continuation: str | None, n_keys: int) -> Page:
        query = {
            "list-type": "2",
            "delimiter": "/",
            "encoding-type": "url",
            "max-keys": str(n_keys),
            "prefix": prefix,
        }
        if continuation is not None:
            query["continuation-token"] = continuation
        text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        return request_page(self._signed_url(text), timeout_seconds=self.deadlines.silence_seconds)

    def _signed_url(self, query: str) -> str:
        """A URL of the bucket itself that anybody may GET for a while: never log it."""
        url = f"{self.url}?{query}&x-id="
        if self.account.anonymous:
            return url
        with _faults():
            store = self._make_store(url)
            import obstore

            return obstore.sign(store, "GET", "", _SIGNATURE_LIFE)

    # -- stores ------------------------------------------------------------------------------

    def _address(self, key: str) -> tuple[str, str]:
        """The URL of the store to ask for `key`, and the path to ask it for."""
        if "" in key.split("/") or any(c < " " or c == "\x7f" for c in key):
            return f"{self.url}/{quote(key, safe='/')}?x-id=", ""
        return self.url, key

    def _store(self, key: str) -> tuple[S3Store, str]:
        _claim_process()
        url, path = self._address(key)
        if url != self.url:
            return self._store_of_url(url), path
        with self._lock:
            if self._plain_store is None:
                self._plain_store = self._make_store(url)
            return self._plain_store, path

    def _make_store(self, url: str, n_retries: int = 0) -> S3Store:
        _claim_process()
        from obstore.store import S3Store

        return S3Store(
            self.name,
            # Under this name: obstore prefers the variable AWS_ENDPOINT_URL_S3 to its setting `endpoint`.
            aws_endpoint_url_s3=url,
            virtual_hosted_style_request=True,  # "the bucket is in the URL already"
            region=self.account.region,
            skip_signature=self.account.anonymous,
            request_payer=self._requester_pays,
            disable_bulk_delete=True,
            credential_provider=self.account.credentials,
            client_options={
                "allow_http": url.startswith("http:"),
                "timeout": _REQUEST_TIMEOUT,
                "read_timeout": timedelta(seconds=self.deadlines.silence_seconds),
                "connect_timeout": timedelta(seconds=self.deadlines.of(FaultKind.UNREACHABLE)),
                "user_agent": "fscache",
            },
            retry_config={
                "max_retries": n_retries,
                "retry_timeout": timedelta(seconds=self.deadlines.deadline_seconds),
            },
        )


_process_id: int | None = None


def _claim_process() -> None:
    """Import obstore.  After a fork UnsupportedError: its threads stayed behind, no request would end."""
    global _process_id
    if _process_id is None:
        with importing:
            import obstore.exceptions
            import obstore.store  # noqa: F401
        _process_id = os.getpid()
    elif _process_id != os.getpid():
        raise UnsupportedError(
            "S3 cannot be read in a process forked from one that has read it: use spawn or forkserver"
        )


def _size_fault(size: int) -> Fault:
    return Fault(FaultKind.CHANGED, f"answered with another size than the {size} bytes asked for")


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        raise from_obstore(error) from error


def _version(meta: ObjectMeta) -> ObjectVersion:
    seconds = int(meta["last_modified"].timestamp())
    # object_store says 1970 if the server said nothing.
    return ObjectVersion(meta["size"], meta["e_tag"], meta["version"], seconds * 10**9 if seconds else None)
