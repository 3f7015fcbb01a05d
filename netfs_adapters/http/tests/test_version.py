"""What validators prove."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fscache_core.errors import CallerError
from fscache_core.hookspecs import Strength
from netfs_http.version import Version

#: On a machine that is busy an example takes as long as it takes.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = 1_700_000_000


def date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def version(size: int = 100, /, **headers: str) -> Version:
    return Version.of({name.replace("_", "-"): value for name, value in headers.items()}, size)


@pytest.mark.parametrize(
    ("headers", "strength"),
    [
        ({"etag": '"abc"'}, Strength.STRONG),
        ({"etag": '"abc"', "last_modified": date(NOW), "date": date(NOW)}, Strength.STRONG),
        ({"etag": 'W/"abc"'}, Strength.WEAK),
        ({"etag": 'W/"abc"', "last_modified": date(NOW - 100), "date": date(NOW)}, Strength.WEAK),
        ({"etag": "abc"}, Strength.WEAK),
        ({"etag": '"' + "a" * 5000 + '"'}, Strength.STRONG),
        ({"etag": 'W/"' + "a" * 5000 + '"'}, Strength.WEAK),
        ({"last_modified": date(NOW - 2), "date": date(NOW)}, Strength.STRONG),
        ({"last_modified": date(NOW - 1), "date": date(NOW)}, Strength.WEAK),
        ({"last_modified": date(NOW + 9), "date": date(NOW)}, Strength.WEAK),
        ({"last_modified": date(NOW - 100)}, Strength.WEAK),
        ({"last_modified": "yesterday", "date": date(NOW)}, Strength.NONE),
        ({}, Strength.NONE),
    ],
)
def test_strength_follows_from_the_validators(headers: dict[str, str], strength: Strength) -> None:
    assert version(**headers).strength is strength


def test_a_tag_made_of_the_second_and_the_size_proves_no_more_than_these() -> None:
    nginx = {"etag": f'"{NOW:x}-64"', "last_modified": date(NOW)}
    assert version(100, **nginx, date=date(NOW + 1)).strength is Strength.WEAK
    assert version(100, **nginx, date=date(NOW + 2)).strength is Strength.STRONG
    assert version(101, **nginx, date=date(NOW + 1)).strength is Strength.STRONG  # another kind of tag


def test_bytes_read_under_weak_evidence_have_another_label_when_the_same_evidence_is_strong() -> None:
    young, aged = (version(last_modified=date(NOW), date=date(NOW + age)) for age in (0, 5))
    assert young.aux != aged.aux
    assert not aged.proves(young)


def test_servers_that_agree_on_a_strong_tag_need_not_agree_on_the_date() -> None:
    one, other = (version(etag='"abc"', last_modified=date(NOW + n)) for n in (0, 7))
    assert one.proves(other)
    assert one.difference({"etag": '"abc"', "last-modified": other.last_modified}, 100) == ""
    weak = version(etag='W/"abc"', last_modified=date(NOW))
    assert "last modified" in weak.difference({"etag": 'W/"abc"', "last-modified": date(NOW + 7)}, 100)


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ({"etag": '"other"'}, 100),
        ({"etag": '"abc"'}, 101),
        ({"etag": '"abc"', "content-encoding": "gzip"}, 100),
        ({"etag": 'W/"abc"'}, 100),
    ],
)
def test_a_difference_is_told(headers: dict[str, str], size: int) -> None:
    assert version(etag='"abc"').difference(headers, size)


def test_an_answer_without_the_validator_of_the_version_does_not_prove_it() -> None:
    assert not version(etag='"abc"', last_modified=date(NOW)).proven_by({"last-modified": date(NOW)})
    assert not version(last_modified=date(NOW)).proven_by({})
    assert version(last_modified=date(NOW)).proven_by({"last-modified": date(NOW)})
    assert version().proven_by({})


@pytest.mark.parametrize(
    ("headers", "preconditions"),
    [
        ({"etag": '"abc"', "last_modified": date(NOW)}, {"If-Match": '"abc"'}),
        ({"etag": 'W/"abc"', "last_modified": date(NOW)}, {"If-Unmodified-Since": date(NOW)}),
        ({"etag": '"' + "a" * 5000 + '"'}, {}),
        ({"etag": '"café"'}, {}),
        ({}, {}),
    ],
)
def test_a_server_is_asked_to_refuse_with_what_it_can_compare(
    headers: dict[str, str], preconditions: dict[str, str]
) -> None:
    assert version(**headers).preconditions == preconditions


@PATIENT
@given(
    st.integers(0, 2**63),
    st.dictionaries(
        st.sampled_from(["etag", "last-modified", "date", "content-encoding"]),
        st.text(st.characters(exclude_characters="\r\n\0"), max_size=400) | st.just(date(NOW)),
    ),
)
def test_every_version_is_recalled_from_its_label(size: int, headers: dict[str, str]) -> None:
    found = Version.of(headers, size)
    assert len(found.aux) <= 509
    assert Version.from_aux(found.aux, size).aux == found.aux


@pytest.mark.parametrize("aux", [b"", b"2\nstrong\n\n\n", b"1\nsteel\n\n\n", b"1\nstrong\n", b"\xff\n\n\n\n"])
def test_a_foreign_label_is_refused(aux: bytes) -> None:
    with pytest.raises(CallerError):
        Version.from_aux(aux, 0)


def test_attributes_tell_the_evidence_as_a_person_reads_it() -> None:
    attributes = version(etag='"abc"', last_modified=date(NOW)).attributes
    assert attributes.evidence == f'etag "abc" last-modified {date(NOW)}'
    assert attributes.mtime_ns == NOW * 10**9
    assert version().attributes.evidence == "no validator"
