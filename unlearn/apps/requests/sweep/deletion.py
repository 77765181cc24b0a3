"""Delete exactly the files that a sweep listed, whatever became of their paths since.

A path may lead elsewhere a moment after it was checked. So folders are opened one within the other,
none of them through a link, files are compared with what the sweep saw by device, inode, size and
SHA-256, and both are named by the open folder from there on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unlearn.errors import OutputError, UnlearnError
from unlearn.provenance.digests import file_digest

__all__ = ["Mark", "Trash", "anchored", "delete_files", "marks_of"]

# where the system has it, a folder that one may pass through and not list can be opened, too
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Mark:
    """What a file was when a sweep saw it.

    Attributes:
        device: number of its file system.
        inode: number within it.
        size: bytes.
        sha256: of its content, 32 bytes.
    """

    device: int
    inode: int
    size: int
    sha256: bytes


def marks_of(files: Iterable[Path]) -> dict[Path, Mark]:
    """Return what files are; those that are no regular files, or cannot be read, are left out."""
    marks = {}
    for path in files:
        with contextlib.suppress(OSError, UnlearnError):
            seen = path.lstat()
            if stat.S_ISREG(seen.st_mode):
                digest = file_digest(path)
                marks[path] = Mark(seen.st_dev, seen.st_ino, seen.st_size, digest)
    return marks


class Trash:
    """A folder that files are moved to instead of being deleted.

    Args:
        folder: which; made if it is not there.

    Raises:
        OutputError: if it is a link, or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder.expanduser().absolute().parent)) / folder.name
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise OutputError(f"--trash {folder}: {error.strerror}") from None
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise OutputError(f"--trash {folder} is a link or a file; name a folder")

    def place(self, name: str) -> Path:
        """Make an empty folder for what lay under a name, and return it."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder)) / name


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Yield a descriptor of a folder that no part of the path to is a link."""
    handle = os.open(folder.anchor, _FOLDER)
    try:
        for part in folder.parts[1:]:
            try:
                below = os.open(part, _FOLDER, dir_fd=handle)
            except (NotADirectoryError, OSError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise OutputError(f"{folder} leads through a link, or cannot be opened") from None
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def delete_files(
    root: Path, files: Iterable[Path], marks: Mapping[Path, Mark], to: Path | None = None
) -> None:
    """Delete files, or move them away, if all of them are still what was listed.

    Args:
        root: the folder that they lie in or below; deleted with them if nothing else lies there.
            Or the one file.
        files: which; those that are gone already are left out.
        marks: what each of them was when it was listed.
        to: where `root` is moved to, in an empty folder on the same file system; None deletes.

    Raises:
        OutputError: if one is not what was listed, and nothing was deleted; or if one cannot be
            deleted or moved, and those before it were.
    """
    there = [path for path in files if _is_listed(path, marks)]
    for path in there:
        place = None if to is None else to / path.relative_to(root)
        _remove(path, marks[path], place)
    if there or root.is_dir():
        for folder in sorted({p.parent for p in there} - {root.parent} | {root}, reverse=True):
            _remove_empty(folder, root)


def _is_listed(path: Path, marks: Mapping[Path, Mark]) -> bool:
    """Say whether a file is there; an error where it is not the one that was listed."""
    try:
        with _opened(path.parent) as folder:
            handle = os.open(path.name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{path} is a link, or cannot be opened: {error.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        seen = os.fstat(file.fileno())
        listed = marks.get(path)
        here = (seen.st_dev, seen.st_ino, seen.st_size)
        if listed is None or here != (listed.device, listed.inode, listed.size):
            raise OutputError(f"{path} is not the file that was listed")
        if hashlib.file_digest(file, "sha256").digest() != listed.sha256:
            raise OutputError(f"{path} has changed since it was listed")
    return True


def _remove(path: Path, listed: Mark, to: Path | None) -> None:
    """Unlink or move the name of a listed file."""
    with _opened(path.parent) as folder:
        seen = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if (seen.st_dev, seen.st_ino) != (listed.device, listed.inode):
            raise OutputError(f"{path} is not the file that was listed")
        if to is None:
            try:
                os.unlink(path.name, dir_fd=folder)
            except OSError as error:
                raise OutputError(f"{path} cannot be deleted: {error.strerror}") from None
            return
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(to.parent) as trash:
            try:
                os.rename(path.name, to.name, src_dir_fd=folder, dst_dir_fd=trash)
            except OSError as error:
                raise OutputError(f"{path} cannot be moved to {to}: {error.strerror}") from None


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and those above it up to the root, as far as nothing else lies there."""
    for each in (folder, *folder.parents):
        if each != root and root not in each.parents:
            return
        with contextlib.suppress(OSError, OutputError), _opened(each.parent) as parent:
            os.rmdir(each.name, dir_fd=parent)


@contextlib.contextmanager
def anchored(path: Path) -> Iterator[Path]:
    """Yield a path that stays within the folder that it now lies in, whatever becomes of names.

    Args:
        path: absolute; no part of it may be a link.

    Yields:
        The same file by the open folder, where the system has such paths (Linux); else `path`.

    Raises:
        OutputError: if a part of the path is a link.
    """
    with _opened(path.parent) as folder:
        if path.is_symlink():
            raise OutputError(f"{path} is a link")
        way = Path(f"/proc/self/fd/{folder}")
        yield way / path.name if sys.platform == "linux" and way.is_dir() else path
