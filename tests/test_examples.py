"""Every program in examples does what it says, on real servers."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fscache_core.testing.s3_server import S3Server
    from fscache_core.testing.sftp_server import SftpServer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(program: str | Path, *arguments: str | Path, **environment: str) -> str:
    """Standard output of a program that must succeed in silence."""
    command = [sys.executable, program, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=500
    )
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def local_file(tmp_path: Path) -> Path:
    file = tmp_path / "local.bin"
    file.write_bytes(os.urandom(300_000))
    os.utime(file, (1_600_000_000, 1_600_000_000))
    return file


def test_every_example_is_tested_here() -> None:
    here = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        if not path.name.startswith(("_", ".")):
            assert f'"{path.name}"' in here, path


def test_a_first_cache_fetches_a_file_once(local_file: Path, tmp_path: Path) -> None:
    program = EXAMPLES / "first_cache.py"
    arguments = (local_file.as_uri(), tmp_path / "cache")
    assert run(program, *arguments).splitlines() == [
        "first time: 300000 bytes; so far 300000 came from file://",
        "second time: 300000 bytes; so far 300000 came from file://",
    ]
    assert "so far 0 came from" in run(program, *arguments)


def test_swapping_the_backend_takes_one_word(local_file: Path, tmp_path: Path) -> None:
    program, url = EXAMPLES / "swap_backend.py", local_file.as_uri()
    assert run(program, url, "memory") == "memory: read 300000 bytes twice, fetched 300000\n"
    cachefiles = (url, "cachefiles", f"dir={tmp_path / 'cache'}")
    assert run(program, *cachefiles) == "cachefiles: read 300000 bytes twice, fetched 300000\n"
    assert run(program, *cachefiles) == "cachefiles: read 300000 bytes twice, fetched 0\n"


@pytest.mark.parametrize("name", ["first_cache", "swap_backend", "sshfs_and_s3"])
def test_an_example_says_how_it_is_used_and_what_it_cannot_read(name: str, tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/{name}.py" in done.stderr
    url, cache = (tmp_path / "missing").as_uri(), str(tmp_path / "cache")
    arguments = {"first_cache": [url, cache], "swap_backend": [url, "memory"], "sshfs_and_s3": [cache, url]}
    done = subprocess.run([*program, *arguments[name]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "missing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nosuch"], "no backend is called 'nosuch'"), (["memory", "colour"], "'colour' is not option=value")],
)
def test_swapping_to_a_backend_that_cannot_be_is_one_line(
    arguments: list[str], message: str, local_file: Path
) -> None:
    command = [sys.executable, str(EXAMPLES / "swap_backend.py"), local_file.as_uri(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


@pytest.mark.integration
def test_sshfs_and_s3_share_one_cache(fscache_sftp: SftpServer, fscache_s3: S3Server, tmp_path: Path) -> None:
    (fscache_sftp.root / "shared.bin").write_bytes(b"S" * 70_000)
    os.utime(fscache_sftp.root / "shared.bin", (1_600_000_000, 1_600_000_000))
    fscache_s3.create_bucket("fscache-examples")
    fscache_s3.put("fscache-examples", "shared.bin", b"3" * 80_000)
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/config").write_text(
        f"Host *\n  UserKnownHostsFile {fscache_sftp.known_hosts}\n  IdentityFile {fscache_sftp.client_key}\n"
    )
    environment = {
        "HOME": str(home),
        "AWS_ENDPOINT_URL": fscache_s3.endpoint,
        "AWS_REGION": fscache_s3.region,
        "AWS_ACCESS_KEY_ID": fscache_s3.access_key,
        "AWS_SECRET_ACCESS_KEY": fscache_s3.secret_key,
    }
    where = f"sshfs://{fscache_sftp.user}@{fscache_sftp.host}:{fscache_sftp.port}"
    urls = (f"{where}{fscache_sftp.root}/shared.bin", "s3://fscache-examples/shared.bin")
    program, cache = EXAMPLES / "sshfs_and_s3.py", tmp_path / "cache"
    cold = run(program, cache, *urls, **environment)
    assert f"{where}: 70000 bytes from the origin" in cold
    assert "s3://fscache-examples: 80000 bytes from the origin" in cold
    warm = run(program, cache, *urls, **environment)
    assert f"{where}: 0 bytes from the origin" in warm
    assert "s3://fscache-examples: 0 bytes from the origin" in warm


@pytest.mark.integration
def test_the_demonstration_reads_everything_right(tmp_path: Path) -> None:
    output = run(EXAMPLES / "demo.py", "--files", "60", "--large-mib", "5", "--dir", tmp_path)
    rows = re.findall(r"^(cachefiles|memory), ([a-z ]+?)  .* (yes|no) *$", output, re.MULTILINE)
    assert rows == [
        ("cachefiles", "cold", "yes"),
        ("cachefiles", "new process", "yes"),
        ("cachefiles", "servers stopped", "yes"),
        ("memory", "cold", "yes"),
        ("memory", "warm", "yes"),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)
    spec.loader.exec_module(module)
    return module


def test_the_demonstration_notices_a_differing_byte(demo: Any, local_file: Path) -> None:  # noqa: ANN401
    import trio

    url = local_file.as_uri()
    plan = demo.Plan("memory", {}, {}, {url: "0" * 64}, 300_000, ["memory, cold"])
    results = trio.run(demo.read_everything, plan)
    assert demo.complaints(results) == [f"memory, cold: differs: {url}"]


def test_the_demonstration_notices_a_fetch_of_a_warm_run(demo: Any) -> None:  # noqa: ANN401
    cold, warm = (demo.Result(title, 1, 0, 1.0) for title in ("memory, cold", "memory, warm"))
    assert demo.complaints([cold, warm]) == ["memory, warm: fetched 1 bytes; it should fetch none"]


# -- the backend that somebody else wrote ----------------------------------------------------

PACKAGE = EXAMPLES / "third_party_backend"


@pytest.mark.packaging
def test_the_third_party_backend_is_found_by_name_where_it_is_installed(
    local_file: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
        "--root-user-action=ignore",
    ]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(site), str(PACKAGE)]
    subprocess.run(command, check=True, timeout=500)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"HOME": str(tmp_path), "PYTHONPATH": path}
    fscache = ["-c", "from fscache_core.cli import main; main()"]
    cat = ("cat", "--cache", f"sqlite:file={tmp_path / 'c.sqlite'},max_bytes=10MiB")

    def output(*arguments: str) -> bytes:
        return subprocess.run(
            [sys.executable, *fscache, *arguments], env={**os.environ, **environment}, check=True, stdout=-1
        ).stdout

    assert b"\tsqlite\tfscache-sqlite 0.1.0\t" in output("plugins")
    assert output(*cat, local_file.as_uri()) == local_file.read_bytes()
    content = local_file.read_bytes()
    local_file.unlink()
    assert output(*cat, "--offline", local_file.as_uri()) == content


def test_the_third_party_backend_is_short() -> None:
    """Lines of code apart from imports, the SQL, docstrings and comments."""
    source = (PACKAGE / "src/fscache_sqlite/__init__.py").read_text()
    (backend,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    assert backend.end_lineno is not None
    lines = source.splitlines()[backend.lineno - 1 : backend.end_lineno]
    assert len([line for line in lines if line.strip() and not line.strip().startswith(("#", '"""'))]) < 100
