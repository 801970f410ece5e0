"""The benchmarks compute what their pages say; their pieces are tried on a few small images, and nothing is measured."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Run, make_image
from PIL import Image
from published_layout import cf_layout, pr_layout, scc_layout

from benchmarks import baselines, gpu_session, hecd, measure, memory, precision, reference, stages, throughput
from benchmarks.weights import color_prior, write_labels, write_weights
from data.icqa2k import load_icqa2k
from inference.batches import BatchedNetworks
from inference.scorer import Scorer
from models import load_model
from train_CF import RECIPE
from training.options import add_fold_arguments, parse_training, training_parser
from utils.images import list_images
from utils.labels import read_yolo

NAMES = [f"{number}.jpg" for number in range(3)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(NAMES):
        Image.fromarray(make_image(seed, 60, 80)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What benchmarks/weights.py writes, for three images."""
    folder = tmp_path_factory.mktemp("published")
    write_weights(folder)
    (folder / "color_.json").write_text(json.dumps(color_prior()))
    write_labels(folder / "labels", NAMES)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, which pytest would keep for a while


def process(seconds: float, peak_mib: float = 1000.0) -> measure.Run:
    return measure.Run(seconds=seconds, cpu_seconds=2 * seconds, other_seconds=0.25, peak_mib=peak_mib)


