"""Plugins: find them (stevedore), check them (pluggy), call them (one typed facade per side).

This is the only module that imports stevedore and that touches pluggy's managers; past it nothing is
``Any``.  A facade resolves each hook once: it holds the bound method of the plugin itself, so a call
costs a plain call, wrapped only if there are wrappers.  It supplies the defaults of optional hooks; where
there is no default the attribute is None, and that is the whole capability statement.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pluggy

from fscache_core.cookie_definition import MAX_AUX_SIZE, MAX_KEY_SIZE
from fscache_core.errors import (
    AmbiguousPluginError,
    ApiVersionError,
    BrokenPluginError,
    CallerError,
    FscacheError,
    InstallationError,
    PluginError,
    UnfitPluginError,
    UnknownPluginError,
    UnsupportedError,
)
from fscache_core.hook_call import passes_through
from fscache_core.hookspecs import (
    API_VERSION,
    CacheSpec,
    ConsistencyOutcome,
    DirectoryEntry,
    FileAttributes,
    Location,
    LockOutcome,
    LookupOutcome,
    NetfsSpec,
    ReadOutcome,
    ReserveOutcome,
    VerifyReport,
    Wrapper,
    WriteOutcome,
)
from fscache_core.late_import import importing
from fscache_core.outcome import AuxOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from typing_extensions import Buffer

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.folio import Folio
    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation, Retrieval, Storage

BACKEND_GROUP = "fscache.backend"
NETFS_GROUP = "fscache.netfs"
WRAPPER_GROUP = "fscache.wrapper"
_KINDS = {BACKEND_GROUP: "backend", NETFS_GROUP: "netfs", WRAPPER_GROUP: "wrapper"}

#: Hooks every plugin must have; each docstring says so too, and a test compares.
MANDATORY: Mapping[str, frozenset[str]] = {
    BACKEND_GROUP: frozenset(
        {
            "alloc_object",
            "lookup_object",
            "check_consistency",
            "update_object",
            "invalidate_object",
            "drop_object",
            "sync_cache",
            "attr_changed",
            "read_or_alloc_pages",
            "allocate_pages",
            "write_page",
        }
    ),
    NETFS_GROUP: frozenset(
        {
            "get_key",
            "get_attr",
            "get_aux",
            "parse_url",
            "open_volume",
            "name_file",
            "recall_file",
            "look_up",
            "fetch",
        }
    ),
}

#: Bytes of aux data that an adapter may give: the file layer puts one of its own before them.
MAX_NETFS_AUX_SIZE = MAX_AUX_SIZE - 1

P = ParamSpec("P")
T = TypeVar("T")


# -- finding -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """An entry point, as found without importing it."""

    name: str
    group: str
    distribution: str
    version: str
    target: str  #: ``module:attribute``


def installed(group: str) -> Sequence[InstalledPlugin]:
    """Every plugin of a group, by name, without importing any.  Distribution names come from
    `importlib.metadata`, since stevedore's cached entry points know none."""
    from importlib.metadata import entry_points

    found = {
        InstalledPlugin(
            point.name,
            group,
            point.dist.name if point.dist is not None else "?",
            point.dist.version if point.dist is not None else "?",
            point.value,
        )
        for point in entry_points(group=group)
    }
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def load(group: str, name: str) -> Callable[..., object]:
    """Import the plugin that a user calls ``name``.

    Raises:
      UnknownPluginError: none; lists what is installed.
      AmbiguousPluginError, BrokenPluginError, ApiVersionError, InstallationError: several, or one that cannot
        be imported, was built for another API or cannot be called; names the distributions.
    """
    with importing:
        from stevedore import _cache
        from stevedore.named import NamedExtensionManager

    kind = _KINDS[group]
    if not os.environ.get("HOME", "~") or not os.path.isdir(os.path.expanduser("~")):
        # For a cache of its own, stevedore would make the home directory, or write to the root directory.
        _cache._c._disable_caching = True

    def ambiguous() -> AmbiguousPluginError:
        return AmbiguousPluginError(
            f"{kind} {name!r} is installed more than once: {_distributions(group, name)}; remove all but one"
        )

    def failed(_manager: object, _point: object, error: BaseException) -> None:
        if sum(plugin.name == name for plugin in installed(group)) > 1:
            raise ambiguous() from error  # which stevedore would see only once both were imported
        raise BrokenPluginError(
            f"{kind} {name} ({_distributions(group, name)}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error

    try:
        # Not a DriverManager: that logs a warning of its own where there is none of that name.
        with importing:
            manager: NamedExtensionManager[Any] = NamedExtensionManager(
                group,
                [name],
                on_load_failure_callback=failed,
                on_missing_entrypoints_callback=None,
            )
    except SystemExit as error:  # its module ends the program
        failed(None, None, error)
    if not manager.extensions:
        raise unknown_plugin(group, name)
    if len(manager.extensions) > 1:
        raise ambiguous()
    plugin = manager.extensions[0].plugin
    _check_api_version(kind, name, plugin, lambda: _distributions(group, name))
    if not callable(plugin):
        raise InstallationError(f"{kind} {name} ({_distributions(group, name)}) is not a class or function")
    made: Callable[..., object] = plugin
    return made


def unknown_plugin(group: str, name: str) -> UnknownPluginError:
    """The error that lists what there is instead."""
    names = sorted({plugin.name for plugin in installed(group)})
    have = ", ".join(names) or "none"
    return UnknownPluginError(f"no {_KINDS[group]} is called {name!r}; installed: {have}")


def make(group: str, name: str, options: Mapping[str, object]) -> object:
    """Import the plugin called ``name`` and construct it with ``options``.

    Raises:
      InstallationError and its kinds: as `load`.
      CallerError: an option it does not have, or lacks, or refuses.
      PluginError: its construction raised something else.
    """
    factory = load(group, name)
    kind = _KINDS[group]
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        have = ", ".join(inspect.signature(factory).parameters) or "none"
        raise CallerError(f"{kind} {name}: {error}; its options: {have}") from None
    try:
        return factory(**options)
    except FscacheError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{kind} {name} ({_distributions(group, name)}) raised {type(error).__name__}: {error}",
            plugin=name,
        ) from error


