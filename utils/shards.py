"""Images inside of files that hold many: tar shards, and Parquet and Arrow tables.

``list_samples`` names the images of all that ``utils.images.list_images`` takes, and of

- tar files in the layout of WebDataset, whose members are ``KEY.EXTENSION``; they are not unpacked;
- Parquet, Feather and Arrow files with a column of images, as data sets of Hugging Face are stored: encoded bytes, or a struct
  of ``bytes`` and ``path``. They need pyarrow.

Several files are written as one pattern with braces, ``shards/{0000..0012}.tar`` or ``{train,test}.parquet``.
"""

import bisect
import contextlib
import functools
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.images import ImageList, ImageReadError, count_suffixes, has_image_extension, list_images, printable

TABLES = (".parquet", ".arrow", ".feather")
SHARDS = (".tar", *TABLES)
KEYS = ("key", "__key__", "id", "image_id", "file_name", "filename")  # columns that may name a row, the first that does

_BLOCK = 512  # bytes of a tar header; a member is filled up to a multiple
_END = bytes(_BLOCK)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_AFTER_END = 1 << 20  # bytes behind the end mark of a tar that are looked at
_ROWS = 64  # of a Parquet file that are read at once
_BATCHES = 3  # read ones that are kept, for threads that work on neighbors


@dataclass(frozen=True)
class Shard:
    """A file that holds many images.

    Attributes:
        path: Where it lies.
        changed: When it was changed, in nanoseconds, and its size in bytes, at the time of listing.
        column: Of a table, the column of images.
    """

    path: str
    changed: tuple[int, int]
    column: str = ""

    def read(self, sample: "Sample") -> bytes:
        """Return the encoded image of a sample."""
        if os.stat(self.path).st_mtime_ns != self.changed[0]:
            raise ImageReadError(f"{sample}: the file has changed since its images were listed; run again")
        if self.column:
            return _read_row(self, sample)
        with open(self.path, "rb") as file:
            file.seek(sample.start)
            data = file.read(sample.size)
        if len(data) < sample.size:
            raise ImageReadError(f"{sample}: is torn, the tar ends {sample.size - len(data)} bytes too early")
        return data


