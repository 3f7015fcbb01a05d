"""Starts the ``fscache`` command: what must be in order before its imports, which take their time."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    _occupy_standard_error()
    # A KeyboardInterrupt in the middle of an import would be a traceback, or another error made of it.
    at_interrupt = signal.getsignal(signal.SIGINT)
    if at_interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    # What imports make is there to stay: to search it for garbage again and again, the last time at Python's
    # exit, is a fifth of the time of a short command.
    gc.disable()
    from fscache_core.cli import main as run

    gc.freeze()
    gc.enable()
    try:
        signal.signal(signal.SIGINT, at_interrupt)
        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    finally:
        if at_interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a KeyboardInterrupt at Python's exit would be told


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


def _occupy_standard_error() -> None:
    """Where it is closed, complaints go nowhere, and not into a file that is opened in its place."""
    if sys.stderr is not None:
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 2:
        pass
    sys.stderr = open(descriptor, "w")  # noqa: SIM115 (it stays open)


if __name__ == "__main__":
    main()
