"""Plugins that are installed and cannot be used: the error names the distribution that is to blame."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from stevedore.extension import ExtensionManager

from fscache_core.errors import (
    AmbiguousPluginError,
    ApiVersionError,
    BrokenPluginError,
    CallerError,
    InstallationError,
    PluginError,
    UnknownPluginError,
)
from fscache_core.folio import PAGE_SIZE
from fscache_core.object_request import get_check_time, is_pinned, resident_pages, set_check_time
from fscache_core.outcome import ReserveOutcome
from fscache_core.plugins import BACKEND_GROUP, BackendFacade, load, make
from fscache_core.testing.cache_session import open_session
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKEND = """
from fscache_memory import MemoryBackend

class Backend(MemoryBackend):
    {body}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution on the path, with a backend ``plain`` whose module has this source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})

    def put(distribution: str, source: str, attribute: str = "Backend") -> None:
        module = f"{distribution}_of_{tmp_path.name}".replace("-", "_")
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{BACKEND_GROUP}]\nplain = {module}:{attribute}\n")
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


async def test_a_plugin_is_made_with_its_options(install: Callable[..., None]) -> None:
    install("good", BACKEND.format(body="pass"))
    backend = make(BACKEND_GROUP, "plain", {"max_bytes": 1 << 20})
    async with open_session(backend) as session:
        cookie = await session.file(size=PAGE_SIZE)
        await session.check(cookie, await session.fill(cookie))


@pytest.mark.parametrize(
    ("source", "attribute", "kind", "message"),
    [
        ("1 / 0", "Backend", BrokenPluginError, "cannot be imported: ZeroDivisionError"),
        ("raise SystemExit(3)", "Backend", BrokenPluginError, "cannot be imported: SystemExit: 3"),
        ("", "Backend", BrokenPluginError, "cannot be imported: AttributeError"),
        ("Backend = 7", "Backend", InstallationError, "is not a class or function"),
        (BACKEND.format(body="api_version = 99"), "Backend", ApiVersionError, "built for plugin API 99"),
    ],
    ids=["raises", "exits", "lacks it", "no class", "other API"],
)
def test_a_plugin_that_cannot_be_loaded_is_named_with_its_distribution(
    source: str,
    attribute: str,
    kind: type[Exception],
    message: str,
    install: Callable[..., None],
) -> None:
    install("worn", source, attribute)
    with pytest.raises(kind, match=r"backend plain \(worn 1\.0\) .*" + message):
        load(BACKEND_GROUP, "plain")


@pytest.mark.parametrize("broken", [False, True])
def test_a_plugin_that_is_installed_twice_is_not_chosen_by_chance(
    broken: bool, install: Callable[..., None]
) -> None:
    install("one", BACKEND.format(body="pass"))
    install("two", "1 / 0" if broken else BACKEND.format(body="pass"))
    with pytest.raises(AmbiguousPluginError, match=r"more than once: one 1\.0, two 1\.0; remove all but one"):
        load(BACKEND_GROUP, "plain")


@pytest.mark.parametrize("error", ["ZeroDivisionError('a bug')", "SystemExit(3)"])
def test_a_plugin_whose_construction_raises_is_blamed(error: str, install: Callable[..., None]) -> None:
    install("worn", BACKEND.format(body=f"def __init__(self):\n        raise {error}"))
    with pytest.raises(PluginError, match=r"backend plain \(worn 1\.0\) raised ") as caught:
        make(BACKEND_GROUP, "plain", {})
    assert caught.value.plugin == "plain"


def test_what_a_plugin_refuses_on_purpose_is_let_through(install: Callable[..., None]) -> None:
    refusal = "from fscache_core import CallerError; raise CallerError('too small')"
    install("strict", BACKEND.format(body=f"def __init__(self, size):\n        {refusal}"))
    with pytest.raises(CallerError, match=r"^too small$"):
        make(BACKEND_GROUP, "plain", {"size": 1})


def test_a_plugin_that_does_not_fit_is_named_as_it_is_installed(install: Callable[..., None]) -> None:
    install("worn", BACKEND.format(body="lookup_object = None"))
    with pytest.raises(
        PluginError, match=r"backend plain \(worn 1\.0\) lacks mandatory hooks: lookup_object"
    ):
        BackendFacade(make(BACKEND_GROUP, "plain", {}), name="plain")


async def test_a_backend_without_optional_hooks_has_their_defaults() -> None:
    class Bare(MemoryBackend):
        pin_object = unpin_object = is_pinned = reserve_space = None  # type: ignore[assignment]
        get_check_time = set_check_time = resident_pages = None  # type: ignore[assignment]

    async with open_session(Bare()) as session:
        cookie = await session.file(size=PAGE_SIZE)
        await session.check(cookie, await session.fill(cookie))
        obj = session.object(cookie)
        assert await cookie.pin() is ReserveOutcome.REFUSED
        assert await cookie.reserve_space(1) is ReserveOutcome.REFUSED
        await cookie.unpin()
        assert not await is_pinned(obj)
        await set_check_time(obj, 7.0)
        assert await get_check_time(obj) == 0.0
        assert await resident_pages(obj) is None
        await session.check(cookie, b"".join((await session.read(cookie, 0, 1))[1].values()))


def test_a_plugin_that_is_not_installed_is_an_error_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UnknownPluginError, match=r"no backend is called 'nosuch'; installed: .*memory"):
        load(BACKEND_GROUP, "nosuch")
    assert caplog.records == []
