"""What the ``fscache`` command is to use: the configuration file, and the texts of its options.

The file is TOML, by default ``$XDG_CONFIG_HOME/fscache/config.toml``; all of it is optional::

    coherency = "ttl=60"                # always (default) | ttl=SECONDS | immutable
    stale_if_error = true               # serve what is cached if the origin cannot be asked
    negative_ttl = 10                   # seconds for which "no such file" is remembered
    offline = false                     # true: never contact an origin

    [cache]                             # or several: [[cache]]
    backend = "cachefiles"
    dir = "/var/cache/fscache"          # every other key is an option of the backend
    max_bytes = "10GiB"

    [netfs.s3]                          # options of a netfs adapter
    endpoint = "https://s3.example.org"

    [volume."s3://bucket"]              # the same four keys for one volume; what is not given is as above
    coherency = "immutable"

On the command line the same cache is ``cachefiles:dir=/var/cache/fscache,max_bytes=10GiB``.  See
`parse_cache` for how such a text is read.  What core reads here it checks; options are checked by
the plugin they are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fscache_core.coherency import Coherency
from fscache_core.errors import CacheUnusableError, CallerError
from fscache_core.option import size_of

_NO_HOME = "there is no home directory ($HOME)"

_COHERENCY_KEYS = ("coherency", "negative_ttl", "offline", "stale_if_error")
_TOP_KEYS = ("cache", *_COHERENCY_KEYS, "netfs", "volume")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """One cache to add: ``fscache.add_cache(backend, tag=tag, **options)``."""

    backend: str
    options: Mapping[str, object] = field(default_factory=dict)
    tag: str | None = None

    def __str__(self) -> str:
        """The text that `parse_cache` reads, as far as it has one."""
        texts = {
            name: str(value).lower() if isinstance(value, bool) else str(value).replace(",", "\\,")
            for name, value in self.options.items()
        }
        parts = [f"{name}={text}" for name, text in texts.items()]
        if self.tag is not None:
            parts.insert(0, f"tag={self.tag}")
        return ":".join([self.backend, ",".join(parts)] if parts else [self.backend])


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything a configuration file can say."""

    caches: tuple[CacheSettings, ...] = ()  #: none: the built-in default, see `default_cache`
    netfs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    coherency: Coherency = field(default_factory=Coherency)
    volumes: Mapping[str, Coherency] = field(default_factory=dict)  #: by URL of the volume


# -- where things are by default ---------------------------------------------------------


def home_directory() -> Path | None:
    """The user's, if it is there: one that is not is not for us to make."""
    given = os.environ.get("HOME")
    if given == "":  # as good as none; expanduser() would take it for the root directory
        import pwd

        given = pwd.getpwuid(os.getuid()).pw_dir
    try:
        home = Path(given) if given is not None else Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() and home.is_dir() else None


def _xdg_directory(variable: str, fallback: str) -> Path | None:
    """A base directory; a relative one in the variable is ignored, as the XDG specification demands."""
    given = os.environ.get(variable, "")
    if os.path.isabs(given):
        return Path(given)
    home = home_directory()
    return None if home is None else home / fallback


def default_config_file() -> Path | None:
    directory = _xdg_directory("XDG_CONFIG_HOME", ".config")
    return None if directory is None else directory / "fscache" / "config.toml"


def default_cache() -> CacheSettings:
    """The cache of somebody who has configured nothing: cachefiles below ``$XDG_CACHE_HOME/fscache``.

    Raises:
      CacheUnusableError: there is no home directory.
    """
    directory = _xdg_directory("XDG_CACHE_HOME", ".cache")
    if directory is None:
        raise CacheUnusableError(f"{_NO_HOME}; --cache names another place")
    return CacheSettings("cachefiles", {"dir": str(directory / "fscache")})


# -- texts of options --------------------------------------------------------------------


def option_value(text: str) -> object:
    """Read one option value as a person writes it.

    ``true`` and ``false`` are booleans, ``12`` and ``0.5`` numbers, ``10GiB`` (also ``10G``, ``10GB``; K, M,
    G, T; always powers of 1024) is a number of bytes, ``~/cache`` is below the home directory, and all else
    is text.
    """
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d+", text, re.ASCII):
        return float(text)
    return _expanded(text)


def _expanded(text: str) -> object:
    """What a text stands for in TOML, too, where numbers and booleans have a type of their own."""
    if (size := size_of(text)) is not None:
        return size
    if text == "~" or text.startswith("~/"):
        home = home_directory()
        if home is None:
            raise CallerError(f"{text}: {_NO_HOME}")
        return str(home / text[2:])
    return text


def parse_cache(text: str) -> CacheSettings:
    r"""Read ``BACKEND[:option=value,...]``.

    The first ``:`` ends the name of the backend, a ``,`` ends an option, and the first ``=`` of an
    option ends its name; in a value, ``:`` and ``=`` are ordinary characters.  A backslash takes the
    character after it as it is, so ``\,`` is a comma and ``\\`` a backslash; a value with a backslash in
    it is always text, so ``dir=\2024`` is the directory ``2024``.  Other values are read by
    `option_value`.  The option ``tag`` is core's: the tag of the cache.

    Raises:
      CallerError: the text has no such form, or names an option twice.
    """
    backend, options = _plugin(text)
    tag = options.pop("tag", None)
    return CacheSettings(backend, options, None if tag is None else str(tag))


def parse_netfs(text: str) -> tuple[str, dict[str, object]]:
    """Read ``NAME[:option=value,...]``, as `parse_cache` does, but ``tag`` is nothing special.

    Raises:
      CallerError: as `parse_cache`.
    """
    return _plugin(text)


