"""Each distribution, from its own wheel, in an environment that knows nothing of the checkout."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(
    pyproject.parent
    for kind in ("backends", "netfs_adapters")
    for pyproject in (ROOT / kind).glob("*/pyproject.toml")
)
PLUGIN_GROUPS = ("fscache.backend", "fscache.netfs", "fscache.wrapper")

pytestmark = [pytest.mark.packaging, pytest.mark.slow]


class Plugin(NamedTuple):
    """A plugin's source directory, the python it is installed for, and a directory outside the checkout."""

    package: Path
    python: Path
    directory: Path


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, run without any trace of this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def project(package: Path) -> dict[str, str]:
    """Name and version of the distribution in this directory."""
    table = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return {"name": table["name"], "version": table["version"]}


def declared_entry_points(package: Path) -> dict[str, dict[str, str]]:
    """The plugin groups in a package's pyproject, read without any build tool."""
    table = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    groups: dict[str, dict[str, str]] = table.get("entry-points", {})
    return {group: names for group, names in groups.items() if group in PLUGIN_GROUPS}


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel of every package of the checkout, and of everything those need at run time.

    Built once: the environments below install from it alone, so that pip asks no index six times over.
    """
    directory = tmp_path_factory.mktemp("wheelhouse")
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    pip += ["--timeout", "60", "--retries", "10"]  # of an index that is as busy as the machine
    wheel = ["wheel", "-q", "--no-build-isolation", "-c", str(ROOT / "constraints.txt")]
    run(*pip, *wheel, "-w", str(directory), str(ROOT), *map(str, PLUGINS), cwd=directory)
    return directory


def wheel_of(package: Path, wheelhouse: Path) -> Path:
    """The one wheel of this package; its file name spells the distribution's name with underscores."""
    about = project(package)
    (wheel,) = wheelhouse.glob(f"{about['name'].replace('-', '_')}-{about['version']}-*.whl")
    return wheel


def clean_environment(directory: Path, *wheels: Path) -> Path:
    """The python of a fresh environment with these wheels and, from beside them, what they need."""
    run(sys.executable, "-m", "venv", "--without-pip", directory / "env", cwd=directory)
    python = directory / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--python", str(python)]
    run(*pip, "install", "-q", "--no-index", "-f", str(wheels[0].parent), *map(str, wheels), cwd=directory)
    return python


FIND = """
import importlib.metadata, json, sys
print(json.dumps({
    group: {point.name: [point.value, point.dist.name] for point in points}
    for group in sys.argv[1:]
    if (points := [p for p in importlib.metadata.entry_points(group=group) if p.dist.name != "fscache-core"])
}))
"""

LOAD = """
import importlib.metadata, sys
for group in sys.argv[1:]:
    for point in importlib.metadata.entry_points(group=group):
        point.load()
        if point.dist.name != "fscache-core":
            print(sys.modules[point.module].__file__)
"""


@pytest.fixture(scope="module", params=PLUGINS, ids=lambda package: package.name)
def plugin(
    request: pytest.FixtureRequest, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory
) -> Plugin:
    """One plugin package, installed with core and nothing else of this checkout."""
    package: Path = request.param
    directory = tmp_path_factory.mktemp(package.name)
    python = clean_environment(directory, wheel_of(ROOT, wheelhouse), wheel_of(package, wheelhouse))
    return Plugin(package, python, directory)


def test_a_plugin_installed_alone_from_its_wheel_is_found_under_its_names(plugin: Plugin) -> None:
    found = json.loads(run(plugin.python, "-I", "-c", FIND, *PLUGIN_GROUPS, cwd=plugin.directory))
    expected = declared_entry_points(plugin.package)
    assert expected
    assert found == {
        group: {name: [value, project(plugin.package)["name"]] for name, value in names.items()}
        for group, names in expected.items()
    }


def test_a_plugin_installed_alone_loads_from_its_wheel(plugin: Plugin) -> None:
    loaded = run(plugin.python, "-I", "-c", LOAD, *PLUGIN_GROUPS, cwd=plugin.directory).splitlines()
    assert len(loaded) == sum(map(len, declared_entry_points(plugin.package).values()))
    assert all(Path(line).is_relative_to(plugin.directory) for line in loaded)


def test_the_command_lists_a_plugin_installed_alone(plugin: Plugin) -> None:
    listed = json.loads(run(plugin.python.parent / "fscache", "plugins", "--json", cwd=plugin.directory))
    foreign = [entry for entry in listed if entry["distribution"] != "fscache-core"]
    assert {(entry["group"], entry["name"]) for entry in foreign} == {
        (group, name) for group, names in declared_entry_points(plugin.package).items() for name in names
    }


def test_core_alone_installs_and_knows_of_no_plugin_but_its_own(wheelhouse: Path, tmp_path: Path) -> None:
    python = clean_environment(tmp_path, wheel_of(ROOT, wheelhouse))
    run(python, "-I", "-c", "import fscache_core, fscache_core.testing", cwd=tmp_path)
    listed = json.loads(run(python.parent / "fscache", "plugins", "--json", cwd=tmp_path))
    assert [(entry["group"], entry["name"]) for entry in listed] == [("fscache.wrapper", "trace")]


@pytest.mark.parametrize("package", [ROOT, *PLUGINS], ids=lambda package: package.name)
def test_a_wheel_holds_one_typed_import_package_and_its_licence(package: Path, wheelhouse: Path) -> None:
    names = zipfile.ZipFile(wheel_of(package, wheelhouse)).namelist()
    tops = {name.partition("/")[0] for name in names}
    (import_package,) = {top for top in tops if not top.endswith(".dist-info")}
    assert f"{import_package}/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".so"))]


def test_every_plugin_accepts_this_core(wheelhouse: Path) -> None:
    """The environments above would not install otherwise; this names the package whose range is wrong."""
    core = project(ROOT)["version"]
    major, minor, _ = core.split(".")
    wanted = f"fscache-core>={major}.{minor},<{major}.{int(minor) + 1}"
    for package in PLUGINS:
        needs = tomllib.loads((package / "pyproject.toml").read_text())["project"]["dependencies"]
        assert wanted in needs, package.name
