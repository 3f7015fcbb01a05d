"""What the exceptions of libraries come to, of libraries that need not be installed."""

from __future__ import annotations

import errno

import pytest

from fscache_core.errors import (
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
)
from netfs_fsspec.failure import kind_of


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, status: int) -> None:
        super().__init__("refused")
        self.response = {"Error": {"Code": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, OriginPermissionError),
        (403, OriginPermissionError),
        (404, OriginNotFoundError),
        (429, OriginError),
        (500, OriginError),
        (503, OriginUnreachableError),
        (504, OriginTimeoutError),
    ],
)
def test_the_status_below_an_oserror_of_s3fs_decides(status: int, kind: type[OriginError]) -> None:
    error = OSError(errno.EIO, "refused")
    error.__cause__ = ClientError(status)
    assert kind_of(error) is kind


def test_an_errno_that_says_what_happened_is_believed() -> None:
    error = FileNotFoundError(errno.ENOENT, "no such key")
    error.__cause__ = ClientError(503)
    assert kind_of(error) is OriginUnreachableError  # fsspec's filesystems say "not found" of anything
    assert kind_of(PermissionError(errno.EACCES, "no")) is OriginPermissionError
    assert kind_of(OSError(errno.EIO, "disk")) is OriginError


def test_what_gcsfs_forbids_in_words_is_a_matter_of_permission() -> None:
    assert kind_of(OSError("Forbidden: b/bucket/o/a\nno access")) is OriginPermissionError
    assert kind_of(OSError(errno.EIO, "Forbidden fruit")) is OriginError