def _distributions(group: str, name: str) -> str:
    return ", ".join(
        f"{plugin.distribution} {plugin.version}" for plugin in installed(group) if plugin.name == name
    )


def _described(group: str, name: str, plugin: object) -> str:
    """A plugin by the name of its entry point and its distribution, or by ``name`` if it has none."""
    for point in installed(group):
        module, _, attribute = point.target.partition(":")
        found: object = sys.modules.get(module)
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if found is type(plugin):
            return f"{point.name} ({point.distribution} {point.version})"
    return name


def _check_api_version(kind: str, name: str, plugin: object, origin: Callable[[], str]) -> None:
    """``origin`` tells where the plugin is from, which takes long to find out."""
    version = getattr(plugin, "api_version", API_VERSION)
    if version != API_VERSION:
        raise ApiVersionError(
            f"{kind} {name} ({origin()}) was built for plugin API {version}; "
            f"this fscache-core has {API_VERSION}"
        )


# -- checking ----------------------------------------------------------------------------


def _unfit(group: str, name: str, plugin: object, fault: str) -> UnfitPluginError:
    """The refusal of a plugin, which is named as it is installed."""
    return UnfitPluginError(f"{_KINDS[group]} {_described(group, name, plugin)}{fault}", plugin=name)


class _Hooks:
    """The checked implementations of one plugin, wrapped."""

    def __init__(
        self, group: str, spec: type, plugin: object, name: str, wrappers: Sequence[Wrapper]
    ) -> None:
        kind = _KINDS[group]
        if isinstance(plugin, type):
            made = f"{plugin.__name__}(...)"
            raise CallerError(f"{kind} {plugin.__name__} is a class; give an object: {made}")
        _check_api_version(kind, name, plugin, lambda: type(plugin).__module__)
        manager = pluggy.PluginManager(group)
        manager.add_hookspecs(spec)
        try:
            manager.register(plugin, name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            text = ": ".join(line for line in str(error).splitlines() if not line.startswith("hookimpl"))
            text = text.replace(f" in plugin {plugin!r}", "").replace(f"Plugin {name!r} for hook", "hook")
            raise _unfit(group, name, plugin, f" does not fit the contract: {text}") from error
        self._manager = manager
        self._unfit = functools.partial(_unfit, group, name, plugin)
        self._wrappers = wrappers
        missing = sorted(hook for hook in MANDATORY[group] if self._implementation(hook) is None)
        if missing:
            fault = f" lacks mandatory hooks: {', '.join(missing)}"
            if unmarked := [hook for hook in missing if callable(getattr(plugin, hook, None))]:
                mark = "cache_hook" if group == BACKEND_GROUP else "netfs_hook"
                fault += f"; there, but not marked with {mark}: {', '.join(unmarked)}"
            raise self._unfit(fault)

    def _implementation(self, hook: str) -> Callable[..., Any] | None:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        implementations = caller.get_hookimpls()
        if not implementations:
            return None
        (implementation,) = implementations
        function = implementation.function
        assert caller.spec is not None
        if inspect.iscoroutinefunction(function) != inspect.iscoroutinefunction(caller.spec.function):
            must = "must be" if inspect.iscoroutinefunction(caller.spec.function) else "must not be"
            raise self._unfit(f": {hook} {must} an async function")
        wanted = list(caller.spec.argnames)
        taken = list(implementation.argnames)
        if taken == wanted:
            return function
        if sorted(taken, key=wanted.index) != taken:
            raise self._unfit(f": {hook} takes its arguments in another order than {', '.join(wanted)}")
        places = [wanted.index(argument) for argument in taken]

        @functools.wraps(function)
        def fewer(*args: Any) -> Any:
            return function(*[args[place] for place in places])

        return fewer

    def get(self, hook: str, default: Callable[..., Any] | None = None) -> Any:
        function = self._implementation(hook) or default
        if function is None:
            return None
        for wrapper in reversed(self._wrappers):
            name = str(getattr(wrapper, "name", type(wrapper).__name__))
            asynchronous = inspect.iscoroutinefunction(function)
            try:
                function = wrapper.wrap(hook, function)
            except FscacheError:
                raise
            except Exception as error:
                raise PluginError.raised("wrapper", name, f"wrap({hook!r})", error) from error
            if not callable(function):
                raise PluginError(f"wrapper {name}: wrap({hook!r}) returned {function!r}", plugin=name)
            if inspect.iscoroutinefunction(function) != asynchronous:
                must = "must be" if asynchronous else "must not be"
                raise PluginError(f"wrapper {name}: wrap({hook!r}) {must} an async function", plugin=name)
        return function


# -- calling a backend -------------------------------------------------------------------


class BackendFacade:
    """A checked backend: each hook of `CacheSpec` as a typed attribute."""

    def __init__(self, plugin: object, *, name: str | None = None, wrappers: Sequence[Wrapper] = ()) -> None:
        self.plugin = plugin
        self.name: str = name or str(getattr(plugin, "name", type(plugin).__name__))
        hooks = _Hooks(BACKEND_GROUP, CacheSpec, plugin, self.name, wrappers)
        get = hooks.get
        self.bind_cache: Callable[[Cache], Awaitable[None]] = get("bind_cache", _nothing)
        self.unbind_cache: Callable[[], Awaitable[None]] = get("unbind_cache", _nothing)
        self.alloc_object: Callable[[Cache, Cookie], CacheObject] = get("alloc_object")
        self.lookup_object: Callable[[CacheObject], Awaitable[LookupOutcome]] = get("lookup_object")
        self.lookup_complete: Callable[[CacheObject], Awaitable[None]] | None = get("lookup_complete")
        self.grab_object: Callable[[CacheObject], None] | None = get("grab_object")
        self.put_object: Callable[[CacheObject], None] | None = get("put_object")
        self.lock_object: Callable[[CacheObject], Awaitable[None]] | None = get("lock_object")
        self.unlock_object: Callable[[CacheObject], None] | None = get("unlock_object")
        self.pin_object: Callable[[CacheObject], Awaitable[ReserveOutcome]] = get("pin_object", _refused)
        self.unpin_object: Callable[[CacheObject], Awaitable[None]] = get("unpin_object", _nothing)
        self.is_pinned: Callable[[CacheObject], Awaitable[bool]] = get("is_pinned", _not_pinned)
        self.reserve_space: Callable[[CacheObject, int], Awaitable[ReserveOutcome]] = get(
            "reserve_space", _refused
        )
        self.check_consistency: Callable[[Operation], Awaitable[ConsistencyOutcome]] = get(
            "check_consistency"
        )
        self.update_object: Callable[[CacheObject], Awaitable[None]] = get("update_object")
        self.invalidate_object: Callable[[Operation], Awaitable[None]] = get("invalidate_object")
        self.drop_object: Callable[[CacheObject], Awaitable[None]] = get("drop_object")
        self.sync_cache: Callable[[], Awaitable[None]] = get("sync_cache")
        self.dissociate_pages: Callable[[], Awaitable[None]] = get("dissociate_pages", _nothing)
        self.attr_changed: Callable[[CacheObject], Awaitable[None]] = get("attr_changed")
        self.read_or_alloc_pages: Callable[[Retrieval, Sequence[Folio]], Awaitable[ReadOutcome]] = get(
            "read_or_alloc_pages"
        )
        self.allocate_pages: Callable[[Retrieval, Sequence[Folio]], Awaitable[ReadOutcome]] = get(
            "allocate_pages"
        )
        self.read_or_alloc_page: Callable[[Retrieval, Folio], Awaitable[ReadOutcome]] = get(
            "read_or_alloc_page", _singular(self.read_or_alloc_pages)
        )
        self.allocate_page: Callable[[Retrieval, Folio], Awaitable[ReadOutcome]] = get(
            "allocate_page", _singular(self.allocate_pages)
        )
        self.write_page: Callable[[Storage, Folio], Awaitable[WriteOutcome]] = get("write_page")
        # A wrapper that changes or counts stores knows them by one name.
        self.write_pages: Callable[[Storage, Sequence[Folio]], Awaitable[WriteOutcome]] | None = (
            None if wrappers else get("write_pages")
        )
        self.uncache_page: Callable[[CacheObject, int, int], Awaitable[None]] | None = get("uncache_page")
        self.read_resident: Callable[[CacheObject, int, memoryview], int] | None = get("read_resident")
        self.lock_pages: Callable[[CacheObject, int, int, float], Awaitable[LockOutcome]] | None = get(
            "lock_pages"
        )
        self.unlock_pages: Callable[[CacheObject, int, int], None] | None = get("unlock_pages")
        self.resident_pages: Callable[[CacheObject], Awaitable[list[tuple[int, int]]]] | None = get(
            "resident_pages"
        )
        self.get_check_time: Callable[[CacheObject], Awaitable[float]] = get("get_check_time", _no_time)
        self.set_check_time: Callable[[CacheObject, float], Awaitable[None]] = get("set_check_time", _nothing)
        self.child_keys: Callable[[CacheObject], Awaitable[list[tuple[int, bytes]]]] | None = get(
            "child_keys"
        )
        self.add_statistics: Callable[[Mapping[str, int]], Awaitable[None]] | None = get("add_statistics")
        self.statistics: Callable[[], Awaitable[Mapping[str, int]]] | None = get("statistics")
        self.verify_cache: Callable[[bool, Callable[[int, int], None]], Awaitable[VerifyReport]] | None = get(
            "verify_cache"
        )
        for one, other in (
            ("lock_pages", "unlock_pages"),
            ("lock_object", "unlock_object"),
            ("add_statistics", "statistics"),
        ):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise _unfit(BACKEND_GROUP, self.name, plugin, f" must have both {one} and {other} or none")


async def _nothing(*_args: object) -> None:
    """The default of a hook that need not do anything."""


async def _refused(*_args: object) -> ReserveOutcome:
    return ReserveOutcome.REFUSED


async def _no_time(_obj: object) -> float:
    return 0.0


async def _not_pinned(_obj: object) -> bool:
    return False


def _singular(
    plural: Callable[[Retrieval, Sequence[Folio]], Awaitable[ReadOutcome]],
) -> Callable[[Retrieval, Folio], Awaitable[ReadOutcome]]:
    async def one(op: Retrieval, folio: Folio) -> ReadOutcome:
        return await plural(op, [folio])

    return one


# -- calling a netfs adapter -------------------------------------------------------------


class NetfsFacade:
    """A checked netfs adapter: each hook of `NetfsSpec` as a typed attribute."""

    def __init__(self, plugin: object, *, wrappers: Sequence[Wrapper] = ()) -> None:
        self.plugin = plugin
        name, version = getattr(plugin, "name", None), getattr(plugin, "version", 0)
        named = isinstance(name, str) and name != ""
        self.name: str = str(name) if named else type(plugin).__name__
        get = _Hooks(NETFS_GROUP, NetfsSpec, plugin, self.name, wrappers).get
        unfit = functools.partial(_unfit, NETFS_GROUP, self.name, plugin)
        if not hasattr(plugin, "name"):
            raise unfit(" lacks a name, which is the scheme of its URLs and part of every key")
        if not named:
            raise unfit(f": its name {name!r} is not a text, or an empty one")
        if not isinstance(version, int):
            raise unfit(f": its version {version!r} is not an int")
        self.version = version  #: of the format of its keys and aux data
        answer = functools.partial(_answering, self.name, get)
        no = functools.partial(_unsupported, self.name)
        self.get_key: Callable[[object], bytes] = answer("get_key", _key_fault)
        self.get_attr: Callable[[object], FileAttributes] = answer("get_attr", _attributes_fault)
        self.get_aux: Callable[[object], bytes] = answer("get_aux", _aux_fault)
        self.check_aux: Callable[[object, bytes, int], AuxOutcome] = answer(
            "check_aux", _none, self._check_aux
        )
        self.get_context: Callable[[object, object], None] | None = get("get_context")
        self.put_context: Callable[[object, object], None] | None = get("put_context")
        self.mark_pages_cached: Callable[[object, int, int], None] | None = get("mark_pages_cached")
        self.now_uncached: Callable[[object], None] | None = get("now_uncached")
        self.select_cache: Callable[[object, object], str | None] | None = get("select_cache")
        self.parse_url: Callable[[str], Location] = answer("parse_url", _location_fault)
        self.open_volume: Callable[[Location], Awaitable[object]] = get("open_volume")
        self.close_volume: Callable[[object], Awaitable[None]] = get("close_volume", _nothing)
        self.name_file: Callable[[object, str], object] = answer("name_file", _none)
        self.recall_file: Callable[[object, str, bytes, int], object] = answer("recall_file", _none)
        self.look_up: Callable[[object, str], Awaitable[object]] = get("look_up")
        self.fetch: Callable[[object, int, memoryview, Callable[[int], None]], Awaitable[None]] = get("fetch")
        # A wrapper that changes or counts what comes from the origin knows it by one name.
        self.fetch_whole: Callable[[object, int, int], Awaitable[Buffer]] | None = (
            None if wrappers else get("fetch_whole")
        )
        self.list_directory: Callable[[object, str], Awaitable[Sequence[DirectoryEntry]]] = _listing(
            self.name, get("list_directory", no("listing"))
        )
        self.put_file: Callable[..., Awaitable[object]] = get("put_file", no("writing files"))
        self.store: Callable[[object, int, memoryview], Awaitable[object]] = get(
            "store", no("writing in place")
        )
        self.truncate: Callable[[object, int], Awaitable[object]] = get("truncate", no("truncating"))
        self.rename: Callable[[object, str, str], Awaitable[None]] = get("rename", no("renaming"))
        self.unlink: Callable[[object, str], Awaitable[None]] = get("unlink", no("removing files"))
        self.mkdir: Callable[[object, str, int], Awaitable[None]] = get("mkdir", no("making directories"))
        self.rmdir: Callable[[object, str], Awaitable[None]] = get("rmdir", no("removing directories"))
        self.symlink: Callable[[object, str, str], Awaitable[None]] = get("symlink", no("symbolic links"))
        self.chmod: Callable[[object, str, int], Awaitable[None]] = get("chmod", no("changing modes"))
        self.utimens: Callable[[object, str, int, int], Awaitable[None]] = get("utimens", no("setting times"))

    async def call(
        self, hook: str, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call an async hook so that whatever it raises is an `FscacheError`; for a bug, `PluginError`."""
        try:
            return await function(*args, **kwargs)
        except FscacheError:
            raise
        except BaseException as error:
            if passes_through(error):
                raise
            raise PluginError.raised("netfs", self.name, hook, error) from error

    def _check_aux(self, netfs_data: object, aux: bytes, object_size: int) -> AuxOutcome:
        if aux == self.get_aux(netfs_data) and object_size == self.get_attr(netfs_data).size:
            return AuxOutcome.OKAY
        return AuxOutcome.OBSOLETE


def _answering(
    name: str,
    get: Callable[[str, Callable[..., Any] | None], Any],
    hook: str,
    fault_of: Callable[[object], str],
    default: Callable[..., Any] | None = None,
) -> Any:
    """A hook that is not async and must answer, so that whatever it does wrong is a `PluginError`.

    ``fault_of`` says what is wrong with an answer; nothing if it is empty.
    """
    function = get(hook, default)

    @functools.wraps(function)
    def answer(*args: Any) -> Any:
        try:
            answered = function(*args)
        except FscacheError:
            raise
        except BaseException as error:
            if passes_through(error):
                raise
            raise PluginError.raised("netfs", name, hook, error) from error
        if fault := fault_of(answered):
            raise PluginError(f"netfs {name}: {hook} returned {fault}", plugin=name)
        return answered

    return answer


def _listing(
    name: str, function: Callable[[object, str], Awaitable[object]]
) -> Callable[[object, str], Awaitable[Sequence[DirectoryEntry]]]:
    @functools.wraps(function)
    async def list_directory(volume: object, path: str) -> Sequence[DirectoryEntry]:
        answer = await function(volume, path)
        if not isinstance(answer, list | tuple):
            raise PluginError(f"netfs {name}: list_directory returned {answer!r}, not a list", plugin=name)
        for entry in answer:
            if not isinstance(entry, DirectoryEntry):
                message = f"netfs {name}: list_directory returned {entry!r}, not a DirectoryEntry"
                raise PluginError(message, plugin=name)
        return answer

    return list_directory


def _none(_answer: object) -> str:
    return ""


def _key_fault(answer: object) -> str:
    if not isinstance(answer, bytes):
        return f"{answer!r}, not bytes"
    fits = 1 <= len(answer) <= MAX_KEY_SIZE
    return "" if fits else f"a key of {len(answer)} bytes; 1 to {MAX_KEY_SIZE} are allowed"


def _aux_fault(answer: object) -> str:
    if not isinstance(answer, bytes):
        return f"{answer!r}, not bytes"
    fits = len(answer) <= MAX_NETFS_AUX_SIZE
    return "" if fits else f"{len(answer)} bytes of aux data; at most {MAX_NETFS_AUX_SIZE} are allowed"


def _attributes_fault(answer: object) -> str:
    if not isinstance(answer, FileAttributes):
        return f"{answer!r}, not a FileAttributes"
    fits = isinstance(answer.size, int) and answer.size >= 0
    return "" if fits else f"a size of {answer.size!r}, not a number of bytes"


def _location_fault(answer: object) -> str:
    return "" if isinstance(answer, Location) else f"{answer!r}, not a Location"


def _unsupported(name: str, what: str) -> Callable[..., Awaitable[Any]]:
    async def refuse(*_args: object) -> object:
        raise UnsupportedError(f"netfs {name} does not offer {what}")

    return refuse
