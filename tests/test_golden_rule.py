"""The formulas of the golden weights and inputs make what the published code was run on, bit for bit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import (
    FIGURES,
    IMAGES,
    NAMES,
    image,
    labels,
    object_slots,
    statistics,
    write_inputs,
)
from PIL import Image
from published_layout import COUNTS, SPELLINGS, cf_layout, count, pr_layout, scc_layout

LAYOUTS = {"CF": cf_layout, "SCC": scc_layout, "PR": pr_layout}
SPECS = Path(__file__).resolve().parents[2] / "shared" / "specs"  # the measurements themselves, where they are at hand

needs_specs = pytest.mark.skipif(not SPECS.is_dir(), reason="the measurements lie outside the repository")


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("dimension", LAYOUTS)
def test_a_layout_has_the_counts_of_the_published_network(dimension):
    layout, known = LAYOUTS[dimension](), COUNTS[dimension]
    assert count(layout) == type(known)(known.tensors, known.parameters, known.buffers)
    assert {prefix: count(layout, prefix).parameters for prefix in known.parts} == known.parts
    outermost = [prefix for prefix in known.parts if prefix.count(".") == 1]
    assert sum(known.parts[prefix] for prefix in outermost) == known.parameters


def test_both_spellings_of_cf_are_of_one_network():
    classic, newer = (cf_layout(spelling) for spelling in SPELLINGS)
    assert list(classic.values()) == list(newer.values())
    shared = set(classic) & set(newer)
    layer_norms = 2 * 2 * 12  # not renamed themselves, but what stands before them is
    assert len(shared) == 213 - 12 * (2 * 6) - layer_norms
    assert "vit.layers.11.attention.o_proj.bias" in newer
    assert "vit.layers.0.layernorm_after.weight" in newer
    assert not [name for name in newer if "encoder" in name]
    with pytest.raises(ValueError, match=r"one of classic, transformers-5\.9, not 5\.9"):
        cf_layout("5.9")


@pytest.mark.parametrize("number", range(IMAGES))
def test_the_images_are_the_published_ones(number):
    known = FIGURES["pictures"][number]
    pixels = image(number)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (known["size"][1], known["size"][0], 3)
    assert sha256(pixels) == known["sha256"]["rgb"]


@pytest.mark.parametrize("number", range(IMAGES))
def test_the_labels_are_of_the_published_classes(number):
    lines = labels(number)
    assert [int(line.split()[0]) for line in lines] == FIGURES["pictures"][number]["classes"]
    for line in lines:
        assert all(0 < float(value) < 1 for value in line.split()[1:])
        assert [len(value) for value in line.split()[1:]] == [8] * 4


@pytest.mark.parametrize("number", range(IMAGES))
def test_the_object_slots_have_the_published_statistics(number):
    shape, mean, spread, first = FIGURES["statistics"]["SCC"]["slots"][number]
    slots = torch.from_numpy(object_slots(labels(number)))
    found = statistics(slots)
    assert found[0] == shape
    assert found[1] == pytest.approx(mean, abs=2e-8)
    assert found[2] == pytest.approx(spread, abs=2e-8)
    assert found[3] == pytest.approx(first, abs=2e-8)
    assert slots.any(1).sum() == min(len(labels(number)), 20)


def test_the_figures_of_scores_and_before_the_last_function_agree():
    for before, after in (
        *((FIGURES["before_tanh"]["CF"][kind], FIGURES["scores"]["CF"][kind]) for kind in ("bicubic", "bilinear")),
        (FIGURES["before_tanh"]["PR"], FIGURES["scores"]["PR"]),
    ):
        assert np.tanh(before) == pytest.approx(after, abs=1e-7)


@pytest.mark.parametrize("dimension", LAYOUTS)
def test_the_figures_of_a_training_step_follow_from_each_other(dimension):
    step = FIGURES["training"][dimension]
    assert np.square(np.subtract(step["scores"], step["targets"])).mean() == pytest.approx(step["loss"], abs=1e-7)
    assert np.hypot.reduce(list(step["gradients"].values())) == pytest.approx(step["gradient"], rel=1e-7)
    trained = [prefix for prefix in COUNTS[dimension].parts if prefix.count(".") == 1]
    assert list(step["gradients"]) == trained


@needs_specs
@pytest.mark.parametrize("dimension", LAYOUTS)
def test_a_layout_is_the_measured_one(dimension):
    known = json.loads((SPECS / f"manifest_{dimension}.json").read_text())
    measured = {row["key"]: (tuple(row["shape"]), getattr(torch, row["dtype"])) for row in known["tensors"]}
    assert list(LAYOUTS[dimension]().items()) == list(measured.items())
    assert (known["n_tensors"], known["n_parameters"], known["n_buffer_elements"]) == (
        COUNTS[dimension].tensors,
        COUNTS[dimension].parameters,
        COUNTS[dimension].buffers,
    )


@needs_specs
def test_written_inputs_are_the_measured_ones(tmp_path):
    write_inputs(tmp_path)
    known = SPECS / "golden_inputs"
    files = sorted(path.relative_to(known) for path in known.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 9
    for name in files:
        if name.suffix == ".png":  # compression is the business of zlib
            with Image.open(known / name) as theirs, Image.open(tmp_path / name) as ours:
                assert np.array_equal(np.asarray(theirs), np.asarray(ours)), name
        else:
            assert (known / name).read_bytes() == (tmp_path / name).read_bytes(), name


def leaves(tree: object) -> list[float]:
    """All numbers of nested objects and lists; of each statistic also those of its shape, without a batch of 1."""
    if isinstance(tree, dict):
        shape = tree.get("shape")
        if shape is not None:
            return [*(shape[1:] if shape[0] == 1 else shape), tree["mean"], tree["std"], *tree["first4"]]
        return [number for branch in tree.values() for number in leaves(branch)]
    if isinstance(tree, list):
        return [number for branch in tree for number in leaves(branch)]
    return [tree] if isinstance(tree, int | float) else []


@pytest.fixture(scope="module")
def measured() -> dict:
    if not SPECS.is_dir():
        pytest.skip("the measurements lie outside the repository")
    return json.loads((SPECS / "golden.json").read_text())


def test_the_figures_of_the_inputs_are_the_measured_ones(measured):
    for number, name in enumerate(NAMES):
        theirs, ours = measured["inputs"][name], FIGURES["pictures"][number]
        assert ours["size"] == theirs["size_wh"]
        assert ours["classes"] == theirs["label_classes"]
        assert list(ours["sha256"].values()) == [theirs[key] for key in theirs if key.startswith("sha256")]
        lab = {plane: values[number] for plane, values in FIGURES["statistics"]["lab"].items()}
        assert leaves(lab) == leaves(theirs["lab384_bicubic"])
        assert leaves(FIGURES["statistics"]["standardized"][number]) == leaves(theirs["tensor224_norm"])
    for dimension, theirs in measured["weights"].items():
        assert list(FIGURES["weights"][dimension].values()) == list(theirs.values())


def test_the_figures_of_cf_are_the_measured_ones(measured):
    for kind in ("bicubic", "bilinear"):
        (theirs,) = (measured["CF"][key] for key in measured["CF"] if kind in key)
        for number, name in enumerate(NAMES):
            ours = [FIGURES[table]["CF"][kind][number] for table in ("scores", "before_tanh")]
            ours += [values[number] for values in FIGURES["statistics"]["CF"][kind].values()]
            assert leaves(ours) == leaves(theirs[name])
    assert FIGURES["batch_of_4_minus_1"]["CF"] == pytest.approx(measured["CF"]["batch4_minus_batch1_max_abs"], rel=1e-3)


def test_the_figures_of_scc_are_the_measured_ones(measured):
    known = FIGURES["statistics"]["SCC"]
    cases = [
        (name, number, number, *(FIGURES["scores"]["SCC"][graph][number] for graph in ("infer", "train")))
        for number, name in enumerate(NAMES)
    ]
    extra = [key for key in measured["SCC"] if key not in NAMES]
    for key, case in zip(extra, FIGURES["extra"]["SCC"], strict=True):
        assert str(case["picture"]) in key
        assert "without" in key if case["labels"] is None else key.endswith(str(case["labels"]))
        # what the network makes of the image and of the labels is known from the images they belong to
        cases.append((key, case["picture"], case["labels"] or 0, case["infer"], case["train"]))
    for key, shown, labeled, *scores in cases:
        ours = [known["slots"][labeled], known["image"][shown]]
        ours += [known[part][labeled] for part in ("objects", "logits", "attention")]
        theirs = measured["SCC"][key]
        assert leaves([*scores, len(labels(labeled)[:20]), ours]) == leaves(theirs), key
    assert FIGURES["batch_of_4_minus_1"]["SCC"] == pytest.approx(measured["SCC_batch4_minus_batch1_max_abs"], rel=1e-3)


def test_the_figures_of_pr_are_the_measured_ones(measured):
    statistic = FIGURES["statistics"]["PR"]
    for number, name in enumerate(NAMES):
        sub_scores = [FIGURES["scores"]["CF"]["bicubic"][number], FIGURES["scores"]["SCC"]["infer"][number]]
        ours = [FIGURES["scores"]["PR"][number], FIGURES["before_tanh"]["PR"][number]]
        ours += [statistic["image"][number], statistic["scores"][number]]
        assert leaves([sub_scores, ours]) == leaves(measured["PR"][name])
    extra = [key for key in measured["PR"] if key not in NAMES]
    for key, case in zip(extra, FIGURES["extra"]["PR"], strict=True):
        ours = [case["sub_scores"], case["score"], case["before_tanh"], statistic["image"][case["picture"]], case["scores"]]
        assert leaves(ours) == leaves(measured["PR"][key])


def test_the_figures_of_training_are_the_measured_ones(measured):
    for dimension, ours in FIGURES["training"].items():
        theirs = {key: value for key, value in measured["train_step_eval_mode"][dimension].items() if "after" not in key}
        assert leaves(ours) == leaves(theirs)
        assert ours["without"] == theirs["params_without_grad"]
