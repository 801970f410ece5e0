"""Scoring on a Ray cluster: the rows of one machine, also where a worker is killed. Needs requirements-ray.txt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readers import rows_of
from test_shards import encoded, write_tar

from inference.cluster import Block, _again, _blocks
from inference.sub_scores import SubScores
from utils.shards import list_samples


def test_without_ray_one_line_says_what_to_install(run, weights, gallery, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("infer_CF.py", gallery, "--weights", weights["CF"], "-o", tmp_path / "cf.csv", "--ray")
    assert (done.code, "pip install -r requirements-ray.txt" in done.err) == (1, True)
    assert not list(tmp_path.iterdir())


def test_blocks_are_of_one_shard_and_hold_what_lacks_a_row(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", {f"{shard}{number}.png": b"x" for number in range(5)})
    images = list_samples(tmp_path / "{0..1}.tar")
    given = SubScores({"00.png": {"CF": 0.1}, "14.png": {"CF": 0.2}}, {"04.png": "no CF score"})
    blocks = list(_blocks(images, set(images.names) - {"01.png", "10.png", "11.png", "12.png"}, {}, given, workers=1))
    names = [(0, ["00.png"]), (2, ["02.png", "03.png"]), (4, ["04.png"]), (7, ["13.png"]), (9, ["14.png"])]
    assert [(block.number, block.images.names) for block in blocks] == names
    assert blocks[0].given.scores == {"00.png": {"CF": 0.1}}
    assert blocks[2].given.errors == {"04.png": "no CF score"}
    assert blocks[0].images.place("00.png") == images.place("00.png")


def test_a_block_whose_workers_die_is_given_up_in_the_end(tmp_path):
    images = list_samples(write_tar(tmp_path / "s.tar", {"a.png": b"x"}))
    block, tries, lost = Block(0, images, {}, SubScores()), {}, []
    waiting = [block]
    given_up = []
    while waiting:
        given_up.append(_again(waiting.pop(), waiting, tries, lost))
    assert (given_up, lost) == ([0, 0, 1], ["a.png"])


@pytest.mark.slow
def test_a_cluster_writes_the_files_of_one_machine_though_a_worker_is_killed(repo, weights, tmp_path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for shard in range(4):
        write_tar(tmp_path / f"{shard}.tar", {f"{number}.png": encoded(shard * 50 + number) for number in range(50)})
    networks = [x for d in ("CF", "SCC") for x in (f"--{d.lower()}-weights", weights[d])]
    command = [sys.executable, "infer_PR.py", tmp_path / "{0..3}.tar", "--weights", weights["PR"], *networks]
    one, many = tmp_path / "one" / "s_PR.csv", tmp_path / "many" / "s_PR.csv"
    subprocess.run([*command, "-o", one], cwd=repo, check=True, stdout=subprocess.DEVNULL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        command += ["-o", many, "--ray", cluster.address]
        process = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        victim = worker_in_the_middle(many.parent / "s_PR.csv.blocks", process)
        os.kill(victim, signal.SIGKILL)
        out, _ = process.communicate(timeout=900)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, out
    for dimension in ("CF", "SCC", "PR"):
        for suffix in ("csv", "csv.json"):
            name = f"s_{dimension}.{suffix}"
            assert (many.parent / name).read_bytes() == (one.parent / name).read_bytes(), name
    assert len(rows_of(many)) == 200
    assert not (many.parent / "s_PR.csv.blocks").exists()


def worker_in_the_middle(folder: Path, process: subprocess.Popen, within: float = 600) -> int:
    """The process that is writing a block and has begun with it."""
    end = time.monotonic() + within
    while time.monotonic() < end and process.poll() is None:
        for journal in folder.glob("*_PR.csv.partial"):
            try:
                if journal.read_bytes().count(b"\n") > 2:
                    return int(journal.with_name(journal.name.replace(".partial", ".lock")).read_text())
            except (OSError, ValueError):  # the block ended meanwhile
                continue
        time.sleep(0.01)
    raise AssertionError("no worker was seen at work")
