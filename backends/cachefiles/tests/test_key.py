import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fscache_cachefiles.key import ObjectKind, cook_key, uncook_key

VECTORS = json.loads((Path(__file__).parent / "data" / "key-vectors.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['id']}-{vector['category']}")
def test_every_vector_cooks_to_its_path_and_back(vector: dict[str, Any]) -> None:
    key = bytes.fromhex(vector["key_hex"])
    path = vector.get("split_path", vector["path"])
    assert cook_key(key, vector["type"]) == path
    assert uncook_key(path) == (key, ObjectKind.of(vector["type"]))


@given(st.binary(max_size=512), st.integers(0, 255))
def test_any_key_cooks_to_a_path_that_stays_inside_and_comes_back(key: bytes, cookie_type: int) -> None:
    path = cook_key(key, cookie_type)
    for component in path.split("/"):
        assert 1 <= len(component.encode()) <= 255
        assert component[0] in "@+IJDEST"
        assert "\0" not in component
    assert uncook_key(path) == (key, ObjectKind.of(cookie_type))


@given(st.text(max_size=40))
def test_a_path_that_no_key_cooks_to_is_refused(path: str) -> None:
    try:
        key, kind = uncook_key(path)
    except ValueError:
        return
    assert cook_key(key, kind.value) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "@4a",
        "I03nfs",
        "@4b/I03nfs",
        "@4a/I04nfs",
        "@4A/I03nfs",
        "@4a/X03nfs",
        "@4a/../I03nfs",
        "@4a/+0/I3nfs",
        "@30/Ji000000000000000--fHg8hi840",
        "@30/Ji000000000000000--fHg8hi8401",
    ],
)
def test_names_the_encoder_would_not_write_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"cooked path|should be"):
        uncook_key(path)


def test_a_key_past_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 512"):
        cook_key(b"x" * 513, 1)


def test_an_unknown_cookie_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.255"):
        cook_key(b"x", 256)
