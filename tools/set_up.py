"""Make this checkout ready to run: the virtual environment `.venv`, and the Debian packages the tests use.

    python3 tools/set_up.py [--again]

Runs on any Python (3.11 or newer) and its standard library alone, without a terminal and without input.
`make` calls it before every target, with the Python that `.venv` was made of if no other is named: only
another Python makes `.venv` anew. With nothing to do it takes a fraction of a second.

The Python part must succeed, or the exit status is 1. The Debian part installs what is missing where it may
(as root, or where sudo asks for no password) and otherwise says what is missing and what is skipped for want
of it; it never fails the set-up. What could not be installed is not tried again until the list changes,
`--again` is given, or `make clean` has removed `.venv`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = VENV / "set-up.json"
POLICY = Path("/usr/sbin/policy-rc.d")
# Servers live in /usr/sbin, which is not in every user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class Tool(NamedTuple):
    """A program from a Debian package, and what is skipped without it."""

    program: str
    package: str
    skipped: str


TOOLS = [
    Tool("sshd", "openssh-server", "tests against OpenSSH; the demo uses asyncssh instead"),
    Tool("ssh-keygen", "openssh-client", "tests against OpenSSH; the demo uses asyncssh instead"),
    Tool("ceph-mon", "ceph-mon", "tests against Ceph RGW; the demo uses moto instead"),
    Tool("ceph-osd", "ceph-osd", "tests against Ceph RGW; the demo uses moto instead"),
    Tool("radosgw", "radosgw", "tests against Ceph RGW; the demo uses moto instead"),
    Tool("ceph", "ceph-common", "tests against Ceph RGW; the demo uses moto instead"),
    Tool("nginx", "nginx-light", "tests against nginx"),
    Tool("mkfs.ext4", "e2fsprogs", "tests on an ext4 of their own"),
    Tool("mkfs.xfs", "xfsprogs", "tests on xfs"),
    Tool("mkfs.btrfs", "btrfs-progs", "tests on btrfs"),
]


def say(message: str) -> None:
    print(f"set-up: {message}", file=sys.stderr, flush=True)


# --- Python ----------------------------------------------------------------------------------------------


def packages() -> list[Path]:
    """The directories of every distribution in this checkout, core first."""
    plugins = [*ROOT.glob("backends/*/pyproject.toml"), *ROOT.glob("netfs_adapters/*/pyproject.toml")]
    plugins += ROOT.glob("frontends/*/pyproject.toml")
    return [ROOT, *sorted(pyproject.parent for pyproject in plugins)]


def fingerprint() -> str:
    """Changes when `.venv` must be brought up to date."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for source in [*(package / "pyproject.toml" for package in packages()), CONSTRAINTS, Path(__file__)]:
        digest.update(f"\0{source}\0".encode() + source.read_bytes())
    return digest.hexdigest()


