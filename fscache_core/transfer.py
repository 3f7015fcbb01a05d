"""Bytes from cached files to a descriptor or into local files: what ``fscache cat`` and ``cp`` do.

A file of the destination appears whole or not at all: it is written under a temporary name beside
its final one and renamed when all of it is there.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError, FscacheError, OriginError
from fscache_core.hookspecs import FileAttributes, FileKind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fscache_core.file import File
    from fscache_core.progress import Meter
    from fscache_core.volume import Volume

#: Bytes per piece: small enough that a slow origin's bytes are passed on soon, large enough that a thread
#: per write does not matter when they come fast.
SMALLEST_PIECE, LARGEST_PIECE = 1 << 14, 1 << 20


#: Volumes whose paths are those of local files (RFC 8089).
LOCAL_VOLUMES = ("file://", "localdir://")


class OutputError(FscacheError):
    """The destination could not be written: names it and the cause."""


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


async def send(
    file: File, descriptor: int, name: str, advance: Callable[[int], None], *, abandon_on_cancel: bool = False
) -> None:
    """Write a whole file to a descriptor, each piece as soon as it is there.

    Args:
      name: what to call the descriptor if it cannot be written.
      abandon_on_cancel: leave a write that blocks (a pipe nobody reads) to its thread, so that Ctrl-C ends
        the program.  Only for a descriptor that is not closed afterwards.

    Raises:
      BrokenPipeError: nobody reads the descriptor any more.
      OutputError: it could not be written for another reason.
      FscacheError: from reading.
    """
    offset, size = 0, 4 * SMALLEST_PIECE
    buffer = memoryview(bytearray(min(LARGEST_PIECE, file.size)))
    while True:
        started = trio.current_time()
        n = await file.readinto(offset, buffer[:size])
        seconds = trio.current_time() - started
        if not n:
            return
        try:
            await trio.to_thread.run_sync(
                _write_all, descriptor, buffer[:n], abandon_on_cancel=abandon_on_cancel
            )
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{name}: {error.strerror}", errno=error.errno) from error
        offset += n
        advance(n)
        if seconds < 0.01:
            size = min(2 * size, LARGEST_PIECE)
        elif seconds > 0.1:
            size = max(size // 2, SMALLEST_PIECE)


# -- local files -------------------------------------------------------------------------


class _PartFile:
    """A file being made: ``path`` gets its content and name at `publish`.  Blocking."""

    def __init__(self, path: Path) -> None:
        # Through a symbolic link to what it names, as cp does; the link stays.
        self._path = Path(os.path.realpath(path))
        self._part: Path | None = None
        if _is_special(self._path):
            # A device or pipe is written to; renaming a file over /dev/null would be a disaster.
            self.descriptor = os.open(self._path, os.O_WRONLY)
            return
        # A short name of its own: the final one may be as long as a name can be.
        self._part = self._path.parent / f".fscache-{os.urandom(8).hex()}.part"
        self.descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def publish(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)
        if self._part is not None:
            os.replace(self._part, self._path)

    def discard(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if self._part is not None:
            os.unlink(self._part)


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return not stat.S_ISREG(mode)


async def copy(file: File, destination: Path, advance: Callable[[int], None]) -> None:
    """Write a whole file to ``destination``, which appears or is replaced when all of it is there.

    Raises:
      OutputError: the destination cannot be written; what was there is still there.
      FscacheError: from reading; likewise.
    """
    try:
        part = await trio.to_thread.run_sync(_PartFile, destination)
    except OSError as error:
        raise OutputError(f"{destination}: {error.strerror}", errno=error.errno) from error
    try:
        await send(file, part.descriptor, str(destination), advance)
        await trio.to_thread.run_sync(part.publish)
    except BaseException as error:
        part.discard()
        if isinstance(error, OSError) and not isinstance(error, FscacheError):
            raise OutputError(f"{destination}: {error.strerror}", errno=error.errno) from error
        raise


# -- trees -------------------------------------------------------------------------------


def join(path: str, name: str) -> str:
    """The path of an entry of a directory."""
    return f"{path}{name}" if path.endswith("/") or not path else f"{path}/{name}"


@dataclass(frozen=True, slots=True)
class Found:
    """One entry met while walking a tree."""

    path: str  #: in the volume
    parts: tuple[str, ...]  #: names from the top of the tree to the entry
    attributes: FileAttributes


async def walk(
    volume: Volume, path: str, report: Callable[[FscacheError], None], *, local: bool
) -> AsyncGenerator[Found, None]:
    """Yield everything below a directory, a directory before what is in it.

    A symbolic link to a file counts as that file.  One to a directory is reported and not followed: it may
    lead round in a circle.  What cannot be listed is reported as well, and the walk goes on.

    Args:
      local: whether local files are to have these names.  What has no place in a local tree is reported then.
    """
    # Of each directory on the way down, what of it is still to come.  A generator within a generator for each
    # would be resumed through all of them, and there are trees deeper than Python's stack.
    levels = [_list(volume, path, (), report, local=local)]
    try:
        while levels:
            found = await anext(levels[-1], None)
            if found is None:
                levels.pop()
                continue
            yield found
            if found.attributes.kind is FileKind.DIRECTORY:
                levels.append(_list(volume, found.path, found.parts, report, local=local))
    finally:
        while levels:
            await levels.pop().aclose()


async def _list(
    volume: Volume,
    path: str,
    parts: tuple[str, ...],
    report: Callable[[FscacheError], None],
    *,
    local: bool,
) -> AsyncGenerator[Found, None]:
    """One directory's share of a `walk`."""
    try:
        entries = await volume.list_directory(path)
    except FscacheError as error:
        report(error)
        return
    for entry in entries:
        below = join(path, entry.name)
        attributes = entry.attributes
        unfit = None
        if local and (entry.name == "" or "/" in entry.name or "\0" in entry.name):
            # An object store may list such names, and one of them could lead out of the destination.
            unfit = f"{entry.name!r} is not a name a local file can have"
        elif (entry.name == "" and attributes.kind is FileKind.DIRECTORY) or not {".", ".."}.isdisjoint(
            entry.name.split("/")
        ):
            unfit = f"{entry.name!r} names nothing in that directory"
        elif attributes.kind is FileKind.SYMLINK:
            try:
                attributes = await volume.look_up(below)
            except FscacheError as error:
                report(error)
                continue
            if attributes.kind is FileKind.DIRECTORY:
                unfit = "a symbolic link to a directory"
        if unfit is None and attributes.kind is FileKind.OTHER:
            unfit = "neither a file nor a directory"
        if unfit is None:
            yield Found(below, (*parts, entry.name), attributes)
        else:
            report(OriginError(f"{volume.named(below)}: skipped: {unfit}"))


