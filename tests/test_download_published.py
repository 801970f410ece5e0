"""The files of the authors, from a stand-in for Google Drive or from what a browser saved, into the layout of the scripts."""

import http.server
import io
import json
import os
import sys
import tarfile
import threading
import types
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from data.icqa2k import load_icqa2k
from tests.published_layout import COUNTS
from tools.download_published import WEIGHT_BYTES, place

TOOL = "tools/download_published.py"
LINK = "https://drive.google.com/drive/folders/1aBcDeFgHiJkLmNoPqRsTuV?usp=sharing"
QUOTA = "Too many users have viewed or downloaded this file recently.\n\tPlease try again later."

REFUSES = "Drive refuses it after too many downloads lately (quota); this ends within 24 hours"


def published_files(images: int = 2000) -> dict[str, bytes | int]:
    """Content by path of a made-up folder of the authors; a number stands for so many zero bytes."""
    files: dict[str, bytes | int] = {f"ICQA/{d}.pth": size + 30_000 for d, size in WEIGHT_BYTES.items()}
    for split, numbers in (("train", range(images * 3 // 4)), ("test", range(images * 3 // 4, images))):
        stems = [f"BIG_{number:012}" for number in numbers]
        files |= {f"ICQA/data/ICQA_2K_{split}/{stem}.jpg": b"image" for stem in stems}
        files |= {f"ICQA/labels/{stem}.txt": b"0 0.5 0.5 0.1 0.1\n" for stem in stems}
        mos = json.dumps(dict.fromkeys(stems, 0.25)).encode()
        files |= {f"ICQA/data/ICQA_2K_{split}_{d}_mos.json": mos for d in ("CF", "SCC", "PR")}
    return files | {"ICQA/color_.json": b"{}", "ICQA/pretrain/config.json": b"{}", "ICQA/README.md": b"hello"}


class Entry(NamedTuple):
    """As of gdown, GoogleDriveFileToDownload."""

    id: str
    path: str
    local_path: str


class Drive(types.ModuleType):
    """A stand-in for gdown: some files are refused, come as a web page, or break off in the middle."""

    def __init__(self, files: dict[str, bytes | int]):
        super().__init__("gdown")
        error = type("DownloadError", (Exception,), {})
        self.exceptions = types.SimpleNamespace(DownloadError=error, FileURLRetrievalError=type("Gone", (error,), {}))
        self.files = files
        self.refused: set[str] = set()
        self.pages: set[str] = set()
        self.broken: set[str] = set()
        self.listed = True
        self.asked: list[str] = []

    def download_folder(self, url: str, output: str, quiet: bool, skip_download: bool) -> list[Entry]:
        assert skip_download
        if not self.listed:
            raise self.exceptions.DownloadError("Failed to retrieve folder contents (status code 404)")
        return [Entry(f"id:{path}", path, f"{output}/{path}") for path in self.files]

    def download(self, id: str, output: str, quiet: bool, resume: bool) -> str:
        path = id.removeprefix("id:")
        self.asked.append(path)
        if path in self.refused:
            raise self.exceptions.FileURLRetrievalError(f"Failed to retrieve file url:\n\n\t{QUOTA}")
        if path in self.broken:
            raise ConnectionError("Connection aborted.")
        content = b"<!DOCTYPE html><p>Sign in" if path in self.pages else self.files[path]
        with open(output, "wb") as file:
            if isinstance(content, int):
                os.truncate(output, content)  # takes no room on the disk
            else:
                file.write(content)
        return output


@pytest.fixture
def drive(monkeypatch) -> Drive:
    drive = Drive(published_files())
    monkeypatch.setitem(sys.modules, "gdown", drive)
    return drive


def test_sizes_of_the_weights_are_those_of_their_tensors():
    for dimension, count in COUNTS.items():
        counters = {"CF": 1, "SCC": 20, "PR": 54}[dimension]  # batch normalizations: an int64 each among the buffers
        assert WEIGHT_BYTES[dimension] == 4 * (count.parameters + count.buffers - counters) + 8 * counters


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("x/y/cf.pth", "weights/CF.pth"),
        ("ICQA_2K_test.zip/ICQA_2K_test/CIC_1.JPG", "ICQA_2K/ICQA_2K_test/CIC_1.JPG"),
        ("ICQA_2K_train/CIC_1.png", "ICQA_2K/ICQA_2K_train/CIC_1.png"),
        ("a\\labels\\train\\CIC_1.txt", "ICQA_2K/labels/CIC_1.txt"),
        ("a/pretrain/vit/model.safetensors", "ICQA_2K/pretrain/vit/model.safetensors"),
        ("ICQA_2K_train_PR_result.json", "ICQA_2K/ICQA_2K_train_PR_result.json"),
        ("deep/color_.json", "ICQA_2K/color_.json"),
        ("ICQA_2K_test/._CIC_1.jpg", None),
        ("labels/notes.md", None),
        ("README.md", None),
    ],
)
def test_each_file_has_its_place_by_name(path, target):
    assert place(path) == (Path(target) if target else None)


def test_the_folder_arrives_in_the_layout_of_the_scripts_and_is_not_fetched_twice(drive, run, tmp_path):
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 0, done.err
    assert "left out: 1 file of other names, e.g. ICQA/README.md" in done.out
    assert "complete" in done.out
    assert [len(load_icqa2k(tmp_path / "ICQA_2K", split)) for split in ("train", "test")] == [1500, 500]
    assert (tmp_path / "weights/CF.pth").stat().st_size == WEIGHT_BYTES["CF"] + 30_000
    assert (tmp_path / "ICQA_2K/pretrain/config.json").is_file()
    drive.asked.clear()
    os.truncate(tmp_path / "weights/SCC.pth", 1000)
    (tmp_path / "ICQA_2K/ICQA_2K_test/BIG_000000001999.jpg").unlink()
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 0, done.err
    assert drive.asked == ["ICQA/SCC.pth", "ICQA/data/ICQA_2K_test/BIG_000000001999.jpg"]
    assert run(TOOL, "--to", tmp_path).code == 0  # the check alone


def test_a_quota_is_said_plainly_with_what_to_do_and_the_rest_arrives(drive, run, tmp_path):
    drive.refused = {"ICQA/CF.pth"}
    drive.pages = {"ICQA/PR.pth"}
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[0] == f"not fetched: ICQA/CF.pth ({REFUSES})"
    assert lines[1] == "not fetched: ICQA/PR.pth (a web page came in place of the file)"
    assert f"{tmp_path}/weights/CF.pth is missing" in lines
    assert lines[-1].startswith("the same command fetches what is missing, now or tomorrow; or open the link in a browser")
    assert not (tmp_path / "weights/PR.pth").exists()
    assert (tmp_path / "weights/SCC.pth").is_file()
    drive.refused, drive.pages = set(), set()
    drive.asked.clear()
    assert run(TOOL, LINK, "--to", tmp_path).code == 0
    assert drive.asked == ["ICQA/CF.pth", "ICQA/PR.pth"]


def test_after_three_refusals_in_a_row_drive_is_left_alone(drive, run, tmp_path):
    drive.refused = set(drive.files)
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 1
    assert len(drive.asked) == 3
    assert "4008 files not asked for after that" in done.err


def test_a_broken_connection_is_one_line_and_the_same_command_goes_on(drive, run, tmp_path):
    drive.broken = {"ICQA/data/ICQA_2K_train/BIG_000000000003.jpg"}
    done = run(TOOL, LINK, "--to", tmp_path)
    assert (done.code, done.err) == (1, "error: Connection aborted.; what has arrived is kept, the same command goes on\n")
    drive.broken = set()
    assert run(TOOL, LINK, "--to", tmp_path).code == 0
    assert len(drive.asked) == len(published_files())  # without README.md, and the broken one twice


def test_a_folder_that_is_not_listed_is_one_line(drive, run, tmp_path):
    drive.listed = False
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 1
    assert done.err.startswith(
        f"error: Drive does not list {LINK} (Failed to retrieve folder contents (status code 404)); open the"
    )
    assert done.err.count("\n") == 1


def test_what_a_browser_saved_is_put_in_place(run, tmp_path):
    files = {path: content for path, content in published_files(40).items() if isinstance(content, bytes)}
    saved = tmp_path / "saved"
    saved.mkdir()
    with zipfile.ZipFile(saved / "ICQA-20261129T1-001.zip", "w") as archive:
        for path, content in files.items():
            if "ICQA_2K_test" in path or "labels" in path:
                archive.writestr(path, content)
    with tarfile.open(saved / "ICQA_2K_train.tar.gz", "w:gz") as archive:
        for path, content in files.items():
            if "ICQA_2K_train/" in path:  # packed without the folder, which the archive is named after
                entry = tarfile.TarInfo(Path(path).name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    for path, content in files.items():
        if "ICQA_2K_train_" in path or "color_" in path:
            (saved / Path(path).name).write_bytes(content)
    (saved / "../evil.pth").write_bytes(b"")
    done = run(TOOL, saved, "--to", tmp_path / "repo")
    assert done.code == 1  # weights are missing
    assert [len(load_icqa2k(tmp_path / "repo/ICQA_2K", split)) for split in ("train", "test")] == [30, 10]
    assert "holds 40 images with MOS in both splits, expected 2,000" in done.err
    assert len(list((tmp_path / "repo/ICQA_2K/labels").iterdir())) == 40
    weights = tmp_path / "SCC.pth"
    with zipfile.ZipFile(weights, "w") as archive:  # as torch writes them
        archive.writestr("SCC/data.pkl", b"tensors")
    done = run(TOOL, weights, "--to", tmp_path / "repo")
    size = weights.stat().st_size
    assert f"{tmp_path}/repo/weights/SCC.pth has {size:,} bytes, expected 46,237,736 to 48,237,736" in done.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/x", "https://example.org/x is no link of a Drive folder"),
        ("{tmp}/none.zip", "none.zip does not exist; expected a folder, an archive"),
        ("{tmp}/cut.zip", "cut.zip is neither an archive"),
        ("{tmp}/a.rar", "a.rar cannot be unpacked here; unpack it, and give the folder"),
    ],
)
def test_a_source_that_is_none_is_one_line(run, tmp_path, source, message):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    done = run(TOOL, source.format(tmp=tmp_path), "--to", tmp_path / "repo")
    assert done.code != 0
    assert message in done.err.splitlines()[-1]