@dataclass(frozen=True, slots=True)
class Sample:
    """An image inside of a shard, which ``read_rgb`` takes as it takes a path. As text it names shard and key.

    Attributes:
        shard: The file.
        key: What the file calls the image.
        start: Of a tar the first byte, -1 for what is no file; of a table the row.
        size: Bytes of the encoded image; -1 where nobody knows without reading it.
    """

    shard: Shard
    key: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard.path}: {self.key}"

    @property
    def name(self) -> str:
        """The sample as errors name it."""
        return str(self)

    @property
    def fingerprint(self) -> str:
        """Size of the image, of a table that of the file, and time of change of the file, as "size-mtime_ns"."""
        mtime, size = self.shard.changed
        return f"{size if self.size < 0 else self.size}-{mtime}"

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageReadError: If it is not there, or is no file.
        """
        if self.start < 0:
            raise ImageReadError(f"{self}: is a link or a device inside of the tar; expected a file")
        return self.shard.read(self)


def list_samples(source: str | Path) -> ImageList:
    """Find the images of a folder, a list file, a single image, or of shards.

    Args:
        source: As for ``list_images``, or a tar, Parquet, Arrow or Feather file, or a pattern with braces for several.

    Returns:
        Of shards: ``names`` in the order in which they are stored. A name is that of the member of a tar, or the first of
        ``KEYS`` and then of the path inside the column of images that names every row, else the number of the row; in front
        of it the name of the shard where two shards hold that name. ``root`` is the folder that holds the shards.

    Raises:
        FileNotFoundError: If ``source``, or a file of the pattern, does not exist.
        ValueError: If there is no image in it, or no column that can be told to hold the images.
    """
    source = Path(source)
    if source.is_dir() or source.suffix.lower() not in SHARDS:
        return list_images(source)
    files = [str(source)] if source.exists() else expand_braces(str(source))
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        of = f"{len(missing)} of the {len(files)} files of {source} do not exist, e.g. " if len(files) > 1 else ""
        raise FileNotFoundError(of + (missing[0] if of else f"{missing[0]} does not exist"))
    others: list[str] = []
    problems: list[str] = []
    samples: list[Sample] = []
    for file in files:
        shard = _Listing(file)
        samples += shard.samples()
        others += shard.others
        problems += shard.problems
    left_out = count_suffixes(others)
    if not samples:
        found = "; ".join(filter(None, [left_out and f"found {left_out}", *problems]))
        raise ValueError(f"no image found in {source}{found and f'; {found}'}")
    root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    named, escaped = _named(samples, root)
    return ImageList(root, list(named), escaped, left_out, named, problems)


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern stands for: ``{00..12}`` for numbers, ``{a,b}`` for words, as in a shell.

    Raises:
        ValueError: If something else is between braces.
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span is None and "," not in match[1]:
        raise ValueError(f"{pattern}: expected numbers, {{0000..0012}}, or words, {{a,b}}, between braces")
    if span is None:
        words = match[1].split(",")
    else:
        low, high = int(span[1]), int(span[2])
        width = max(map(len, span.groups())) if span[1][0] == "0" or span[2][0] == "0" else 0
        step = 1 if low <= high else -1
        words = [f"{number:0{width}}" for number in range(low, high + step, step)]
    return [name for word in words for name in expand_braces(pattern[: match.start()] + word + pattern[match.end() :])]


def _named(samples: list[Sample], root: Path) -> tuple[dict[str, Sample], dict[str, str]]:
    """Samples by unique names, in their order, and the names that hold bytes which are no UTF-8 as they are stored."""
    holders: dict[str, Shard | None] = {}  # of each key; None for one that two shards hold
    for sample in samples:
        if holders.setdefault(sample.key, sample.shard) is not sample.shard:
            holders[sample.key] = None
    named: dict[str, Sample] = {}
    escaped: dict[str, str] = {}
    for sample in samples:
        name = sample.key
        if holders[name] is None:
            name = f"{Path(os.path.relpath(sample.shard.path, root)).with_suffix('').as_posix()}/{name}"
        stored, name = name, name.encode("utf-8", "backslashreplace").decode()
        if stored != name:
            escaped[name] = stored
        if named.setdefault(name, sample) is not sample:
            raise ValueError(f"two images are named {name}, in {named[name]} and in {sample}; rename one")
    return named, escaped


class _Listing:
    """What one shard holds: ``samples``, after which ``others`` names other members and ``problems`` says the rest."""

    def __init__(self, path: str) -> None:
        self.path = path
        status = os.stat(path)
        self.changed, self.size = (status.st_mtime_ns, status.st_size), status.st_size
        self.others: list[str] = []
        self.problems: list[str] = []

    def samples(self) -> list[Sample]:
        if self.path.lower().endswith(TABLES):
            return self._rows()
        shard = Shard(self.path, self.changed)
        # the last of two members of one name counts, as when a tar is unpacked
        samples: dict[str, Sample] = {}
        with open(self.path, "rb") as file:
            for name, start, size in self._members(file.fileno()):
                key = name[2:] if name[:2] == "./" else name.lstrip("/")
                if key[:1] == "." or "/." in key:  # hidden, as in folders
                    continue
                if has_image_extension(key):
                    samples[key] = Sample(shard, key, start, size)
                else:
                    self.others.append(key)
        return list(samples.values())

    def _members(self, file: int) -> Iterator[tuple[str, int, int]]:
        """Name, first byte and size of each member of a tar that is no folder; -1 for both if it is no plain file.

        Headers of plain files are read here, for tarfile takes 18 µs for each; it reads all the others.
        """
        position = 0
        with open(self.path, "rb") as whole:
            rest: Any = None  # a TarFile, whose position is set here
            while (header := os.pread(file, _BLOCK, position)) != _END:
                plain = _plain_member(header)
                if plain is not None:
                    name, size = plain
                    yield name, position + _BLOCK, size
                    position += _BLOCK + -(-size // _BLOCK) * _BLOCK
                    continue
                member = None
                with contextlib.suppress(tarfile.TarError):
                    rest = rest or tarfile.TarFile(fileobj=whole)
                    rest.firstmember, rest.offset = None, position  # what it read when it was opened is forgotten
                    whole.seek(position)
                    member = rest.next()
                if member is None:
                    self.problems.append(f"{self.path}: {self._damage(header, position)}")
                    return
                rest.members.clear()
                position = rest.offset
                if not member.isdir():
                    usual = member.isreg() and not member.issparse()
                    yield member.name, member.offset_data if usual else -1, member.size if usual else -1
        if any(os.pread(file, _AFTER_END, position)):
            self.problems.append(
                f"{self.path}: holds data behind its end mark, as tars joined with cat do; images there have no row"
            )

    def _damage(self, header: bytes, position: int) -> str:
        """What is wrong where a tar cannot be read on."""
        if position == 0 and header.startswith(_COMPRESSED):
            return "is compressed, so that its images cannot be found; unpack it (gunzip, unzstd) and run again"
        if position > self.size:
            return f"is torn, {position - self.size} bytes of its last image are missing; images after that have no row"
        if len(header) < _BLOCK:
            return f"is torn, it ends at byte {self.size} without an end mark; images after that have no row"
        return f"is damaged at byte {position} of {self.size}, no tar header is there; images after that have no row"

    def _rows(self) -> list[Sample]:
        """The samples of a table."""
        _need_pyarrow(self.path)
        try:
            table = _Table(self.path)
        except (OSError, ValueError) as error:  # what pyarrow raises of a file that is no table
            self.problems.append(f"{self.path}: cannot be read ({_first_line(error)}); its images have no row")
            return []
        column = table.image_column()
        shard = Shard(self.path, self.changed, column)
        keys = table.keys(column)
        return [Sample(shard, key, row, -1) for row, key in enumerate(keys)]


def _plain_member(header: bytes) -> tuple[str, int] | None:
    """Name and size of a file by its tar header; None if the header is damaged or of another kind."""
    if len(header) < _BLOCK or header[156] not in b"0\0" or header[124] & 0x80:
        return None
    try:
        total = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if total != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""  # GNU tar stores times there
    if name.endswith(b"/"):  # a folder in archives of old
        return None
    path = prefix + b"/" + name if prefix else name
    return path.decode("utf-8", "surrogateescape"), size


def _first_line(error: Exception) -> str:
    return printable(str(error).strip().split("\n")[0])


# --- tables


def _need_pyarrow(path: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401, only here, for scoring does not require it
    except ImportError as error:
        raise ValueError(f"{path}: tables are read with pyarrow, which is not installed; pip install pyarrow") from error


class _Table:
    """A Parquet, Feather or Arrow file. Batches are read one after another, by any number of threads.

    Raises:
        OSError: If it cannot be read as such.
        ValueError: The same.
    """

    def __init__(self, path: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self._lock = threading.Lock()
        self._kept: dict[int, Any] = {}  # batches by their first row
        self._reader: Iterator[Any] | None = None  # of a group of rows of a Parquet file
        self._group = self._at = 0  # that group, and the row that the reader is at
        self._batches: list[Callable[[], Any]] = []  # of a file that is no Parquet
        if path.lower().endswith(".parquet"):
            self._parquet = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
            self.schema = self._parquet.schema_arrow
            self.rows = self._parquet.metadata.num_rows
            counts = [self._parquet.metadata.row_group(i).num_rows for i in range(self._parquet.metadata.num_row_groups)]
        else:
            self._parquet = None
            mapped = pa.memory_map(path)  # only what is asked for is read, however large the file is
            try:
                file = pa.ipc.open_file(mapped)
                self.schema = file.schema
                self._batches = [functools.partial(file.get_batch, i) for i in range(file.num_record_batches)]
            except pa.ArrowInvalid:  # the form that data sets of Hugging Face are cached in
                stream = pa.ipc.open_stream(mapped)
                self.schema = stream.schema
                self._batches = [functools.partial(_same, batch) for batch in stream]
            counts = [batch().num_rows for batch in self._batches]
            self.rows = sum(counts)
        self.starts = [0]
        for count in counts:
            self.starts.append(self.starts[-1] + count)

    def image_column(self) -> str:
        """The column that holds the images: ``image``, or else the only one that can."""
        able = [entry.name for entry in self.schema if _holds_images(entry.type)]
        if "image" in able:
            return "image"
        if len(able) == 1:
            return able[0]
        columns = ", ".join(f"{entry.name} ({entry.type})" for entry in self.schema)
        wanted = "encoded images, as binary or as a struct with bytes and path"
        if not able:
            raise ValueError(f"{self.path}: no column holds {wanted}; it has {columns}")
        raise ValueError(f"{self.path}: several columns can hold {wanted}: {', '.join(able)}; name the right one image")

    def keys(self, image: str) -> list[str]:
        """What names each row."""
        for column in KEYS:
            if column in self.schema.names:
                keys = self._texts(self._column([column]))
                if keys is not None:
                    return keys
        kind = self.schema.field(image).type
        if hasattr(kind, "fields") and "path" in {entry.name for entry in kind.fields}:
            keys = self._texts(self._column([f"{image}.path"]))
            if keys is not None:
                return [key[2:] if key.startswith("./") else key.lstrip("/") for key in keys]
        return [f"{row:08d}" for row in range(self.rows)]

    def _column(self, columns: list[str]) -> list[Any]:
        """The values of one column, or of one field of a struct."""
        if self._parquet is not None:
            batches: Any = self._parquet.iter_batches(columns=columns)
        else:
            batches = (batch() for batch in self._batches)
        name, *inner = columns[0].split(".") if columns[0] not in self.schema.names else [columns[0]]
        values: list[Any] = []
        for batch in batches:
            column = batch.column(batch.schema.get_field_index(name))
            values += (column.field(inner[0]) if inner else column).to_pylist()
        return values

    @staticmethod
    def _texts(values: Sequence[Any]) -> list[str] | None:
        """Values as names; None if they are no texts or whole numbers, or do not name each row."""
        if any(type(value) not in (str, int) or value == "" for value in values) or len(set(values)) < len(values):
            return None
        return [str(value) for value in values]

    def cell(self, column: str, row: int) -> Any:
        """The value of a row; of a struct a dictionary."""
        with self._lock:
            for start, values in self._kept.items():
                if start <= row < start + len(values):
                    return values[row - start].as_py()
            start, values = self._load(column, row)
            self._kept[start] = values
            while len(self._kept) > _BATCHES:
                del self._kept[next(iter(self._kept))]
            return values[row - start].as_py()

    def _load(self, column: str, row: int) -> tuple[int, Any]:
        """The batch that holds a row, and its first row."""
        group = bisect.bisect_right(self.starts, row) - 1
        if self._batches:
            batch = self._batches[group]()
            return self.starts[group], batch.column(batch.schema.get_field_index(column))
        if self._reader is None or self._group != group or row < self._at:
            assert self._parquet is not None
            self._group, self._at = group, self.starts[group]
            self._reader = self._parquet.iter_batches(_ROWS, row_groups=[group], columns=[column])
        for batch in self._reader:
            start, self._at = self._at, self._at + batch.num_rows
            if row < self._at:
                return start, batch.column(0)
        raise OSError(f"{self.path}: has no row {row}")


def _same(batch: Any) -> Any:
    return batch


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(entry.name == "bytes" and _holds_images(entry.type) for entry in kind.fields)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@functools.lru_cache(maxsize=4)
def _open_table(shard: Shard) -> _Table:
    return _Table(shard.path)


def _read_row(shard: Shard, sample: Sample) -> bytes:
    try:
        value = _open_table(shard).cell(shard.column, sample.start)
    except ValueError as error:  # a damaged page: pyarrow's errors are of this kind, or OSError
        raise ImageReadError(f"{sample}: cannot be read ({_first_line(error)})") from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        raise ImageReadError(f"{sample}: has no bytes" + (f", only the path {path}; store the image itself" if path else ""))
    return data
