"""One server: its connections, its look-ups and its ranges.  Needs httpx, so it is imported late."""

from __future__ import annotations

import encodings.idna  # noqa: F401  # which is imported to look up the first name of a host
import logging
import ssl
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import httpx
import trio

from fscache_core.errors import CallerError, OriginError
from netfs_http.body import Body, content_length, content_range
from netfs_http.failure import Failure, Patience
from netfs_http.skipped import Skipped
from netfs_http.transport import failure_of, refusal
from netfs_http.turns import Turns
from netfs_http.url import host_and_port, redacted
from netfs_http.version import Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from netfs_http.settings import Settings

log = logging.getLogger(__name__)

_MAX_REDIRECTS = 10
#: A body that nobody wants is read up to this size, to keep the connection, and else cut off with it.
_DRAIN_SIZE = 64 * 1024
#: A look-up is for what the origin has now, and a cache on the way is to ask it.
_FRESH = {"Cache-Control": "no-cache"}
#: Answers kept open, of servers that cannot be asked for a range.  Each has a connection of its own.
_MAX_PARKED = 8
#: Bytes that each of them keeps of what was skipped: more than two read-aheads, which is as far as ranges of
#: one reader come out of order.
_KEPT_SIZE = 16 << 20


@dataclass(slots=True)
class _Parked:
    version: Version
    body: Body
    skipped: Skipped


