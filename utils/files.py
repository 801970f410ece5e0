"""Files that are written whole or not at all, and the checksum that names their content."""

import contextlib
import errno
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

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let errors of the system, such as a full disk, name the file that is written, not a temporary file or none."""
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
    """Write a file whole or not at all: after a kill at any moment it has the old content or the new content.

    Folders above the file are created. The permissions are those of any new file, set by the umask.

    Args:
        path: The file to create or replace.
        data: The whole content; text is written as UTF-8, with its line ends as they are. Or a function that writes the
            content to an open file, so that the content is not in memory twice.

    Raises:
        OSError: If the file cannot be written; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. Not by tempfile, whose files are 0600.
    temporary = path.parent / f"{_prefix(path)}{secrets.token_hex(8)}.tmp"
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


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of a file left beside it. For the holder of its lock alone: others may be writing it."""
    for temporary in path.parent.glob(f"{_prefix(path)}*.tmp"):
        temporary.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """Return how the names of temporary files for a file begin: not with its name, which may be as long as names can be."""
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def image_id(path: Any) -> int:
    """Return a 63-bit fingerprint of a file, or of an image in a shard, which recognizes its content under any name."""
    digest = sha256(path) if isinstance(path, str | Path) else hashlib.sha256(path.read()).hexdigest()
    return int(digest[:16], 16) >> 1


def fingerprint(path: Any) -> str:
    """Return size and time of change of a file, or of an image in a shard, as "size-mtime_ns"; empty if it does not exist."""
    if not isinstance(path, str | Path):
        return path.fingerprint
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def take_lock(path: Path, busy: str) -> int | None:
    """Take the lock that a file stands for.

    A POSIX lock ends with its process, so a lock left by a kill blocks nobody. The workers of a killed run would inherit a
    lock of ``flock`` and keep it.

    Args:
        path: The lock file, which is created.
        busy: The rest of the error after "another run (process N)": its work, and advice.

    Returns:
        The descriptor for ``give_lock``; None where the system has no locks, or the file system, as on some clusters.

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
        except OSError as error:
            give_lock(path, descriptor)
            if error.errno in _NO_LOCKS:
                return None
            raise OSError(error.errno, error.strerror, str(path)) from error
        if os.fstat(descriptor).st_nlink:
            try:
                with naming(path):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode())
            except OSError:
                give_lock(path, descriptor)
                raise
            return descriptor
        os.close(descriptor)  # its holder ended and removed the file between our two calls


def give_lock(path: Path, descriptor: int | None) -> None:
    """Give a lock back and remove its file."""
    if descriptor is not None:
        with contextlib.suppress(OSError):  # one that is left blocks nobody
            path.unlink()
        os.close(descriptor)
