"""Folios and sets of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fscache_core.folio import PAGE_SIZE, Folio, PageRuns, page_count


@pytest.mark.parametrize(
    ("size", "n_pages"), [(0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2), (1 << 40, 1 << 28)]
)
def test_sizes_are_rounded_up_to_pages(size: int, n_pages: int) -> None:
    assert page_count(size) == n_pages


def test_a_folio_may_end_within_its_last_page() -> None:
    folio = Folio(3, memoryview(bytearray(2 * PAGE_SIZE + 1)))
    assert (folio.n_pages, folio.offset, folio.end) == (3, 3 * PAGE_SIZE, 6)
    assert len(folio.part(5, 1).buffer) == 1


def test_a_part_of_a_folio_is_in_the_same_memory() -> None:
    memory = bytearray(4 * PAGE_SIZE)
    part = Folio(10, memoryview(memory)).part(12, 1)
    part.buffer[0] = 7
    assert memory[2 * PAGE_SIZE] == 7
    assert (part.first, part.n_pages) == (12, 1)


RUNS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=40)


@given(RUNS, st.integers(0, 50), st.integers(0, 20))
def test_a_set_of_runs_is_a_set_of_pages(
    changes: list[tuple[bool, int, int]], first: int, n_pages: int
) -> None:
    runs, pages = PageRuns(), set[int]()
    for add, start, length in changes:
        (runs.add if add else runs.remove)(start, length)
        span = range(start, start + length)
        pages = pages.union(span) if add else pages.difference(span)
    assert [page for start, length in runs for page in range(start, start + length)] == sorted(pages)
    assert all(length > 0 for _, length in runs)
    assert bool(runs) == bool(pages)
    assert runs.total() == len(pages)
    span = range(first, first + n_pages)
    if n_pages:
        assert runs.covers(first, n_pages) == pages.issuperset(span)
        assert runs.overlaps(first, n_pages) == bool(pages.intersection(span))
    assert (first in runs) == (first in pages)
    gaps = [page for start, length in runs.gaps(first, n_pages) for page in range(start, start + length)]
    assert gaps == [page for page in span if page not in pages]
    runs.clear()
    assert not runs


def test_only_pages_are_in_a_set_of_pages() -> None:
    assert "page" not in PageRuns()
