"""Weight files of other people: what is unwrapped, compared and reported, and how it fails."""

import pytest
import torch

from baselines.loading import LoadReport, check_tensors, fetched, opened, unwrapped
from models.backbone import UnreachableError

ONE, TWO = torch.zeros(1), torch.zeros(2)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "params"])
@pytest.mark.parametrize("prefix", ["module.", "network.", "module.network.", ""])
def test_wrappers_and_prefixes_come_off_also_one_in_another(wrapper, prefix):
    content = {"epoch": 3, "state_dict": {wrapper: {f"{prefix}a.module.b": ONE}}}
    assert list(unwrapped(content, "x.pth")) == ["a.module.b"]


@pytest.mark.parametrize("content", [None, [ONE], {}, {"epoch": 3}, {"state_dict": {}}, {"model": {"a": "b"}}])
def test_what_holds_no_tensors_is_refused_by_file(content):
    with pytest.raises(ValueError, match=r"x\.pth holds no tensors by name; expected a state dict"):
        unwrapped(content, "x.pth")


def test_groups_of_tensors_are_kept_and_records_of_a_training_left_out_of_start_weights(tmp_path):
    content = {"epoch": 3, "a": ONE, "group": {"b": TWO}}
    assert list(unwrapped(content, "")) == ["epoch", "a", "group"]
    assert opened(content, "a network") == ("the state dict", {"a": ONE, "group": {"b": TWO}})
    torch.save(content, tmp_path / "x.pth")
    source, state = opened(str(tmp_path / "x.pth"), "a network")
    assert source == str(tmp_path / "x.pth")
    assert list(state) == ["a", "group"]
    with pytest.raises(FileNotFoundError, match=r"no backbone weights at .*none\.pth"):
        opened(tmp_path / "none.pth", "a network")


def test_an_error_counts_what_is_absent_unknown_and_misshapen_and_names_the_first_of_each():
    expected = {"a": ONE, "b": ONE, "c": ONE, "d": ONE, "e": ONE}
    found = {"x": ONE, "c": TWO, "d": 3.0, "e": ONE, "y": ONE}
    said = (
        r"x\.pth does not fit a network: of 5 tensors 2 absent, e\.g\. a; 2 unknown, e\.g\. x; "
        r"2 of another shape, e\.g\. c has \(2,\), expected \(1,\)$"
    )
    with pytest.raises(ValueError, match=said):
        check_tensors(found, expected, "x.pth", "a network")
    with pytest.raises(ValueError, match=r"of 2 tensors 1 of another shape, e\.g\. d has float, expected \(1,\)$"):
        check_tensors({"d": 3.0, "e": ONE}, expected, "x.pth", "a network", ["d", "e"])
    check_tensors({"e": ONE}, expected, "x.pth", "a network", ["e"])
    check_tensors(expected, expected, "x.pth", "a network")


def test_a_report_names_and_counts_and_puts_alike_names_together():
    loaded = [f"blocks.{n}.fc.weight" for n in range(12)] + ["layers.7.fc.weight", *"abcdefg"]
    report = LoadReport("x.pth", loaded, {"u": "unused", "v": "of the head", "w": "unused"}, ["heads.0.bias", "heads.1.bias"])
    assert str(report).split("\n") == [
        "20 tensors loaded from x.pth: blocks.*.fc.weight (12), layers.7.fc.weight, a, b, c, d, e, f, ...",
        "  2 ignored, unused: u, w",
        "  1 ignored, of the head: v",
        "  2 of the network not in it, left as they were: heads.*.bias (2)",
    ]


def test_whatever_a_hub_raises_becomes_one_error_with_advice():
    def fail() -> None:
        raise KeyError("x" * 1000)

    with pytest.raises(UnreachableError, match=r"could not fetch a of b \(KeyError: 'x{199}\); fetch c elsewhere and pass --"):
        fetched("a of b", fail, "fetch c")
    assert fetched("a of b", lambda: {"a": ONE}, "fetch c") == ("a of b", {"a": ONE})
