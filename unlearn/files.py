"""Write results so that a reader sees the old or the new ones, never a mixture; read files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from unlearn.errors import OutputError

__all__ = ["check_output", "discard_stages", "regular_bytes", "staged_file", "staged_folder"]


def regular_bytes(path: Path, size: int, *, follow: bool = True) -> bytes:
    """Return what a regular file holds: nothing that waits for somebody, or never ends, is read.

    Args:
        path: of the file.
        size: bytes that are read at most.
        follow: whether a link to a regular file will do.

    Returns:
        All its bytes.

    Raises:
        ValueError: in one line, if it is a pipe, a socket, a device, a folder, a link that is not
            followed, or larger than `size`.
        OSError: if the system does not give it.
    """
    # without O_NONBLOCK opening a pipe would wait for somebody to write; Windows has neither
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        handle = os.open(path, flags)
    except OSError:
        if not stat.S_ISREG((path.stat() if follow else path.lstat()).st_mode):
            raise ValueError("no regular file") from None
        raise
    there = os.fstat(handle)
    if not stat.S_ISREG(there.st_mode):
        os.close(handle)
        raise ValueError("no regular file")
    with os.fdopen(handle, "rb") as file:
        content = file.read(size + 1) if there.st_size <= size else None
    if content is None or len(content) > size:
        raise ValueError(f"larger than the {size} bytes that are read")
    return content


def check_output(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse an output folder that would be clobbered, before any work is done.

    Args:
        folder: where results will go.
        overwrite: allow a folder that is not empty.

    Returns:
        The folder as an absolute path.

    Raises:
        OutputError: if `folder` is a file, or is not empty and `overwrite` is off, or its parent
            cannot be written.
    """
    path = Path(folder).expanduser().absolute()
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_dir():
        raise OutputError(f"--output {folder} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise OutputError(f"--output {folder} exists and is not empty; pass --overwrite to replace")
    parent = next(p for p in path.parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"--output {folder}: no permission to write in {parent}")
    return path


@contextlib.contextmanager
def staged_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` only when the block succeeds.

    The temporary folder lies beside the target (same file system), is flushed to disk, and is put
    in place by one rename; over an existing folder by one atomic exchange where the system has it.

    Args:
        folder: where the finished results will be.
        overwrite: allow replacing a folder that is not empty.

    Yields:
        The folder to write into.

    Raises:
        OutputError: if the target may not be replaced or the disk does not take the files.
    """
    target = check_output(folder, overwrite=overwrite)
    stage = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with _disk_errors(target):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
    try:
        with _disk_errors(target):
            yield stage
            _flush(stage)
            _replace(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name that replaces `path` only when the block succeeds.

    Args:
        path: the finished file.

    Yields:
        The name to write to, in the same folder.

    Raises:
        OutputError: if the disk does not take the file.
    """
    target = Path(path)
    stage = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with _disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield stage
            with stage.open("rb") as file:
                os.fsync(file.fileno())
            stage.replace(target)
    finally:
        stage.unlink(missing_ok=True)


def discard_stages(path: str | Path) -> None:
    """Delete what processes that were killed left beside a path of writing it.

    Args:
        path: as it was given to `staged_file` or `staged_folder`.
    """
    target = Path(path)
    for stage in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        pid = stage.name.rpartition("-")[2]
        if not pid.isdecimal() or _alive(int(pid)) or stage.lstat().st_uid != os.getuid():
            continue
        if stage.is_dir() and not stage.is_symlink():
            shutil.rmtree(stage, ignore_errors=True)
        else:
            stage.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # where asking would be a signal
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into an `OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}:
            raise OutputError(
                f"cannot write {target}: {error.strerror}; nothing was kept"
            ) from error
        raise
    except Exception as error:
        # safetensors reports the operating system's refusal in an exception class of its own
        if type(error).__name__ == "SafetensorError" and (
            "os error" in str(error).lower() or "i/o error" in str(error).lower()
        ):
            raise OutputError(f"cannot write {target}: {error}; nothing was kept") from error
        raise


def _flush(folder: Path) -> None:
    """Force every file of a folder to disk, so that the rename is never ahead of the data."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _replace(stage: Path, target: Path) -> None:
    """Put `stage` where `target` is; afterwards whatever was there lies at `stage`."""
    if not target.exists():
        stage.rename(target)
    elif not _exchange(stage, target):
        # Two renames: in the instant between them the old folder is only at `aside`.
        aside = target.with_name(f".{target.name}.old-{os.getpid()}")
        target.rename(aside)
        stage.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths atomically; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        at_fdcwd, rename_exchange = -100, 2
        status = libc.renameat2(at_fdcwd, bytes(a), at_fdcwd, bytes(b), rename_exchange)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        rename_swap = 2
        status = libc.renamex_np(bytes(a), bytes(b), rename_swap)
    else:
        return False
    return bool(status == 0)