def merge_netfs(given: Iterable[tuple[str, Mapping[str, object]]]) -> dict[str, dict[str, object]]:
    """The options of each adapter, of everything that was given for it.

    Raises:
      CallerError: one option is given twice.
    """
    merged: dict[str, dict[str, object]] = {}
    for name, options in given:
        of_name = merged.setdefault(name, {})
        if twice := sorted(of_name.keys() & options.keys()):
            raise CallerError(f"netfs {name}: option {twice[0]} is given twice")
        of_name.update(options)
    return merged


def _plugin(text: str) -> tuple[str, dict[str, object]]:
    """Name and options of a plugin."""
    plugin, colon, rest = text.partition(":")
    if not plugin:
        raise CallerError(f"{text!r}: no name of a plugin; expected NAME[:option=value,...]")
    options: dict[str, object] = {}
    for part, escaped in _split_options(text, rest) if colon else ():
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise CallerError(f"{text!r}: {part!r} is not option=value (a comma in a value is \\,)")
        if name in options:
            raise CallerError(f"{text!r}: option {name} is given twice")
        options[name] = value if escaped else option_value(value)
    return plugin, options


def _split_options(text: str, rest: str) -> list[tuple[str, bool]]:
    """Split at commas; of each option its text without escapes, and whether it had any."""
    parts: list[tuple[str, bool]] = []
    option, escaped = "", False
    characters = iter(rest)
    for character in characters:
        if character == "\\":
            following = next(characters, None)
            if following is None:
                raise CallerError(f"{text!r}: ends within an escape (a backslash is \\\\)")
            option, escaped = option + following, True
        elif character == ",":
            parts.append((option, escaped))
            option, escaped = "", False
        else:
            option += character
    return [*parts, (option, escaped)]


# -- the file ----------------------------------------------------------------------------


def read_configuration(path: Path | None = None) -> Configuration:
    """Read a configuration file: the one at ``path``, or the default one if there is one.

    Raises:
      CallerError: it cannot be read, is not TOML, or holds an unknown key or a value of the
          wrong kind; names the file and the key.
    """
    file = default_config_file() if path is None else path
    if file is None:
        return Configuration()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if path is None:
            return Configuration()
        raise CallerError(f"{file}: {error.strerror}") from error
    except OSError as error:
        raise CallerError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CallerError(f"{file}: not TOML: {error}") from error
    import tomllib  # here: most people have no such file, and importing it costs a part of a cached read

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CallerError(f"{file}: not TOML: {error}") from error
    try:
        return _configuration(table)
    except CallerError as error:
        raise CallerError(f"{file}: {error}") from error


def _configuration(table: Mapping[str, object]) -> Configuration:
    _refuse_unknown(table, _TOP_KEYS, "")
    coherency = _coherency(table, "")
    netfs = _table(table.get("netfs", {}), "netfs")
    volumes: dict[str, Coherency] = {}
    for url, settings in _table(table.get("volume", {}), "volume").items():
        name = f'volume."{url}"'
        if "://" not in url:
            raise CallerError(
                f"[{name}]: not a URL; 'fscache stat' shows what the volume of a file is called"
            )
        volume = _table(settings, name)
        _refuse_unknown(volume, _COHERENCY_KEYS, name)
        inherited = {key: table[key] for key in _COHERENCY_KEYS if key in table}
        volumes[url] = _coherency({**inherited, **volume}, name)
    return Configuration(
        caches=tuple(_cache(cache, name) for cache, name in _cache_tables(table.get("cache", []))),
        netfs={name: _options(_table(options, f"netfs.{name}")) for name, options in netfs.items()},
        coherency=coherency,
        volumes=volumes,
    )


def _cache_tables(value: object) -> list[tuple[object, str]]:
    if isinstance(value, list):
        return [(cache, f"cache[{index}]") for index, cache in enumerate(value)]
    return [(value, "cache")]


def _cache(value: object, name: str) -> CacheSettings:
    options = _options(_table(value, name))
    backend, tag = options.pop("backend", None), options.pop("tag", None)
    if not isinstance(backend, str):
        raise CallerError(f"[{name}] needs backend = \"NAME\"; 'fscache plugins' lists what is installed")
    if tag is not None and not isinstance(tag, str):
        raise CallerError(f"[{name}] tag: expected a text")
    return CacheSettings(backend, options, tag)


def _options(table: Mapping[str, object]) -> dict[str, object]:
    return {key: _expanded(value) if isinstance(value, str) else value for key, value in table.items()}


def _coherency(table: Mapping[str, object], name: str) -> Coherency:
    text, seconds = table.get("coherency", "always"), table.get("negative_ttl", 0)
    if not isinstance(text, str):
        raise CallerError(f"{_place(name)}coherency: expected a text: always, ttl=SECONDS or immutable")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise CallerError(f"{_place(name)}negative_ttl: expected a number of seconds")
    try:
        return Coherency.parse(
            text,
            stale_if_error=_flag(table, "stale_if_error", name),
            offline=_flag(table, "offline", name),
            negative_ttl_seconds=seconds,
        )
    except CallerError as error:
        raise CallerError(f"{_place(name)}{error}") from error


def _flag(table: Mapping[str, object], key: str, name: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise CallerError(f"{_place(name)}{key}: expected true or false")
    return value


def _table(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise CallerError(f"{name}: expected a table, [{name}]")
    return value


def _refuse_unknown(table: Mapping[str, object], known: tuple[str, ...], name: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise CallerError(f"{_place(name)}unknown key {', '.join(unknown)}; known: {', '.join(known)}")


def _place(name: str) -> str:
    return f"[{name}] " if name else ""