async def copy_tree(
    volume: Volume,
    path: str,
    destination: Path,
    meter: Meter,
    report: Callable[[FscacheError], None],
    n_tasks: int = 8,
) -> None:
    """Copy a directory with everything below it, ``n_tasks`` files at a time.

    What fails is reported, and the rest is copied.
    """
    send_found, receive_found = trio.open_memory_channel[Found](n_tasks)

    async def copy_files() -> None:
        async for found in receive_found:
            try:
                async with await volume.open_file(found.path) as file:
                    await copy(file, destination.joinpath(*found.parts), meter.advance)
            except FscacheError as error:
                report(error)
            else:
                meter.finish_file()

    await make_directory(destination)
    async with trio.open_nursery() as nursery, send_found:
        for _ in range(n_tasks):
            nursery.start_soon(copy_files)
        async with aclosing(walk(volume, path, report, local=True)) as tree:
            async for found in tree:
                if found.attributes.kind is FileKind.DIRECTORY:
                    try:
                        await make_directory(destination.joinpath(*found.parts))
                    except OutputError as error:
                        report(error)
                else:
                    meter.expect(found.attributes.size)
                    await send_found.send(found)


async def copy_any(
    volume: Volume,
    path: str,
    destination: Path,
    meter: Meter,
    report: Callable[[FscacheError], None],
    *,
    recursive: bool,
) -> None:
    """Copy a file, or if ``recursive``, a directory as `copy_tree` does.

    Raises:
      CallerError: a directory, and not ``recursive``; or a copy of something into itself.
      OutputError, FscacheError: as `copy`.
    """
    if volume.location.volume in LOCAL_VOLUMES:
        await trio.to_thread.run_sync(_refuse_itself, path, destination)
    try:
        file = await volume.open_file(path)  # which asks what it is: one look-up is enough
    except CallerError as error:
        if error.errno != errno.EISDIR:
            raise
        if not recursive:
            message = f"{volume.named(path)} is a directory; copy it with -r"
            raise CallerError(message, errno=errno.EISDIR) from error
        await copy_tree(volume, path, destination, meter, report)
        return
    meter.expect(file.size)
    async with file:
        await copy(file, destination, meter.advance)
    meter.finish_file()


def _refuse_itself(path: str, destination: Path) -> None:
    """Refuse a copy that would replace what it reads, or find what it has made in what it copies."""
    source, target = os.path.realpath(path), os.path.realpath(destination)
    if source == target and os.path.isfile(source):
        raise CallerError(f"{destination} and {path} are the same file")
    if os.path.commonpath([source, target]) == source:
        raise CallerError(f"cannot copy the directory {path} into itself, {destination}")


async def make_directory(path: Path) -> None:
    """Make a directory unless it is there.

    Raises:
      OutputError: it cannot be made, or something else has its name.
    """
    try:
        await trio.Path(path).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", errno=error.errno) from error
