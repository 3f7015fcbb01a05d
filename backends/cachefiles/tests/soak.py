"""Everything that tries to break a cache, in a long form: ``make soak``.

    python soak.py [--minutes 30] [--seed 1] [--directory DIRECTORY] [PART ...]

Parts: ``kills`` (processes killed at random), ``crash-points`` (every system call of every scenario: killed,
torn, EIO, ENOSPC, EMFILE; on every filesystem), ``crash-points-without-tmpfile`` (the same where there are no
files without a name), ``damage`` (every damage to every file, on every filesystem), ``power-loss`` (snapshots
under load, on ext4, xfs and btrfs), ``changing-origin`` (8 processes, 4 tasks each, on every filesystem).
Crash points and damage are always all of them; the others grow with ``--minutes``.  Prints what each did and
found, and the sums; exit status 1 if anything was wrong.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]

from fscache_core.testing.filesystems import FILESYSTEM_KINDS, why_unavailable

HERE = Path(__file__).parent


def available(kinds: tuple[str, ...]) -> list[str]:
    """Those that can be mounted here; says why of the others."""
    found = []
    for kind in kinds:
        if (why := why_unavailable(kind)) is None:  # type: ignore[arg-type]
            found.append(kind)
        else:
            print(f"{kind}: skipped, {why}")
    return found


def commands(minutes: float, seed: int) -> dict[str, list[str]]:
    kinds = available(FILESYSTEM_KINDS)
    disks = [kind for kind in kinds if kind != "tmpfs"] if "xfs" in kinds else []
    parts = {
        "kills": ["kills.py", "--kills", str(max(50, round(50 * minutes))), "--seed", str(seed)],
        "crash-points": ["crash_points.py"],
        "crash-points-without-tmpfile": ["crash_points.py", "--without-tmpfile"],
        "changing-origin": ["changing_origin.py", "--seconds", str(4 * minutes), "--seed", str(seed)],
    }
    if kinds:
        parts["changing-origin"] += ["--kind", *kinds]
        parts["crash-points"] += ["--kind", *kinds]
        parts["damage"] = ["damage.py", "--kind", *kinds]
    if disks:
        snapshots = max(2, round(3 * minutes))
        parts["power-loss"] = ["power_loss.py", *disks, "--snapshots", str(snapshots), "--seed", str(seed)]
    return parts


def run(script: str, *arguments: str) -> dict[str, int]:
    """What one part found.  What it complains of goes to our standard error."""
    command = [sys.executable, str(HERE / script), *arguments, "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    try:
        found: dict[str, int] = json.loads(done.stdout)
    except ValueError:
        print(done.stdout)
        return {"parts that failed": 1}
    if done.returncode and findings.is_sound(found):
        found["parts that failed"] = 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="about so long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the caches are put")
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_args()
    parts = commands(arguments.minutes, arguments.seed)
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part, or not possible here: {', '.join(sorted(unknown))}")
    total: Counter[str] = Counter(dict.fromkeys(("reads checked", "kills", *findings.FAULTS), 0))
    for part in arguments.parts or parts:
        directory = ["--directory", str(arguments.directory)] if arguments.directory else []
        started = time.monotonic()
        found = run(*parts[part], *directory)
        print(f"\n{part}: {time.monotonic() - started:.0f} s")
        findings.report(found, as_json=False)
        sys.stdout.flush()
        total.update(found)
    print("\nall")
    status = findings.report(total, as_json=False)
    return int(status or bool(total["parts that failed"]))


if __name__ == "__main__":
    sys.exit(main())
