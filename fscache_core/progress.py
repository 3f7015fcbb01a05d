"""How far a long transfer is: a bar on a terminal, nothing elsewhere.

The total grows while directories are still being listed, so a bar is honest about what is known.
``rich`` is imported only when a bar is shown.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID


class Meter:
    """Counts what is known and what is done.  Used from one thread."""

    def __init__(self) -> None:
        self.n_files = 0
        self.n_files_done = 0
        self.n_bytes = 0
        self.n_bytes_done = 0

    def expect(self, n_bytes: int) -> None:
        """One more file, of ``n_bytes``."""
        self.n_files += 1
        self.n_bytes += n_bytes
        self.show()

    def advance(self, n_bytes: int) -> None:
        self.n_bytes_done += n_bytes
        self.show()

    def finish_file(self) -> None:
        self.n_files_done += 1
        self.show()

    def show(self) -> None:
        """Nothing: who runs without a terminal wants no bar."""


class BarMeter(Meter):
    """A `Meter` drawn by rich."""

    def __init__(self, progress: Progress, title: str) -> None:
        super().__init__()
        self._progress = progress
        self._task: TaskID = progress.add_task(title, total=None, files="")

    def show(self) -> None:
        files = f"{self.n_files_done}/{self.n_files} files" if self.n_files > 1 else ""
        self._progress.update(self._task, completed=self.n_bytes_done, total=self.n_bytes, files=files)


@contextmanager
def meter(title: str, *, shown: bool | None = None) -> Iterator[Meter]:
    """A meter for the time of a transfer, drawn on standard error.

    Args:
      shown: whether to draw; None: if standard error is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield Meter()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[files]}"),
        console=Console(stderr=True),
    )
    with progress:
        yield BarMeter(progress, title)


@contextmanager
def counter(title: str, *, shown: bool | None = None) -> Iterator[Callable[[int, int], None]]:
    """A function to call with ``(done, total)``, drawn as `meter` is."""
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
