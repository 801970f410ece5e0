"""Files that are written whole or not at all, and the checksum that names their content."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: there nothing stops two runs from writing one file
    fcntl = None


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let errors of the system, such as a full disk, name the file that is written, and not a temporary one or none."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save turns the one into the other
        if not isinstance(cause, OSError):
            raise
        if cause.errno is None:
            raise OSError(f"{path}: {cause}") from error
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_atomic(path: str | Path, data: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new one and never a part.

    Folders above the file are created. The permissions are those of any new file, set by the umask.

    Args:
        path: The file to create or replace.
        data: Its whole content; text is written as UTF-8, with its line ends as they are. Or what writes it, for content
            that need not be in memory twice.

    Raises:
        OSError: If it cannot be written; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename is atomic only within one file system. Not by tempfile, whose files are 0600.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    with naming(path):
        try:
            with open(temporary, "xb") as file:
                if callable(data):
                    data(file)
                else:
                    file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # the folder itself may be out of reach
                temporary.unlink()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def image_id(path: Any) -> int:
    """63-bit fingerprint of the content of a file, or of an image in a shard, to know an image again under any name."""
    digest = sha256(path) if isinstance(path, str | Path) else hashlib.sha256(path.read()).hexdigest()
    return int(digest[:16], 16) >> 1


def fingerprint(path: Any) -> str:
    """Size and time of change of a file, or of an image in a shard, as "size-mtime_ns"; empty if there is no such file."""
    if not isinstance(path, str | Path):
        return path.fingerprint
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def take_lock(path: Path, busy: str) -> int | None:
    """Take the lock that a file stands for.

    A POSIX lock ends with its process, so one left by a kill blocks nobody. ``flock`` would live on in the workers of a
    killed run, which inherit it.

    Args:
        path: The lock file, which is created.
        busy: What the holder of the lock does, and what to do about it, for the message.

    Returns:
        What ``give_lock`` needs.

    Raises:
        BlockingIOError: If another process holds the lock; names the process.
    """
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(descriptor, 20).decode()
            os.close(descriptor)
            raise BlockingIOError(f"another run (process {holder}) {busy}") from None
        if os.fstat(descriptor).st_nlink:
            with naming(path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its holder ended and removed the file between our two calls


def give_lock(path: Path, descriptor: int | None) -> None:
    """Give a lock back and remove its file."""
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)
