import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fscache_cachefiles.space import DEFAULT_PERCENT, SpaceGuard
from fscache_core.errors import NoSpaceError

CASES = json.loads((Path(__file__).parent / "data" / "space-vectors.json").read_text())["cases"]


class Filesystem:
    """What `os.statvfs` would say, as the vectors tell it."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.answer = SimpleNamespace(f_frsize=case["f_bsize"], f_blocks=case["f_blocks"], f_bavail=0)
        self.answer.f_files, self.answer.f_ffree = case["f_files"], 0
        self.error: int | None = None

    def __call__(self) -> SimpleNamespace:
        if self.error:
            raise OSError(self.error, "statvfs")
        return self.answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))
def test_every_vector_of_the_space_rules_holds(case: dict[str, Any]) -> None:
    filesystem = Filesystem(case)
    if case["bind_errno"]:
        with pytest.raises(OSError, match=r".") as caught:
            SpaceGuard(filesystem, case["percent"])
        assert errno.errorcode[caught.value.errno or 0].replace("ENOTSUP", "EOPNOTSUPP") == case["bind_errno"]
        return
    guard = SpaceGuard(filesystem, case["percent"])
    assert dict(guard.limits) == case["limits"]
    for step in case["steps"]:
        filesystem.answer.f_bavail = step["f_bavail"]
        filesystem.answer.f_ffree = step["f_ffree"]
        filesystem.error = None if step["statfs"] == "ok" else getattr(errno, step["statfs"])
        result: OSError | None = None
        try:
            guard.has_space(step["want_files"], step["want_blocks"])
        except OSError as error:
            result = error
        assert (errno.errorcode[result.errno or 0] if result else 0) == step["result"]
        assert isinstance(result, NoSpaceError) == (step["result"] == "ENOBUFS")
        assert guard.culling == step["culling_after"]
        assert guard.take_state_changed() == step["state_changed"]


@pytest.mark.parametrize(
    "change", [{"brun": 100}, {"bcull": 7}, {"bstop": 5}, {"fstop": -1}, {"fcull": 1}, {"frun": 5}]
)
def test_percentages_out_of_order_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(OSError, match="limits must satisfy") as caught:
        SpaceGuard(Filesystem(CASES[0]), {**DEFAULT_PERCENT, **change})
    assert caught.value.errno == errno.EINVAL


def test_a_missing_percentage_is_refused() -> None:
    with pytest.raises(OSError, match="percentages must be"):
        SpaceGuard(Filesystem(CASES[0]), {"brun": 7})
