"""Checkpoints: what is saved comes back, nothing in a file is executed, and every kind of wrong file is named."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from models import ChromaticFidelityNet, SemanticConsistencyNet, load_model
from models.loading import build_model
from utils.checkpoint import FORMAT, read_checkpoint, save_checkpoint
from utils.files import sha256


def build(network: type[nn.Module] = ChromaticFidelityNet, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return network(backbone="test_efficientnet", size=64, **options).eval()


def score(net: nn.Module) -> float:
    image = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    return net.score(image, cf=0.1, scc=-0.2) if net.dimension == "PR" else net.score(image)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "CF.pt"
    save_checkpoint(path, build(), metrics={"SRCC": 0.5})
    return path


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of a good checkpoint with other entries, or without those given as None."""

    def write(**entries) -> Path:
        content = torch.load(saved, weights_only=True) | entries
        torch.save({k: v for k, v in content.items() if v is not None}, tmp_path / "damaged.pt")
        return tmp_path / "damaged.pt"

    return write


def test_half_precision_takes_half_the_space_and_computes_in_full(tmp_path):
    net = build(SemanticConsistencyNet)
    save_checkpoint(tmp_path / "full.pt", net)
    save_checkpoint(tmp_path / "half.pt", net, half=True)
    assert (tmp_path / "half.pt").stat().st_size < 0.6 * (tmp_path / "full.pt").stat().st_size
    stored = read_checkpoint(tmp_path / "half.pt")["model"]
    assert {v.dtype for k, v in stored.items() if k != "object_file"} == {torch.float16, torch.int64}
    assert stored["object_file"].dtype == torch.uint8  # a file stays as it is
    loaded = load_model(tmp_path / "half.pt")
    state = net.state_dict()
    for key, value in loaded.state_dict().items():
        assert value.dtype == state[key].dtype
        torch.testing.assert_close(value, state[key], atol=1e-4, rtol=1e-3)
    assert score(loaded) == pytest.approx(score(net), abs=0.01)


def test_weights_beyond_half_precision_are_refused_rather_than_stored_as_infinity(tmp_path):
    net = build()
    net.chroma_path.net[0].weight.data[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"chroma_path\.net\.0\.weight holds values beyond the range of float16 \(65504\)"):
        save_checkpoint(tmp_path / "half.pt", net, half=True)
    assert not list(tmp_path.iterdir())
    save_checkpoint(tmp_path / "full.pt", net)
    assert load_model(tmp_path / "full.pt").chroma_path.net[0].weight[0, 0, 0, 0] == 1e5


def test_a_checkpoint_holds_all_it_takes_and_no_code(saved):
    content = torch.load(saved, map_location="cpu", weights_only=True)
    assert content["format"] == FORMAT
    assert content["dimension"] == "CF"
    assert content["metrics"] == {"SRCC": 0.5}
    assert content["preprocessing"] == build().preprocessing()
    assert content["preprocessing"]["size"] == 64


@pytest.mark.parametrize("needed", [{}, {"dimension": "CF"}, {"preset": "compact"}])
def test_a_checkpoint_of_a_baseline_says_which_script_scores_with_it(saved, tmp_path, needed):
    torch.save(torch.load(saved, weights_only=True) | {"preset": "baseline", "dimension": "dpam"}, tmp_path / "dpam.pt")
    with pytest.raises(ValueError, match=r"dpam\.pt: preset is 'baseline'.*infer_baseline\.py scores with files"):
        load_model(tmp_path / "dpam.pt", **needed)


def test_the_hash_and_the_images_seen_are_those_of_the_file(tmp_path):
    save_checkpoint(tmp_path / "CF.pt", build(), seen=torch.tensor([[1000, 2**62 + 1], [2000, 7]]))
    loaded = load_model(tmp_path / "CF.pt")
    assert loaded.weights_hash == sha256(tmp_path / "CF.pt")
    assert loaded.seen == ({1000, 2000}, {2**62 + 1, 7})


def test_without_a_record_no_image_was_seen(saved):
    assert load_model(saved).seen == (frozenset(), frozenset())


