"""Tables as text files: reading a CSV file, and the errors of a file that is something else."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HOW = "export it as CSV, UTF-8"
_OTHERS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a spreadsheet or ZIP file"}


def read_text(path: Path, wanted: str = "a comma-separated UTF-8 table", how: str = _HOW) -> str:
    """Return the text of a UTF-8 file, without the byte order mark that spreadsheets write.

    Args:
        path: The file.
        wanted: The expected kind of file, for the error.
        how: How to make such a file, for the error.

    Raises:
        ValueError: If the file is not UTF-8.
    """
    data = path.read_bytes()
    other = next((name for start, name in _OTHERS.items() if data.startswith(start)), "")
    if other or b"\0" in data[:4]:  # UTF-16 without a mark has a zero in every second byte
        raise ValueError(f"{path} is not {wanted} but {other or 'UTF-16'}; {how}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {wanted} ({error.reason}, byte {error.start}); {how}") from error


def csv_lines(path: Path, exact: bool = False) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV file with their numbers, without blank ones.

    Args:
        path: The file.
        exact: Whether to keep the spaces around a cell, which a file name can have.

    Raises:
        ValueError: If the file is not comma-separated UTF-8.
    """
    return list(_csv_lines(path, exact))


def _csv_lines(path: Path, exact: bool) -> Iterator[tuple[int, list[str]]]:
    """``csv_lines``, one after another."""
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=not exact)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells if exact else [cell.strip() for cell in cells]
    except csv.Error as error:
        hint = separator_hint([text.partition("\n")[0]])
        raise ValueError(
            f"{path} is not a comma-separated UTF-8 table (line {reader.line_num}: {error}){hint}; {_HOW}"
        ) from error


def csv_rows(path: Path, kind: str, exact: bool = False) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header of a CSV file, and each row with its line number; the last of two equal columns counts.

    Args:
        path: The file.
        kind: Name of the thing in a row, such as "image", for the error.
        exact: Whether to keep the spaces around a cell of a row, and to take a file without rows, as a score file can be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Same as ``csv_lines``; also if there is no row, or a row has not as many cells as the header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}")
    lines = _csv_lines(path, exact)
    header = [cell.strip() for cell in next(lines, (0, []))[1]]
    rows: list[tuple[int, dict[str, str]]] = []
    for line, cells in lines:
        if len(cells) != len(header):
            hint = separator_hint(header) or "; a comma inside a cell needs quotes around it" * (len(cells) > len(header))
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}{hint}")
        rows.append((line, dict(zip(header, cells, strict=True))))
    if not rows and not exact:
        raise ValueError(f"{path} has no rows, expected a header and a line for each {kind}")
    return header, rows


def separator_hint(cells: list[str]) -> str:
    """Return a hint for the error of a line with too few cells, if something else than commas separates them; else ""."""
    for mark, name in _SEPARATORS.items():
        if cells and mark in cells[0]:
            return f"; its cells are separated by {name}, expected commas, with points in numbers"
    return ""


def finite_number(cell: str, what: str, expected: str = "expected a number") -> float:
    """Return the number in a cell.

    Args:
        cell: Text of the cell.
        what: Start of the error, before the text: the thing that has the number, and a verb.
        expected: End of the error, after the text.

    Raises:
        ValueError: If the cell is no finite number.
    """
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} {cell!r}, {expected}{comma_hint(cell)}")
    return value


def comma_hint(cell: str) -> str:
    """Return a hint for the error of a number with a decimal comma; else ""."""
    head, comma, tail = cell.strip().lstrip("+-").partition(",")
    return " with a decimal point, not a comma" if comma and (head + tail).isdigit() else ""
