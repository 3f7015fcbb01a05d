"""One bucket at one endpoint, as one account: the requests, in trio and with retries.

Every call of obstore blocks, without the GIL, in a worker thread under the bucket's own limiter.  obstore is
imported and its client made with the first request: a file served from the cache needs neither.

object_store's paths cannot hold every key (no ``//``, no leading or trailing ``/``, no control characters).
A URL can; so for such a key a store is made whose *endpoint* is the object's URL, closed by ``?x-id=``: a
parameter that S3 ignores and that swallows the ``/`` object_store appends.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import trio

from netfs_s3.fault import Fault, FaultKind, from_obstore
from netfs_s3.listing import Page, request_page
from netfs_s3.location import ObjectName, printable
from netfs_s3.retry import Deadlines, Patience
from netfs_s3.version import ObjectVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore import GetOptions, ObjectMeta
    from obstore.store import S3Store

    from netfs_s3.account import Account
    from netfs_s3.arrival import Arrival

P = ParamSpec("P")
R = TypeVar("R")

#: Bytes are handed on in chunks of at least this (bytes), or the rest.
CHUNK_SIZE = 1 << 20
#: No request takes as long: silence, not duration, ends one.
_REQUEST_TIMEOUT = timedelta(days=1)
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
        return text if offset is None else f"{text}, bytes {offset}-{offset + size - 1}"

    async def close(self) -> None:
        """Close idle connections, and wait a little for threads that a cancelled request left behind."""
        with trio.move_on_after(_CLOSE_SECONDS):
            for _ in range(int(self._limiter.total_tokens)):
                await self._limiter.acquire_on_behalf_of(object())
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

        If the object was overwritten meanwhile, the version is asked for by its id, where it has one.

        Raises:
          Fault: ``CHANGED`` if the version cannot be had any more.
        """
        patience = Patience(self.deadlines)
        by_id = name.version_id is not None
        overwritten: Fault | None = None
        while True:
            had = arrival.size
            try:
                await self._in_thread(self._get, name, version, by_id, offset, arrival)
                return
            except Fault as fault:
                if arrival.size > had:
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
        import obstore

        with _faults():
            store, path = self._store(name.key)
            options: GetOptions = {"head": True}
            if name.version_id is not None:
                options["version"] = name.version_id
            return _version(obstore.get(store, path, options=options).meta)

    def _get(
        self, name: ObjectName, version: ObjectVersion, by_id: bool, offset: int, arrival: Arrival
    ) -> None:
        import obstore

        start = offset + arrival.size
        end = offset + arrival.capacity
        with _faults():
            store, path = self._store(name.key)
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
            if result.range != (start, end):
                raise Fault(FaultKind.OTHER, f"asked for bytes {start}-{end - 1}, got {result.range}")
            for chunk in result.stream(min_chunk_size=CHUNK_SIZE):
                if not arrival.put(chunk):
                    break
            else:
                if arrival.size == arrival.capacity:
                    return
        if arrival.is_open:
            raise Fault(
                FaultKind.CHANGED, f"answered with another size than the {end - start} bytes asked for"
            )

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
        import obstore

        with _faults():
            return obstore.sign(self._make_store(url), "GET", "", _SIGNATURE_LIFE)

    # -- stores ------------------------------------------------------------------------------

    def _store(self, key: str) -> tuple[S3Store, str]:
        """The store to ask for `key`, and the path to ask it for."""
        if "" in key.split("/") or any(c < " " or c == "\x7f" for c in key):
            return self._store_of_url(f"{self.url}/{quote(key, safe='/')}?x-id="), ""
        with self._lock:
            if self._plain_store is None:
                self._plain_store = self._make_store(self.url)
            return self._plain_store, key

    def _make_store(self, url: str) -> S3Store:
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
            retry_config={"max_retries": 0},
        )


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