def test_a_missing_file_is_named_with_the_folder_of_the_shipped_weights(tmp_path, monkeypatch):
    for module in ("models.loading", "utils.checkpoint"):
        monkeypatch.setattr(f"{module}.SHIPPED", tmp_path / "weights")
    shipped = re.escape(str(tmp_path / "weights"))
    with pytest.raises(FileNotFoundError, match=rf"no weights at .*absent\.pt; the shipped ones lie in {shipped} and "):
        load_model(tmp_path / "absent.pt")
    for dimension in ("CF", "SCC", "PR"):
        with pytest.raises(FileNotFoundError, match=rf"no weights at {shipped}/{dimension}\.pt; the shipped ones lie in"):
            load_model(dimension)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("cf", FileNotFoundError, "no weights at cf; the shipped ones lie in"),
        ("PR.pt", FileNotFoundError, "and are named CF, SCC or PR, without a path"),
        ("weights", FileNotFoundError, "weights is a folder, not a file of weights; the shipped ones"),
        (None, TypeError, "expected CF, SCC, PR or the path of a checkpoint, got None"),
        (5, TypeError, "expected CF, SCC, PR or the path of a checkpoint, got 5"),
    ],
)
def test_what_names_no_weights_is_refused_with_what_would(wrong, error, message):
    with pytest.raises(error, match=re.escape(message)):
        load_model(wrong)


def test_an_unknown_preset_is_refused_with_those_there_are(saved):
    with pytest.raises(ValueError, match="preset must be compact or published, got 'Published'"):
        load_model(saved, preset="Published")


def test_a_dimension_names_the_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("models.loading.SHIPPED", tmp_path)
    net = build(SemanticConsistencyNet)
    save_checkpoint(tmp_path / "SCC.pt", net)
    assert score(load_model("SCC")) == score(net)


class _Touch:
    """What a pickle can do to whoever loads it: call a function, here one that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("modern", [True, False])
def test_a_file_that_holds_code_is_refused_and_the_code_is_not_run(tmp_path, modern):
    made = tmp_path / "made by the pickle"
    content = {"format": FORMAT, "dimension": "CF", "metrics": _Touch(made)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=modern)
    with pytest.raises(ValueError, match=r"evil\.pt cannot be read as weights \(damaged, or more in it than") as caught:
        load_model(tmp_path / "evil.pt")
    assert not made.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice, how to run the code all the same
    assert "\x1b" not in str(caught.value)
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert made.exists()  # the trap was armed


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(saved, tmp_path, share):
    data = saved.read_bytes()
    (tmp_path / "part.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"part\.pt cannot be read as weights \(.+\); expected a checkpoint of train_CF"):
        load_model(tmp_path / "part.pt")


@pytest.mark.parametrize(
    "data", [b"SRCC 0.92\n", b"<!DOCTYPE html><html>404</html>", b"\x89PNG\r\n\x1a\n", b"\x80\x02}e.", b"u)", b"s", bytes(300)]
)
def test_a_file_of_another_kind_is_named(tmp_path, data):
    (tmp_path / "other.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"other\.pt cannot be read as weights \(.+\); .*fetch or train it again"):
        load_model(tmp_path / "other.pt")


@pytest.mark.parametrize("dimension", ["PSNR", None, 3, ["CF"]])
def test_an_unknown_dimension_is_refused(damaged, dimension):
    message = re.escape(f"dimension is {dimension!r}, expected one of CF, SCC, PR")
    with pytest.raises(ValueError, match=message):
        load_model(damaged(dimension=dimension))


@pytest.mark.parametrize(
    "entries",
    [
        {"config": None},
        {"config": [1]},
        {"config": {"depth": 3}},
        {"config": {"backbone": "no_such_net"}},
        {"model": None},
        {"model": [1]},
        {"model": {"chroma_path.net.0.bias": 1}},
    ],
    ids=str,
)
def test_a_checkpoint_that_lacks_or_garbles_an_entry_is_named(damaged, entries):
    with pytest.raises(ValueError, match=r"damaged\.pt does not hold a CF network of this version"):
        load_model(damaged(**entries))


def test_errors_of_build_model_name_the_source():
    with pytest.raises(ValueError, match="the file of --init: dimension is None"):
        build_model({"format": FORMAT}, "the file of --init")


def test_writing_leaves_one_file_even_when_it_replaces_another(tmp_path):
    for seed in (0, 1):
        net = build(seed=seed)
        save_checkpoint(tmp_path / "CF.pt", net)
        assert [path.name for path in tmp_path.iterdir()] == ["CF.pt"]
        assert score(load_model(tmp_path / "CF.pt")) == score(net)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    net = build()
    save_checkpoint(tmp_path / "CF.pt", net)

    def full_disk(*args) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path / "CF.pt", build(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["CF.pt"]
    assert score(load_model(tmp_path / "CF.pt")) == score(net)
