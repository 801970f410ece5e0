"""Files are written whole or not at all."""

import errno
import hashlib
import os
import resource
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from utils.files import sha256, write_atomic


def test_text_and_bytes_are_written_as_they_are_and_folders_created(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "text.txt", "größer\r\nas it is\n")
    write_atomic(str(tmp_path / "bytes.bin"), b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == "größer\r\nas it is\n".encode()
    assert (tmp_path / "bytes.bin").read_bytes() == b"\x00\xff"


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "a longer old content")
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def save_weights(file: BinaryIO) -> None:
    torch.save({"weight": torch.zeros(100_000)}, file)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
@pytest.mark.parametrize("data", ["x" * 50_000, b"x" * 50_000, save_weights])
def test_a_disk_that_is_full_names_the_file(tmp_path: Path, data: object) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # another error of the same kind: the file is too large
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/best\.pt'$"):
            write_atomic(tmp_path / "best.pt", data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_system_name_the_file_and_keep_their_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / ".0123.tmp"))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(type(OSError(code, "")), match=rf"{os.strerror(code)}: '.*/cf\.csv'$"):
        write_atomic(tmp_path / "cf.csv", "")
    (tmp_path / "folder").mkdir()
    monkeypatch.undo()
    with pytest.raises(IsADirectoryError, match=r"Is a directory: '.*/folder'$"):
        write_atomic(tmp_path / "folder", "")


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        write_atomic(tmp_path / "file", fail)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_the_checksum_is_that_of_the_standard_and_of_large_files(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    large = bytes(range(256)) * 8192  # 2 MiB, more than one block
    (tmp_path / "large").write_bytes(large + b"end")
    assert sha256(str(tmp_path / "large")) == hashlib.sha256(large + b"end").hexdigest()