class Origin:
    """A server as its volume sees it.  ``headers`` hold the credentials for it and for ``trusted`` hosts."""

    def __init__(
        self, url: str, settings: Settings, headers: Mapping[str, str], trusted: frozenset[str]
    ) -> None:
        self._url = url
        self._headers = headers
        self._trusted = trusted | {host_and_port(url)[0]}
        self._head_works = True
        self._rangeless: set[str] = set()  # paths
        self._ranged: set[str] = set()  # paths that turned out to have ranges without saying so
        self._parked: dict[str, _Parked] = {}  # by path, oldest first
        self._max_parked = min(_MAX_PARKED, settings.connections - 1)
        self._turns: WeakValueDictionary[str, Turns] = WeakValueDictionary()
        self._free = trio.Semaphore(settings.connections)
        direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", "User-Agent": settings.user_agent},
            verify=_tls(settings.ca_file),
            timeout=httpx.Timeout(
                settings.timeout_seconds, connect=settings.connect_timeout_seconds, pool=None
            ),
            # How many there are at once is counted here: a connection assigned to a request that waits and is
            # being cancelled is lost for ever (encode/httpcore issue 1093), so none may wait there.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.connections),
            trust_env=settings.trust_env,
            mounts=direct,  # a proxy's loopback is not ours
        )

    async def aclose(self) -> None:
        while self._parked:
            await self._unpark(next(iter(self._parked)))
        await self._client.aclose()

    # -- asking --------------------------------------------------------------------------

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], patient: Patience
    ) -> httpx.Response:
        """Ask for ``path`` and follow redirections; whoever gets the answer closes it.  Raises `Failure`."""
        try:
            request = self._client.build_request(
                method, self._url + path, headers={**self._headers, **headers}
            )
            for _ in range(_MAX_REDIRECTS + 1):
                response = await self._send(request, patient)
                if response.next_request is None:
                    return response
                await _dispose(response)
                request = self._redirected(request, response.next_request)
        except Exception as error:
            raise failure_of(error) from error
        raise Failure(OriginError, f"more than {_MAX_REDIRECTS} redirections")

    async def _send(self, request: httpx.Request, patient: Patience) -> httpx.Response:
        """Send one request, when there may be one more; it counts until the answer is closed."""
        with patient.waiting():
            await self._free.acquire()
        try:
            response = await self._client.send(request, stream=True)
        except BaseException:
            self._free.release()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Releasing(response.stream, self._free)
        return response

    def _redirected(self, request: httpx.Request, following: httpx.Request) -> httpx.Request:
        """Refuse to leave TLS, and take credentials along only to hosts that they are for."""
        target = following.url
        if request.url.scheme == "https" and target.scheme != "https":
            raise Failure(OriginError, f"redirected from https to {redacted(str(target))}")
        if target.host not in self._trusted or target.scheme != request.url.scheme:
            for name in self._headers:
                following.headers.pop(name, None)
        elif target.host in self._trusted:
            following.headers.update(
                self._headers
            )  # httpx drops Authorization on its own notion of an origin
        return following

    # -- looking up ----------------------------------------------------------------------

    async def look_up(self, path: str, patience: Patience) -> tuple[Version, bool | None]:
        """The version that is there now, and whether ranges of it can be asked for; None if that is open."""
        while True:
            try:
                return await self._look_up(path, patience)
            except Failure as failure:
                if failure.connecting:
                    raise  # whoever waits to be told that the origin is away wants it told now
                await patience.wait(failure)

    async def _look_up(self, path: str, patient: Patience) -> tuple[Version, bool | None]:
        if self._head_works:
            response = await self._ask("HEAD", path, _FRESH, patient)
            await _dispose(response)
            size = content_length(response)
            # Some frameworks say 0 whatever a GET would bring, so an empty file is looked at twice.
            if response.status_code == 200 and size:
                return Version.of(response.headers, size), self._ranges(path, response)
            if response.status_code in (405, 501):
                self._head_works = False
            elif response.status_code not in (200, 400, 403):  # a URL signed for GET refuses HEAD with 403
                raise refusal(response)
        response = await self._ask("GET", path, {"Range": "bytes=0-0", **_FRESH}, patient)
        await _dispose(response)
        if response.status_code == 200:
            size = content_length(response)
        elif response.status_code == 206 or (response.status_code == 416 and _is_empty(response)):
            size = content_range(response)[2]
        else:
            raise refusal(response)
        if size is None:
            raise Failure(OriginError, "the server does not tell how long it is (no Content-Length)")
        return Version.of(response.headers, size), self._ranges(path, response)

    def _ranges(self, path: str, response: httpx.Response) -> bool | None:
        said = response.headers.get("accept-ranges", "").strip().lower()
        if said == "none":
            self._note_rangeless(path)
        if path in self._rangeless:
            return False
        return True if said == "bytes" or path in self._ranged else None

    def _note_rangeless(self, path: str) -> None:
        if not self._rangeless:
            log.warning(
                "%s: no range requests: files are read from their start, one reader at a time", self._url
            )
        self._rangeless.add(path)
        self._ranged.discard(path)

    def _note_ranged(self, path: str) -> None:
        turns = self._turns.get(path)
        if turns is not None:  # somebody had to wait until this was known
            self._ranged.add(path)
            turns.end()

    # -- fetching ------------------------------------------------------------------------

    async def fetch(
        self,
        path: str,
        version: Version,
        offset: int,
        view: memoryview,
        landed: Callable[[int], None],
        patient: Patience,
    ) -> int:
        """Make one attempt to fill ``view``; returns how far it came.  Raises `Failure`.

        A server may send fewer bytes than it was asked for (RFC 9110, section 15.3.7): ask for the rest.
        """
        parked = await self._unparked(path, version, offset)
        if parked is None:
            body = await self._asked(path, version, offset, len(view), patient)
            skipped = Skipped(_KEPT_SIZE)
        else:
            body, skipped = parked.body, parked.skipped
        body.progressed = patient.progressed
        try:
            if offset in skipped:
                view = view[: skipped.take_into(view, offset)]
                landed(len(view))
            else:
                if body.whole:
                    await body.skip_to(offset, skipped)
                view = view[: body.end - offset]
                await body.read_into(view, landed)
            if body.position == body.end:
                await body.finish()
                await body.aclose()
            if body.whole and (skipped or body.position < body.end) and self._max_parked:
                await self._park(path, _Parked(version, body, skipped))
            else:
                await body.aclose()
        except BaseException:
            with trio.CancelScope(shield=True):
                await body.aclose()
            raise
        return len(view)

    async def _asked(self, path: str, version: Version, offset: int, size: int, patient: Patience) -> Body:
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", **version.preconditions}
        response = await self._ask("GET", path, headers, patient)
        try:
            body = Body.of(response, version, offset, size)
        except Failure:
            await _dispose(response)
            raise
        if body.whole and (offset, size) != (0, version.size):
            self._note_rangeless(path)
        elif not body.whole:
            self._note_ranged(path)
        return body

    # A server without ranges sends everything for every range.  So its answer is kept open where a reader
    # stopped, and the next range is read on from there, as long as ranges come in ascending order.  They do
    # so nearly, as each comes from a task of its own: what was skipped is kept for those that come late.
    # Until a server has shown whether it has ranges, only one request for a file is under way.

    def turn(self, path: str, offset: int, *, ranges: bool | None) -> AbstractAsyncContextManager[None]:
        """What to hold while fetching: a turn, unless the file is known to have ranges.

        Args:
          ranges: what `look_up` said of it.
        """
        if path in self._ranged or (ranges and path not in self._rangeless):
            return nullcontext()
        return self._turns.setdefault(path, Turns()).turn(offset)

    async def _unparked(self, path: str, version: Version, offset: int) -> _Parked | None:
        """The answer to read on from to get what is at ``offset``; it is the caller's now."""
        parked = self._parked.get(path)
        if parked is None:
            return None
        if parked.version == version and (parked.body.position <= offset or offset in parked.skipped):
            return self._parked.pop(path)
        await self._unpark(path)
        return None

    async def _park(self, path: str, parked: _Parked) -> None:
        while path in self._parked or len(self._parked) >= self._max_parked:
            await self._unpark(path if path in self._parked else next(iter(self._parked)))
        self._parked[path] = parked

    async def _unpark(self, path: str) -> None:
        body = self._parked.pop(path).body
        with trio.CancelScope(shield=True):
            await body.aclose()


class _Releasing(httpx.AsyncByteStream):
    """The body of an answer; a place is free again when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, places: trio.Semaphore) -> None:
        self._stream = stream
        self._places: trio.Semaphore | None = places

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            places, self._places = self._places, None
            if places is not None:
                places.release()


def _is_empty(response: httpx.Response) -> bool:
    return content_range(response) == (0, 0, 0)


async def _dispose(response: httpx.Response) -> None:
    """Be done with an answer whose body is of no interest."""
    length = 0 if response.request.method == "HEAD" else content_length(response)
    if length is not None and length <= _DRAIN_SIZE:
        try:
            async for _ in response.aiter_raw():
                pass
        except Exception as error:
            raise failure_of(error) from error
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()
    else:
        await response.aclose()


def _tls(ca_file: str) -> ssl.SSLContext | bool:
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise CallerError(f"http: ca_file={ca_file}: {error.strerror or error}") from None
    except ValueError as error:  # no file can have such a name
        raise CallerError(f"http: ca_file={ca_file!r}: {error}") from None
