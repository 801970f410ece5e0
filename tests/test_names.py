"""Names that are written in different ways are one image where nothing else can be meant."""

import unicodedata

import pytest

from utils.names import match_names, nearest, written_otherwise

NFC, NFD = (unicodedata.normalize(form, "grün/é1.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("wanted", "given", "found"),
    [
        (["a/1.jpg"], ["b/1.jpg", "a/1.jpg", "A/1.JPG"], {"a/1.jpg": "a/1.jpg"}),  # as written, before all else
        ([NFC, "x.png"], [NFD, "x.png"], {NFC: NFD, "x.png": "x.png"}),
        (["a/b/1.jpg"], ["a\\b\\1.jpg"], {"a/b/1.jpg": "a\\b\\1.jpg"}),
        (["./a//1.jpg"], ["a/1.jpg"], {"./a//1.jpg": "a/1.jpg"}),
        (["A/One.JPG"], ["a/one.jpg"], {"A/One.JPG": "a/one.jpg"}),
        (["1.png", "2"], ["1.jpeg", "2.tif"], {"1.png": "1.jpeg", "2": "2.tif"}),
        (["v1.5"], ["v1.5.png", "v1.png"], {"v1.5": "v1.5.png"}),  # .5 is no suffix of an image
        (["1.jpg"], ["old/images/1.jpg"], {"1.jpg": "old/images/1.jpg"}),
        (["/data/images/1.jpg"], ["images/1.jpg"], {"/data/images/1.jpg": "images/1.jpg"}),
        (["Images\\É1.JPG"], ["réf/images/é1.png"], {"Images\\É1.JPG": "réf/images/é1.png"}),  # all of it at once
        (["1.jpg"], ["11.jpg", "a1.jpg"], {}),  # whole names
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], {}),  # which one?
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], {}),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg", "a/1.jpg"], {"a/1.jpg": "a/1.jpg"}),
        (["a/1.jpg"], ["b/1.jpg"], {}),  # colorized by another method
        (["1.jpg"], ["1.JPG", "1.Jpg"], {}),
        (["1.jpg", "1.png"], ["1.JPG"], {"1.jpg": "1.JPG"}),
        (["1.jpg", "1.png"], ["1.bmp"], {}),
    ],
)
def test_names_are_matched_where_that_is_unambiguous(wanted, given, found):
    assert match_names(wanted, given) == found
    assert match_names(given, wanted) == {value: key for key, value in found.items()}


def test_what_comes_nearest_is_shown_and_what_was_matched_is_said():
    names = ["x/1.jpg", "y/1.png", "portrait_07.jpg", "other.jpg"]
    assert nearest("1.jpg", names) == ["x/1.jpg", "y/1.png"]
    assert nearest("portrait_70.jpg", names) == ["portrait_07.jpg"]
    assert nearest("zzz", names) == ["x/1.jpg"]  # some name rather than none
    assert nearest("a", []) == []
    assert written_otherwise({"a": "a"}) == ""
    assert written_otherwise({"a": "a", "b.jpg": "B.jpg"}).endswith(
        "1 by a name that is written in another way, e.g. B.jpg for b.jpg"
    )
