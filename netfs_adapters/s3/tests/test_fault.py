"""What is made of an answer that is not a success."""

from __future__ import annotations

import io
import urllib.error
from email.message import Message

import pytest

from netfs_s3.fault import FaultKind, from_status, from_urllib


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ExpiredToken", FaultKind.PERMISSION),
        (400, "RequestTimeout", FaultKind.BUSY),
        (400, "EntityTooLarge", FaultKind.OTHER),
        (403, "SignatureDoesNotMatch", FaultKind.PERMISSION),
        (404, "NoSuchBucket", FaultKind.NOT_FOUND),
        (409, "ConditionalRequestConflict", FaultKind.CHANGED),
        (412, "PreconditionFailed", FaultKind.CHANGED),
        (503, "SlowDown", FaultKind.BUSY),
    ],
)
def test_the_code_in_the_body_decides(status: int, code: str, kind: FaultKind) -> None:
    fault = from_status(status, f"<Error><Code>{code}</Code><Message>so\nit is</Message></Error>")
    assert fault.kind is kind
    assert code in fault.cause
    assert "so\\nit is" in fault.cause


def test_the_region_of_a_bucket_elsewhere_is_named() -> None:
    wrong = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    assert "the bucket's region is eu-west-1" in from_status(400, wrong).cause
    headers = Message()
    headers["x-amz-bucket-region"] = "eu-west-2"
    url = "https://b.s3.amazonaws.com/?X-Amz-Signature=hush"
    fault = from_urllib(urllib.error.HTTPError(url, 301, "Moved", headers, io.BytesIO(b"")))
    assert "the bucket's region is eu-west-2" in fault.cause
    assert "hush" not in fault.cause
    assert "is the region right" in from_status(301, "").cause
