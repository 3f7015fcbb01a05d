"""What a long test did and what it found, as rows for people or one JSON object for `soak`."""

import argparse
import json
import sys
from collections.abc import Mapping

#: Rows that must be 0.
FAULTS = ("wrong bytes", "exceptions", "caches not usable")


def is_sound(found: Mapping[str, int]) -> bool:
    return not any(found.get(name, 0) for name in FAULTS)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def report(found: Mapping[str, int], *, as_json: bool, complaints: str = "") -> int:
    """Print it; the exit status."""
    if as_json:
        print(json.dumps(found))
    else:
        for name, count in found.items():
            print(f"{name:28} {count}")
    if complaints:
        print(complaints, file=sys.stderr)
    return int(not is_sound(found))