def run(command: Sequence[str]) -> None:
    """Run quietly; raises CalledProcessError, after its output went to stderr, if the command fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr, end="", flush=True)
        raise subprocess.CalledProcessError(done.returncode, list(command))


def make_venv() -> None:
    """Make `.venv` anew if it is missing, broken, or of another Python than this one."""
    probe = [PYTHON, "-c", "import sys, pip; print(sys.version)"]
    with contextlib.suppress(OSError):
        found = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if found.stdout.strip() == sys.version.strip():
            return
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    if importlib.util.find_spec("ensurepip") is not None:
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    else:
        # Debian keeps ensurepip in python3-venv; but its pip can put a pip into an environment without one.
        run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)])
        pip = ["-m", "pip", "--python", PYTHON, "install", "-q", "-c", str(CONSTRAINTS)]
        run([sys.executable, *pip, "pip"])


def install_packages() -> None:
    """Install all packages of this checkout editable, and what they, their tests and `make lint` need."""
    pip = [PYTHON, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    pip += ["install", "-q", "-c", str(CONSTRAINTS)]
    # Building without isolation takes the build tools from here: one download, of the pinned version.
    run([*pip, "pip", "setuptools", "hatchling", "editables"])
    core, *plugins = packages()
    editable = [arg for package in plugins for arg in ("-e", str(package))]
    run([*pip, "--no-build-isolation", "-e", f"{core}[test,lint]", *editable])


# --- Debian ----------------------------------------------------------------------------------------------


def missing_tools() -> list[Tool]:
    return [tool for tool in TOOLS if shutil.which(tool.program, path=SEARCH_PATH) is None]


def missing_packages() -> list[str]:
    return sorted({tool.package for tool in missing_tools()})


def missing_build_packages() -> list[str]:
    """What is missing here to make `.venv`, and to compile pyxattr, which has no wheels for Linux."""
    found: dict[str, bool] = {
        "python3-venv": any(importlib.util.find_spec(module) is not None for module in ("ensurepip", "pip")),
        "gcc": shutil.which("gcc") is not None or shutil.which("cc") is not None,
        "libc6-dev": Path("/usr/include/stdio.h").exists(),
        "python3-dev": Path(sysconfig.get_path("include"), "Python.h").exists(),
    }
    return [package for package, there in found.items() if not there]


def as_root() -> list[str] | None:
    """The prefix that runs a command as root without asking anybody anything, or None."""
    if shutil.which("apt-get", path=SEARCH_PATH) is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return ["sudo", "-n"] if asked.returncode == 0 else None


@contextlib.contextmanager
def no_service_starts(root: Sequence[str]) -> Iterator[None]:
    """Installing a package inside this starts no service. A policy that is already there stays as it is."""
    if POLICY.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix="-policy-rc.d") as policy:
        policy.write("#!/bin/sh\n# Here while fscache's set-up installs packages.\nexit 101\n")
        policy.flush()
        run([*root, "install", "-m", "755", policy.name, str(POLICY)])
    try:
        yield
    finally:
        run([*root, "rm", "-f", str(POLICY)])


def install_debian(names: Sequence[str], root: Sequence[str]) -> None:
    """Install Debian packages; if not all of them can be, then those that can. Raises CalledProcessError."""
    say(f"installing Debian packages: {' '.join(names)}")
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "-oDPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--no-install-recommends"]
    run([*apt, "update"])
    with no_service_starts(root):
        try:
            run([*install, *names])
        except subprocess.CalledProcessError:
            for name in names:
                with contextlib.suppress(subprocess.CalledProcessError):
                    run([*install, name])
    if "openssh-server" in names and shutil.which("sshd", path=SEARCH_PATH) is not None:
        # The tests run an sshd of their own. Nobody asked for one that starts with the machine.
        for disable in (["systemctl", "disable", "ssh.service"], ["update-rc.d", "ssh", "disable"]):
            if shutil.which(disable[0], path=SEARCH_PATH) is not None:
                run([*root, *disable])


def by_hand(names: Sequence[str]) -> str:
    """What to type where the set-up may not install Debian packages, or could not."""
    return f"as root: apt-get install --no-install-recommends {' '.join(names)}"


def say_what_is_skipped() -> None:
    """One line for each kind of test that lacks a program, and one on how to have them all."""
    packages_of: dict[str, list[str]] = {}
    for tool in missing_tools():
        packages_of.setdefault(tool.skipped, []).append(tool.package)
    for skipped, names in packages_of.items():
        say(f"skipped: {skipped} (missing: {' '.join(names)})")
    if packages_of:
        say(f"to install what is missing, {by_hand(missing_packages())}")


def try_debian(names: Sequence[str]) -> None:
    """Install `names` where that may be done without asking; what is still missing then is said elsewhere."""
    root = as_root()
    if not names or root is None:
        return
    try:
        install_debian(names, root)
    except (subprocess.CalledProcessError, OSError) as error:
        say(f"Debian packages: {error}")


# --- Both ------------------------------------------------------------------------------------------------


def read_stamp() -> dict[str, object]:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def set_up(again: bool) -> int:
    stamp = {} if again else read_stamp()
    wanted = fingerprint()
    if stamp.get("python") != wanted:
        try_debian(missing_build_packages())
        try:
            make_venv()
            say("installing this checkout and what it needs, from constraints.txt; it may take minutes")
            install_packages()
        except (subprocess.CalledProcessError, OSError) as error:
            say(f"failed: {error}")
            if lacking := missing_build_packages():
                say(f"what is needed to make {VENV.name} is missing; {by_hand(lacking)}")
            return 1
    given_up = stamp.get("given_up", [])
    if missing_packages() != given_up:
        try_debian(missing_packages())
        given_up = missing_packages()
    say_what_is_skipped()
    STAMP.write_text(json.dumps({"python": wanted, "given_up": given_up}) + "\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    if sys.version_info < OLDEST_PYTHON:
        found = sys.version.split()[0]
        say(f"Python 3.11 or newer is needed, and this is {found}; try make PYTHON=python3.12")
        return 1
    if unknown := set(arguments) - {"--again"}:
        say(f"unknown arguments: {' '.join(sorted(unknown))}")
        return 2
    # Two `make` at once would install into one `.venv`; the second waits and then finds everything done.
    checkout = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(checkout, fcntl.LOCK_EX)
        return set_up(again="--again" in arguments)
    finally:
        os.close(checkout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