def cells(table: str, start: str) -> list[str]:
    """The cells of the row of a Markdown table that starts with these characters."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")]


# --- Made-up weights, labels and color prior


@pytest.mark.parametrize(("dimension", "layout"), [("CF", cf_layout), ("SCC", scc_layout), ("PR", pr_layout)])
def test_weight_files_have_the_published_layout_and_load(published: Path, dimension: str, layout: Callable) -> None:
    state = torch.load(published / f"{dimension}.pth", weights_only=True)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()} == layout()
    assert load_model(published / f"{dimension}.pth", dimension=dimension, preset="published").dimension == dimension


@pytest.mark.parametrize("dimension", ["CF", "SCC", "PR"])
def test_the_reference_gives_the_scores_of_our_networks(published: Path, images: Path, dimension: str) -> None:
    paths = [images / name for name in NAMES[: 1 if dimension == "CF" else 3]]  # CF takes a second each
    found = reference.score_folder(paths, dimension, published)
    model = load_model(published / f"{dimension}.pth")
    zeros = [0.0] * len(paths)
    expected = model.score(paths, cf=zeros, scc=zeros) if dimension == "PR" else model.score(paths)
    assert found == pytest.approx(expected, abs=2e-6)
    assert max(map(abs, found)) < 0.99
    assert dimension == "CF" or np.std(found) > 1e-3


def test_labels_have_0_to_10_boxes_in_turn_and_can_be_read(tmp_path: Path) -> None:
    write_labels(tmp_path, [f"deep/{number}.png" for number in range(12)])
    boxes = [read_yolo(tmp_path / "deep" / f"{number}.txt") for number in range(12)]
    assert [len(of_image) for of_image in boxes] == [*range(11), 0]


# --- Commands and pages


def test_infer_pr_takes_the_command_that_is_timed(
    published: Path, images: Path, tmp_path: Path, run: Callable[..., Run]
) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(images / NAMES[1], one)
    command = measure.infer_command(one, tmp_path / "scores_PR.csv", published, "bfloat16")
    assert command[:2] == [sys.executable, measure.ROOT / "infer_PR.py"]
    assert run("infer_PR.py", *command[2:]).code == 0
    for dimension in ("CF", "SCC", "PR"):
        assert NAMES[1] in (tmp_path / f"scores_{dimension}.csv").read_text()
    assert json.loads((tmp_path / "scores_SCC.csv.json").read_text())["preprocessing"]["precision"] == "bfloat16"


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    measure.write_section(page, "# Title\n\nText.\n", "first", "old")
    measure.write_section(page, "# Title\n\nText.\n", "second", "| a |\n\nb\n")
    measure.write_section(page, "# New title", "first", "new\n")
    assert page.read_text() == "# New title\n\n## first\n\nnew\n\n## second\n\n| a |\n\nb\n"


def test_the_recorded_command_has_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/benchmarks/precision.py", "/home/me/my photos", "--count", "9"])
    recorded = measure.command_line("precision.py", {"/home/me/my photos": "PHOTOS"})
    assert recorded == "python benchmarks/precision.py PHOTOS --count 9"


# --- throughput.py


def test_speed_table_and_ratio_follow_from_the_runs() -> None:
    ours, theirs = [process(2.0), process(3.0, 1400.0), process(10.0)], [process(8.0), process(15.0), process(20.0)]
    table = throughput.speed_table({"ours": ours, throughput.REFERENCE: theirs}, count=60)
    assert cells(table, "ours") == ["ours", "**3.00**", "2.00, 3.00, 10.00", "20.00", "6.00", "1400", "0.2, 0.2, 0.2"]
    assert cells(table, throughput.REFERENCE)[1:4] == ["**15.00**", "8.00, 15.00, 20.00", "4.00"]
    assert throughput.ratio(ours, theirs) == "infer_PR.py is **4.0 times** as fast (pair by pair 2.0 to 5.0)."


def test_the_pipeline_is_set_against_the_slowest_stage_and_the_networks_against_the_peak() -> None:
    rates = {"decode only": 500.0, "preprocess only": 100.0, "forward only": 200.0, "pipeline": 80.0}
    text = stages.Rates(rates, operations=2 * 10**9, peak=10**12, workers=2).text()
    assert cells(text, "pipeline") == ["pipeline", "80.0"]
    assert "reaches **80%** of the smallest of the three, preprocess only" in text
    assert "2.0 GFLOPs per image: 0.4 TFLOP/s in forward only, **40.0%** of the 1 TFLOP/s" in text


@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "as on a GPU"])
def test_all_stages_of_compact_networks_are_measured(
    weights: dict[str, Path], images: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    monkeypatch.setattr(stages, "_LEAST_SECONDS", 0.01)
    monkeypatch.setitem(stages._MATRIX, "cpu", 64)
    engine = stages.TorchEngine({dimension: load_model(weights[dimension]) for dimension in ("CF", "SCC", "PR")})
    if batched:
        networks = engine._networks.replicas.networks
        engine._batched = BatchedNetworks(networks, ["cpu"], batch=4)
        engine._scorer = Scorer(engine._batched)
    rates = stages.measure(engine, list_images(images))
    assert list(rates.images_per_second) == [*stages.STAGES, stages.PIPELINE]
    assert min(*rates.images_per_second.values(), rates.operations, rates.peak) > 0


def test_stages_one_after_another_give_the_scores_of_the_pipeline_and_the_operations_of_the_known_backbones(
    published: Path, images: Path
) -> None:
    engine = stages.TorchEngine.of_published(published, "cpu", "float32")
    pixels = engine.decode(images / NAMES[1])
    prepared = engine.prepare(pixels, NAMES[1])
    assert engine.forward(prepared, NAMES[1]) == engine.score(images / NAMES[1], NAMES[1])
    # multiplications and additions of torchvision's and timm's tables, two operations each
    assert engine.operations(pixels, NAMES[1]) == pytest.approx(2 * (55.5e9 + 1.82e9 + 4.09e9), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "bfloat16"], "--precision is for --preset published, or a GPU"),
        (["--preset", "published", "--precision", "tf32"], "tf32 is for --device cuda"),
    ],
)
def test_throughput_refuses_what_does_not_go_together(run: Callable[..., Run], arguments: list[str], message: str) -> None:
    done = run("benchmarks/throughput.py", *arguments)
    assert done.code == 2
    assert message in done.err


def test_throughput_says_in_a_line_that_there_is_no_gpu(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run("benchmarks/throughput.py", "--device", "cuda")
    assert done.code == 1
    assert done.err.startswith("error: no CUDA device; ")
    assert done.err.count("\n") == 1


# --- precision.py


def test_scores_of_two_precisions_are_compared() -> None:
    exact, rounded = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.21, 0.28, 0.27])
    found = precision.compare(exact, rounded)
    assert found["SRCC"] == pytest.approx(0.8)  # one neighboring pair changed places
    assert found["largest"] == pytest.approx(0.13)
    assert found["mean"] == pytest.approx(0.04)
    assert found["spread"] == pytest.approx(0.1118, abs=1e-4)
    assert cells(precision.table({"CF": found}), "CF") == ["CF", "**0.80000**", "1.3e-01", "4.0e-02", "0.112"]


def test_photographs_are_spaced_evenly() -> None:
    names = [f"{number:02d}" for number in range(10)]
    assert precision.evenly(names, 4) == ["00", "03", "06", "09"]
    assert precision.evenly(names, 10) == precision.evenly(names, 99) == names


def test_precision_scores_photographs_twice_and_names_what_cannot_be_read(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(images, photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    monkeypatch.setattr(precision, "NETWORKS", {"SCC": precision.NETWORKS["SCC"]})  # the quickest
    monkeypatch.setattr(sys, "argv", ["precision.py", str(photos)])
    assert precision.main() == 0
    printed = capsys.readouterr()
    assert "3 photographs, evenly spaced over the 4 of the folder" in printed.out
    largest, spread = (float(cells(printed.out, "SCC")[column]) for column in (2, 4))
    assert 0 < largest < 0.02  # rounded, but little
    assert spread > 0
    assert printed.err.count("broken.jpg") == 2


# --- memory.py


def test_many_training_images_are_cut_from_a_few(tmp_path: Path) -> None:
    folder = tmp_path / memory.TRAIN
    folder.mkdir()
    for seed, stem in enumerate(("BIG_000000000001", "CIC_000000000001")):
        Image.fromarray(make_image(seed, 60, 80)).save(folder / f"{stem}.jpg")
    for dimension in ("CF", "PR"):
        mos = {"BIG_000000000001": 0.5, "CIC_000000000001": -0.25}
        (tmp_path / f"{memory.TRAIN}_{dimension}_mos.json").write_text(json.dumps(mos))
    memory.enlarge(tmp_path, 12)
    frame = load_icqa2k(tmp_path, "train")  # which refuses images without ratings and ratings without images
    assert len(frame) == 12
    assert frame["scene"].value_counts().to_list() == [5, 5, 2]
    assert sorted(frame["CF"]) == [-0.25] * 6 + [0.5] * 6
    assert len({path.read_bytes() for path in folder.iterdir()}) == 12


@pytest.mark.parametrize("checkpointed", [True, False])
def test_train_cf_takes_the_command_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointed: bool
) -> None:
    command = memory.training_command(tmp_path, tmp_path / "run", 12, 24, checkpointed)
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in command[1:]])
    parser = training_parser(None)
    add_fold_arguments(parser)
    args = parse_training(parser, "CF", RECIPE)
    assert (args.preset, args.batch_size, args.limit, args.epochs, args.folds) == ("published", 12, 24, 1, 0)
    assert args.cache == tmp_path / "run" / "cache"
    assert args.checkpoint_activations == checkpointed


def test_memory_table_counts_the_images_that_were_not_read() -> None:
    cached = 3 * 384 * 384 + 128
    trainings = [
        memory.Training(False, 1600, 24, 2, process(90, 9000.0), 60.0, cached),
        memory.Training(True, 1600, 24, 2, process(120, 4000.0), 80.0, cached),
    ]
    table = memory.table(trainings, 12)
    assert cells(table, "no") == ["no", "24 of 1600", "**9000**", "9665", "60.0", "30.0", "0"]  # 1576 images, 665 MiB
    assert cells(table, "yes") == ["yes", "24 of 1600", "**4000**", "4665", "80.0", "40.0", "0"]
    assert "- without `--checkpoint-activations`, batch 12: 10135 MB, does not fit in 6 GB" in table
    assert "- with `--checkpoint-activations`, batch 12: 4892 MB, fits in 6 GB" in table
    assert "0.44 MB an image, 8.0 times less than the 3.54 MB" in table


# --- Baselines


def test_infer_baseline_takes_the_commands_that_are_measured(images: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    commands = []

    def note(command: list) -> measure.Run:
        commands.append([str(word) for word in command])
        return process(10.0 + 2.0 * len(list(Path(command[3]).iterdir())), 700.0)

    monkeypatch.setattr(baselines, "run", note)
    monkeypatch.setattr(sys, "argv", ["baselines.py", "cost"])
    baselines.main()
    table = capsys.readouterr().out
    assert len(table.splitlines()) == len(baselines.SETTINGS) == len(commands) / 2
    assert cells(table, "dpam |")[3:] == ["2.00", "700"]
    with_originals = [command for command in commands if "--reference" in command]
    assert {command[2] for command in with_originals} == {"afine", "fr_aigciqa"}
    assert not any("--naturalness" in command for command in with_originals)


def test_rows_of_baselines_on_hecd_follow_from_the_kept_predictions(tmp_path: Path) -> None:
    """The predictions of one system are the ratings themselves, those of the other their opposites and of few scenes."""
    rng = np.random.default_rng(0)
    scenes, methods = [f"{n:06d}" for n in range(12)], ["original", "B_1", "D_1", "F_1", "O_1", "L_1", "Z_1"]
    frame = pd.DataFrame(
        [{"image": f"images/{s}{m}.jpg", "scene": s, "method": m, "kind": m[0]} for s in scenes for m in methods]
    )
    frame.loc[frame["method"] == "original", "kind"] = "original"
    for dimension in ("CF", "SCC", "PR"):
        frame[dimension] = rng.permutation(len(frame)) / len(frame)
    kept = frame.assign(image=[Path(name).name for name in frame["image"]], system="Same")[
        ["system", "image", "CF", "SCC", "PR"]
    ]
    other = kept[frame["scene"].isin(scenes[:3])].assign(system="Opposite")
    other[["CF", "SCC", "PR"]] *= -1
    pd.concat([kept, other]).to_csv(tmp_path / "hecd_baselines.csv", index=False)
    origin = {"backbone": "random", "tested": "test scenes only", "command": "python x.py", "torch": "2"}
    (tmp_path / "hecd_baselines.json").write_text(json.dumps({"Same": origin, "Opposite": origin}))

    section = hecd.baselines(frame, tmp_path)
    rows = [line for line in section.splitlines() if line.startswith(("| Same", "| Opposite"))]
    assert [row.count("real colorizers") for row in rows] == [0, 0, 0, 0, 1, 0, 1, 0, 1]
    assert all("1.00 [1.00, 1.00]" in row for row in rows if "Same" in row)
    assert all("-1.00 [-1.00, -1.00]" in row and "| random     |        3 |" in row for row in rows if "Opposite" in row)
    assert section.count("`python x.py`") == 2
    assert hecd.baselines(frame, tmp_path / "nowhere") == ""


# --- gpu_session.py


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_training_scripts_take_the_commands_of_the_gpu_session(tmp_path: Path, device: str) -> None:
    parser = training_parser("")
    add_fold_arguments(parser)
    commands = [step.command for step in gpu_session.steps(device, tmp_path) if step.name.startswith("train")]
    options = [parse_training(parser, "CF", RECIPE, [str(word) for word in command[2:]]) for command in commands]
    assert [chosen.preset for chosen in options] == ["compact", "published"][: len(options)]
    assert len(options) == (2 if device == "cuda" else 1)


def test_a_step_that_takes_too_long_is_ended_and_the_status_of_others_is_kept(tmp_path: Path) -> None:
    step = gpu_session.Step("sleep", [sys.executable, "-c", "import time; time.sleep(60)"], 60)
    assert gpu_session.run(step, tmp_path, 0.2) == "ended after 0 s"
    fails = gpu_session.Step("fails", [sys.executable, "-c", "print('why'); raise SystemExit(3)"], 60)
    assert gpu_session.run(fails, tmp_path, 60) == 3
    assert (tmp_path / "fails.txt").read_text() == "why\n"