def test_without_gdown_the_command_that_installs_it_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.err == 'error: gdown is not installed; run: pip install "gdown>=5.2"\n'


@pytest.fixture
def host(monkeypatch) -> Iterator[dict]:
    """The real gdown, if it is installed, sent to a small server in place of Drive, which shows a folder and its files."""
    requests = pytest.importorskip("requests")
    pytest.importorskip("gdown")
    files = {
        f"{number:033}": (name, f"content of {name}".encode() * 100_000) for number, name in enumerate(("color_.json", "x.md"))
    }
    files["9" * 33] = ("ICQA_2K_test_CF_mos.json", b"{}")
    state: dict = {"files": files, "cut": set(), "quota": set(), "ranges": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["id"][0]
            if self.path.startswith("/embeddedfolderview"):
                rows = "".join(f'<a href="https://drive.google.com/file/d/{k}/view">{n}</a>' for k, (n, _) in files.items())
                return self.answer(f"<html><title>ICQA</title>{rows}</html>".encode(), {"Content-Type": "text/html"})
            name, content = files[key]
            if key in state["quota"]:
                return self.answer(
                    f'<p class="uc-error-subcaption">{QUOTA.splitlines()[0]}</p>'.encode(), {"Content-Type": "text/html"}
                )
            kind = {"Content-Type": "application/octet-stream", "Content-Disposition": f'attachment; filename="{name}"'}
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start:
                state["ranges"].append(start)
                kind["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.answer(content[start:], kind, 206 if start else 200, cut=key in state["cut"] and not start)

        def answer(self, content: bytes, headers: dict[str, str], status: int = 200, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = requests.Session.request

    def request(self, method: str, url: str, *args: object, **options: object):
        return real(
            self, method, url.replace("https://drive.google.com", f"http://127.0.0.1:{server.server_port}"), *args, **options
        )

    monkeypatch.setattr(requests.Session, "request", request)
    monkeypatch.setenv("HOME", os.devnull)  # no cookies are kept
    yield state
    server.shutdown()
    server.server_close()


def test_the_real_gdown_goes_on_in_the_middle_of_a_file_and_says_a_quota(host, run, tmp_path):
    host["cut"], host["quota"] = {f"{0:033}"}, {"9" * 33}
    done = run(TOOL, LINK, "--to", tmp_path)
    assert done.code == 1
    assert "left out: 1 file of other names, e.g. x.md" in done.out
    lines = done.err.splitlines()
    assert lines[0].startswith("not fetched: color_.json (Download is incomplete")
    assert lines[1] == f"not fetched: ICQA_2K_test_CF_mos.json ({REFUSES})"
    host["quota"] = set()
    done = run(TOOL, LINK, "--to", tmp_path)
    assert "not fetched" not in done.err
    content = host["files"][f"{0:033}"][1]
    assert (tmp_path / "ICQA_2K/color_.json").read_bytes() == content
    assert 0 < host["ranges"][0] <= len(content) // 2
    assert (tmp_path / "ICQA_2K/ICQA_2K_test_CF_mos.json").read_bytes() == b"{}"
