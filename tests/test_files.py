"""Files are written whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

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
