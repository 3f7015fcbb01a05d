"""Every damage to every file, directory and attribute of a cache, on filesystems of these kinds.

    python damage.py --kind KIND... [--only EXPRESSION] [--directory DIRECTORY]

Runs `test_damage` and `test_damage_everywhere` with their caches there.  Prints how many of these tests
passed; exit status 1 if one did not, with what pytest says on standard error.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]

from fscache_core.testing.filesystems import FILESYSTEM_KINDS, loop_mount

HERE = Path(__file__).parent
TESTS = ("test_damage.py", "test_damage_everywhere.py")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", choices=FILESYSTEM_KINDS, required=True)
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="which tests (pytest -k)")
    parser.add_argument("--directory", type=Path)
    findings.add_json_option(parser)
    arguments = parser.parse_args()
    found = Counter(dict.fromkeys(("damage tests", *findings.FAULTS), 0))
    complaints = ""
    for kind in arguments.kind:
        with (
            tempfile.TemporaryDirectory(dir=arguments.directory) as scratch,
            loop_mount(kind, 512 << 20, Path(scratch)) as mount,
        ):
            command = [sys.executable, "-m", "pytest", "-q", "-k", arguments.only]
            command += ["--basetemp", str(mount.path / "tests"), *(str(HERE / test) for test in TESTS)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        passed = re.search(r"(\d+) passed", done.stdout)
        found["damage tests"] += int(passed[1]) if passed else 0
        if done.returncode:
            found["exceptions"] += 1
            complaints += f"{kind}:\n{done.stdout}\n{done.stderr}\n"
    return int(findings.report(found, as_json=arguments.json, complaints=complaints))


if __name__ == "__main__":
    sys.exit(main())
