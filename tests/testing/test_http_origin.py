"""The HTTP origin, through the standard library's client: right first, then wrong on request."""

from __future__ import annotations

import http.client
import threading
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = bytes(range(256)) * 1000


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with CountingOrigin({"a.bin": DATA}) as running:
        yield running


class Answer:
    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body


def _get(origin: CountingOrigin, path: str = "a.bin", method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, origin.url(path), headers=names)
        response = connection.getresponse()
        return Answer(response, response.read())
    finally:
        connection.close()


def test_whole_files_and_ranges_come_back_and_are_counted(origin: CountingOrigin) -> None:
    assert _get(origin).body == DATA
    middle = _get(origin, Range="bytes=1000-1999")
    assert (middle.status, middle.body) == (206, DATA[1000:2000])
    assert middle.headers["Content-Range"] == f"bytes 1000-1999/{len(DATA)}"
    assert _get(origin, Range="bytes=-10").body == DATA[-10:]
    assert _get(origin, Range=f"bytes={len(DATA) - 5}-{len(DATA) + 5}").body == DATA[-5:]
    beyond = _get(origin, Range=f"bytes={len(DATA)}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
    assert _get(origin, Range="bytes=0-1,5-6").status == 200
    head = _get(origin, method="HEAD")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(DATA)))
    assert _get(origin, "missing").status == 404

    assert origin.n_requests == 8
    assert origin.bytes_sent == 2 * len(DATA) + 1000 + 10 + 5
    assert origin.bytes_for("missing") == 0
    assert origin.ranges_for("a.bin")[:2] == [(1000, 1999), (-10, None)]
    origin.reset_counters()
    assert (origin.n_requests, origin.bytes_sent) == (0, 0)


def test_one_connection_serves_many_requests(origin: CountingOrigin) -> None:
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    for _ in range(3):
        connection.request("GET", "/a.bin")
        assert connection.getresponse().read() == DATA
    connection.close()
    assert (origin.n_connections, origin.n_requests) == (1, 3)


def test_preconditions_decide_as_rfc_9110_says(origin: CountingOrigin) -> None:
    origin.put("a.bin", DATA, modified=1_700_000_000)
    etag, date = origin.etag("a.bin"), formatdate(1_700_000_000, usegmt=True)
    earlier = formatdate(1_600_000_000, usegmt=True)
    assert _get(origin, If_Match=etag).status == 200
    assert _get(origin, If_Match=f'"x", {etag}').status == 200
    assert _get(origin, If_Match="*").status == 200
    assert _get(origin, If_Match='"x"').status == 412
    assert _get(origin, If_None_Match=etag).status == 304
    assert _get(origin, If_None_Match=f"W/{etag}").status == 304
    assert _get(origin, If_None_Match='"x"', If_Modified_Since=date).status == 200
    assert _get(origin, If_Modified_Since=date).status == 304
    assert _get(origin, If_Modified_Since=earlier).status == 200
    assert _get(origin, If_Unmodified_Since=date).status == 200
    assert _get(origin, If_Unmodified_Since=earlier).status == 412
    assert _get(origin, If_Range=etag, Range="bytes=0-9").status == 206
    assert _get(origin, If_Range='"x"', Range="bytes=0-9").body == DATA
    assert _get(origin, If_Range=date, Range="bytes=0-9").status == 206
    assert _get(origin, If_Range=earlier, Range="bytes=0-9").status == 200


def test_put_changes_content_and_etag_in_one_step(origin: CountingOrigin) -> None:
    stall = Stall(after=100_000)
    origin.fault("a.bin", Fault(stall=stall))
    before, answers = origin.etag("a.bin"), list[Answer]()
    reader = threading.Thread(target=lambda: answers.append(_get(origin)))
    reader.start()
    stall.wait_reached()
    origin.put("a.bin", b"new")
    after = _get(origin)
    assert (after.body, after.headers["ETag"]) == (b"new", origin.etag("a.bin"))
    assert after.headers["ETag"] != before
    stall.release()
    reader.join()
    assert (answers[0].body, answers[0].headers["ETag"]) == (DATA, before)
    origin.remove("a.bin")
    assert _get(origin).status == 404


def test_a_directory_is_served_and_nothing_outside_it(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/sub/ü 1.bin").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    with CountingOrigin(tmp_path / "root") as origin:
        first = _get(origin, "sub/ü 1.bin", Range="bytes=5-99999")
        assert first.body == DATA[5:100000]
        assert _get(origin, "../secret").status == 404
        assert _get(origin, "sub").status == 404
        (tmp_path / "root/sub/ü 1.bin").write_bytes(b"changed")
        assert _get(origin, "sub/ü 1.bin", If_Match=first.headers["ETag"]).status == 412


def test_validators_and_ranges_can_be_weak_coarse_or_absent(origin: CountingOrigin) -> None:
    origin.validators = "weak"
    weak = _get(origin).headers["ETag"]
    assert weak.startswith('W/"')
    assert _get(origin, If_Match=weak).status == 412
    assert _get(origin, If_None_Match=weak).status == 304
    assert _get(origin, If_Range=weak, Range="bytes=0-9").status == 200
    origin.validators = "date"
    assert _get(origin).headers["ETag"] is None
    assert _get(origin).headers["Last-Modified"]
    origin.validators = "none"
    assert {"ETag", "Last-Modified"}.isdisjoint(_get(origin).headers.keys())
    origin.ranges = False
    answer = _get(origin, Range="bytes=0-9")
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, DATA, "none")


