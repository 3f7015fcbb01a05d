"""What a listing may look like, and what is refused."""

from __future__ import annotations

import pytest

from netfs_s3.fault import Fault
from netfs_s3.listing import parse_page

PAGE = """\
<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>\
<Prefix>{prefix}</Prefix><IsTruncated>true</IsTruncated>\
<Contents><Key>a%20b%01</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>4</Size></Contents>\
<CommonPrefixes><Prefix>c%2Bd/</Prefix></CommonPrefixes>\
<NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>
"""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("c/d%20+ &lt;&amp;&gt;", "c/d%20+ <&>"),
        ("&#x01;&#x0a;&#x0d;&#x1f;&#x7f;", "\x01\n\r\x1f\x7f"),
        ("\ufffe\uffff", "\ufffe\uffff"),
        ("\ue000\ue00001;", "\ue000\ue00001;"),
        ("\ue000&#x01;\ue00001;&amp;#x01;", "\ue000\x01\ue00001;&#x01;"),
    ],
)
def test_characters_that_no_xml_can_hold_are_read_as_ceph_writes_them(written: str, meant: str) -> None:
    page = parse_page(PAGE.format(prefix=written, token=written).encode())
    assert [key for key, _ in page.objects] == ["a b\x01"]
    assert page.prefixes == ("c+d/",)
    assert page.continuation == meant


@pytest.mark.parametrize(
    "written",
    [
        b"\x01",
        b"&#x00;",
        b"&#0;",
        b"&#xd800;",
        b"&#x110000;",
        b"&lt",
        b"<",
        b"&#x01;\xff",
        b"&#x01;<",
        b"&#x01",
    ],
)
def test_what_is_no_listing_is_refused(written: bytes) -> None:
    body = PAGE.format(prefix="&#x01;", token="TOKEN").encode().replace(b"TOKEN", written)
    with pytest.raises(Fault, match="listing is not XML"):
        parse_page(body)


@pytest.mark.parametrize(("right", "wrong"), [("<Size>4", "<Size>four"), ("2026-01-02T", "yesterday")])
def test_what_cannot_be_understood_is_refused(right: str, wrong: str) -> None:
    with pytest.raises(Fault, match="listing cannot be understood"):
        parse_page(PAGE.replace(right, wrong).encode())