def test_faults_happen_as_often_as_told_and_then_no_more(origin: CountingOrigin) -> None:
    origin.fault("a.bin", Fault(status=503), times=2)
    assert [_get(origin).status for _ in range(3)] == [503, 503, 200]

    origin.fault("a.bin", Fault(content_range="bytes 7-16/99"))
    assert _get(origin, Range="bytes=0-9").headers["Content-Range"] == "bytes 7-16/99"

    origin.fault("a.bin", Fault(short_by=10))
    with pytest.raises(http.client.IncompleteRead) as caught:
        _get(origin)
    assert caught.value.partial == DATA[:-10]

    origin.fault("a.bin", Fault(truncated_by=4))
    answer = _get(origin, Range="bytes=0-9")
    assert (answer.body, answer.headers["Content-Range"]) == (DATA[:6], f"bytes 0-9/{len(DATA)}")

    origin.fault("a.bin", Fault(extra=3))
    assert _get(origin, Range="bytes=0-9").body == DATA[:10] + b"\xee" * 3

    assert _get(origin).body == DATA


@pytest.mark.parametrize("n_bytes", [0, 5, len(DATA)])
def test_a_reset_comes_after_the_bytes_told(origin: CountingOrigin, n_bytes: int) -> None:
    # Content-Length promises more than the file has, so that a reset at the file's end is seen too.
    origin.fault("a.bin", Fault(reset_after=n_bytes, extra=10))
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    connection.request("GET", "/a.bin")
    with pytest.raises(ConnectionResetError):
        connection.getresponse().read()
    connection.close()
    assert origin.bytes_sent == n_bytes


@pytest.mark.parametrize("how", ["stop", "reset_connections"])
def test_offline_breaks_what_is_under_way(origin: CountingOrigin, how: str) -> None:
    stall = Stall(after=1000)
    origin.fault("a.bin", Fault(stall=stall))
    idle = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    idle.request("GET", "/a.bin", headers={"If-None-Match": "*"})
    busy = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    idle_answer = idle.getresponse()
    idle_answer.read()
    origin.fault("a.bin", Fault(stall=stall))
    busy.request("GET", "/a.bin")
    answer = busy.getresponse()
    stall.wait_reached()
    if how == "stop":
        origin.stop()
        with pytest.raises(ConnectionRefusedError):
            _get(origin)
    else:
        assert origin.reset_connections() == 2
    with pytest.raises(ConnectionResetError):
        answer.read()
    busy.close()
    with pytest.raises(OSError, match=r"reset|closed|Broken pipe|not connected"):  # noqa: PT012
        idle.request("GET", "/a.bin")
        idle.getresponse()
    idle.close()
    origin.start()
    assert _get(origin).body == DATA


def test_rate_and_latency_can_be_set_and_do_not_outlive_a_stop(origin: CountingOrigin) -> None:
    origin.rate = len(DATA) * 20
    origin.latency_seconds = 0.001
    assert _get(origin).body == DATA
    origin.rate = 10.0  # the file would take seven hours
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
    connection.request("GET", "/a.bin")
    answer = connection.getresponse()
    origin.stop()
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        answer.read()
    connection.close()


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with CountingOrigin({"a.bin": DATA}) as origin:
        connection = http.client.HTTPConnection(origin.host, origin.port, timeout=240)
        connection.request("GET", "/a.bin")
        connection.getresponse().read()
    connection.close()
    assert set(threading.enumerate()) <= before


def test_a_range_that_ends_before_it_begins_is_none(origin: CountingOrigin) -> None:
    answer = _get(origin, Range="bytes=9-5")
    assert (answer.status, answer.body) == (200, DATA)


def test_what_is_not_there_has_no_etag(origin: CountingOrigin) -> None:
    assert origin.etag("a.bin") == _get(origin).headers["ETag"]
    with pytest.raises(KeyError, match="missing"):
        origin.etag("missing")


def test_ranges_need_not_be_mentioned(origin: CountingOrigin) -> None:
    assert _get(origin).headers["Accept-Ranges"] == "bytes"
    origin.tells_ranges = False
    answer = _get(origin, Range="bytes=0-9")
    assert (answer.status, answer.headers["Accept-Ranges"]) == (206, None)


def test_a_stall_that_nobody_comes_to_is_an_error() -> None:
    with pytest.raises(TimeoutError, match="no response came to byte 7"):
        Stall(7).wait_reached(0.01)
