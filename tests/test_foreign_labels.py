"""Label files in the forms of the published systems: the rows that are known of them, and made-up ones of the same form."""

import itertools
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.splits import check_disjoint, split_by_scene
from data.table import load_table
from tools.label_files import FORMS, load_foreign, read_triplets, recognize

LIVEC = "158.bmp 79.416667\n159.bmp 0\n160.bmp\t100\n"
CSIQ = "1600.AWGN.1.png 0.062\n1600.AWGN.5.png 0.75\naerial_city.jpeg2000.3.png 0\n"
TID = "5.51429 I01_01_1.bmp\n0 i01_02_5.bmp\n9 I25_24_5.bmp\n"
KADID = "I01_01_01.png, 4.57\nI01_01_02.png, 1\nI02_25_05.png, 3\n"
ICAA = (
    "ID,color,MOS,probability\n"
    "complementary/orange_blue/140585134@N0737498238334.jpg,6.415993,4.6430487632751465,0.6656895875930786\n"
    "complementary/b.jpg,2.98,8.96,0.1\n"
)
SPAQ = "image_id,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness\n00001.jpg,4.89,4.74,5.56,5.57,3.79,4.26\n"
I2IQA = (
    "Generated_image,Image_prompt,MOS_q,MOS_a,MOS_c\n"
    "MJ_0_00.jpg,0.jpg,3.41,3.02,3.77\nSD_0_01.jpg,0.jpg,2.86,2.54,3.10\nMJ_0_02.jpg,,0,5,2.5\n"
)
AFINE = "I01_05_01.png,I01_23_05.png,I01.png,1,0,0\n000006x0y32_01.png,000006x0y32_03.png,000006x0y32.png,0,0,1\n"
RECOGNIZED = {
    "csiq": CSIQ,
    "tid2013": TID,
    "kadid": KADID,
    "icaa17k": ICAA,
    "spaq-csv": SPAQ,
    "i2iqa": I2IQA,
    "afine": AFINE,
}


def write(folder: Path, text: str, name: str = "labels.txt") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(name)


def read(folder: Path, text: str, form: str | None = None, **arguments: object) -> pd.DataFrame:
    """The table of a file whose images are nowhere."""
    return load_foreign(write(folder, text), form, check_files=False, **arguments)


def cells(frame: pd.DataFrame) -> list[tuple]:
    return [tuple(row) for row in frame.to_numpy()]


# --- What each form says


@pytest.mark.parametrize(("form", "low", "high", "name"), [("livec", 0, 100, "LIVEC"), ("spaq", 0, 100, "SPAQ")])
def test_rows_of_sets_without_originals_have_the_image_as_their_scene(tmp_path, form, low, high, name):
    frame = read(tmp_path, LIVEC, form)
    assert list(frame.columns) == ["image", "scene", "method", "MOS"]
    assert frame["image"].tolist() == ["158.bmp", "159.bmp", "160.bmp"]
    assert frame["scene"].tolist() == ["158", "159", "160"]
    assert frame["MOS"].tolist() == pytest.approx([79.416667 / 50 - 1, -1, 1])
    assert frame.attrs == {"root": str(tmp_path), "name": name, "scores": ["MOS"], "mos_range": [low, high]}


def test_koniq_is_rated_from_one_to_five_unless_another_range_is_given(tmp_path):
    assert read(tmp_path, "1.jpg 1\n2.jpg 3\n3.jpg 5\n", "koniq")["MOS"].tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match=r"line 1: MOS of 1\.jpg has the score 60, outside 1 to 5; .*--mos-range"):
        read(tmp_path, "1.jpg 60\n", "koniq")
    frame = read(tmp_path, "1.jpg 60\n", "koniq", mos_range=(0, 100))
    assert frame["MOS"].tolist() == pytest.approx([0.2])
    assert frame.attrs["mos_range"] == [0, 100]


def test_csiq_is_turned_round_since_its_labels_are_of_how_bad_it_is(tmp_path):
    assert cells(read(tmp_path, CSIQ)) == [
        ("1600.AWGN.1.png", "1600", "AWGN", pytest.approx(1 - 2 * 0.062), "1600.png"),
        ("1600.AWGN.5.png", "1600", "AWGN", -0.5, "1600.png"),
        ("aerial_city.jpeg2000.3.png", "aerial_city", "jpeg2000", 1.0, "aerial_city.png"),
    ]
    frame = read(tmp_path, CSIQ)
    assert list(frame.columns) == ["image", "scene", "method", "MOS", "reference"]
    worst, best = frame.attrs["mos_range"]
    back = worst + (frame["MOS"] + 1) / 2 * (best - worst)
    assert back.tolist() == pytest.approx([0.062, 0.75, 0])


def test_tid2013_has_the_score_first_and_names_in_either_case(tmp_path):
    assert cells(read(tmp_path, TID)) == [
        ("I01_01_1.bmp", "I01", "01", pytest.approx(5.51429 / 4.5 - 1), "I01.bmp"),
        ("I25_24_5.bmp", "I25", "24", 1.0, "I25.bmp"),
        ("i01_02_5.bmp", "I01", "02", -1.0, "I01.bmp"),
    ]


@pytest.mark.parametrize("form", [None, "kadid"])
def test_the_table_that_comes_with_kadid_is_that_of_the_text_rows(tmp_path, form):
    text = read(tmp_path, KADID, "kadid")
    rows = "".join(
        f"{name},I{name[1:3]}.png,{score},0.3\n" for name, score in (line.split(", ") for line in KADID.split("\n")[:3])
    )
    pd.testing.assert_frame_equal(read(tmp_path, "dist_img,ref_img,dmos,var\n" + rows, form), text)
    pd.testing.assert_frame_equal(read(tmp_path, '"dist_img","dmos"\n' + re.sub(r",I..\.png|,0\.3", "", rows), form), text)
    with pytest.raises(ValueError, match=r"line 2: x\.png is no name of KADID-10k"):
        read(tmp_path, "dist_img,ref_img,dmos,var\nx.png,I01.png,3,0\n", form)
    with pytest.raises(ValueError, match=r"is a label file of KADID-10k.*--form kadid"):
        load_table(tmp_path / "labels.txt")


def test_kadid_has_a_comma_after_the_name(tmp_path):
    frame = read(tmp_path, KADID)
    assert cells(frame) == [
        ("I01_01_01.png", "I01", "01", pytest.approx(0.785), "I01.png"),
        ("I01_01_02.png", "I01", "01", -1.0, "I01.png"),
        ("I02_25_05.png", "I02", "25", 0.0, "I02.png"),
    ]
    assert frame.attrs["name"] == "KADID-10k"


def test_icaa17k_has_a_score_and_one_of_color(tmp_path):
    frame = read(tmp_path, ICAA)
    assert list(frame.columns) == ["image", "scene", "method", "MOS", "color"]
    assert cells(frame)[0] == (
        "complementary/b.jpg",
        "b",
        "",
        pytest.approx(8.96 / 5 - 1),
        pytest.approx(2.98 / 5 - 1),
    )
    assert frame["color"][1] == pytest.approx(6.415993 / 5 - 1)
    assert frame.attrs["scores"] == ["MOS", "color"]


def test_spaqs_csv_has_six_scores(tmp_path):
    frame = read(tmp_path, SPAQ)
    scores = ["MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    assert list(frame.columns) == ["image", "scene", "method", *scores]
    assert frame[scores].iloc[0].tolist() == pytest.approx([v / 5 - 1 for v in (4.89, 4.74, 5.56, 5.57, 3.79, 4.26)])
    assert frame.attrs["mos_range"] == [0, 10]


def test_i2iqa_rows_share_the_scene_of_their_prompt_and_have_it_as_reference(tmp_path):
    frame = read(tmp_path, I2IQA)
    assert list(frame.columns) == ["image", "scene", "method", "MOS_q", "MOS_a", "MOS_c", "reference"]
    assert cells(frame) == [
        ("MJ_0_00.jpg", "0", "MJ", *(pytest.approx(v / 2.5 - 1) for v in (3.41, 3.02, 3.77)), "0.jpg"),
        ("MJ_0_02.jpg", "text_0", "MJ", -1.0, 1.0, 0.0, ""),  # generated from a text: another scene than image 0
        ("SD_0_01.jpg", "0", "SD", *(pytest.approx(v / 2.5 - 1) for v in (2.86, 2.54, 3.10)), "0.jpg"),
    ]


def test_images_of_one_prompt_stay_together_where_the_published_split_parts_them(tmp_path):
    names = [f"{generator}_{prompt}_0{n}.jpg" for prompt in range(20) for generator in ("MJ", "SD") for n in range(4)]
    lines = [f"{name},{name.split('_')[1]}.jpg,1,2,3" for name in names]
    with pytest.warns(UserWarning, match="Image_type"):
        frame = read(tmp_path, "\n".join([I2IQA.splitlines()[0] + ",Image_type", *(f"{line},x" for line in lines)]))
    parts = split_by_scene(frame, val=0, test=0.25)
    check_disjoint(train=parts["train"], test=parts["test"])
    assert len(parts["test"]) == 40
    in_order = frame.set_index("image").loc[names]
    published = np.arange(len(names)) % 4 == 3
    assert set(in_order["scene"][published]) & set(in_order["scene"][~published])


# --- Triplets


def test_triplets_are_read_as_they_are(tmp_path):
    frame = read_triplets(write(tmp_path, AFINE, "train.txt"), check_files=False)
    assert cells(frame) == [
        ("I01_05_01.png", "I01_23_05.png", "I01.png", 1, 0, 0),
        ("000006x0y32_01.png", "000006x0y32_03.png", "000006x0y32.png", 0, 0, 1),
    ]
    assert list(frame.columns[3:]) == ["first_over_second", "first_over_reference", "second_over_reference"]
    assert frame.attrs == {"root": str(tmp_path), "name": "train"}
    short = read_triplets(write(tmp_path, "a.png,b.png,r.png,0.5\n"), check_files=False)
    assert short["first_over_second"].tolist() == [0.5]
    assert short.iloc[0, 4:].isna().all()


def test_the_scale_of_a_scene_orders_its_images_as_they_were_chosen(tmp_path):
    frame = read(tmp_path, AFINE)
    assert list(frame.columns) == ["image", "scene", "method", "MOS", "reference"]
    assert frame.attrs == {"root": str(tmp_path), "name": "labels", "scores": ["MOS"], "mos_range": [-1, 1]}
    mos = frame.set_index("image")["MOS"]
    assert mos["I01.png"] > mos["I01_05_01.png"] > mos["I01_23_05.png"]
    assert mos["000006x0y32_03.png"] > mos["000006x0y32.png"] > mos["000006x0y32_01.png"]
    assert frame.groupby("scene")["MOS"].mean().tolist() == pytest.approx([0, 0], abs=0.02)
    assert frame.loc[frame["method"] == "reference", "image"].tolist() == ["000006x0y32.png", "I01.png"]
    assert set(frame["scene"]) == {"000006x0y32", "I01"}


def test_the_scale_of_two_images_is_thurstones(tmp_path):
    # two images whose difference is d lie at d / 2 from their mean, with which each has half a tie
    wins, losses, prior = 7, 2, 0.5
    text = "a.png,b.png,r.png,1\n" * wins + "b.png,a.png,r.png,1\n" * losses
    frame = read(tmp_path, text)

    def likelihood(d: float) -> float:
        own = wins * stats.norm.logcdf(d) + losses * stats.norm.logcdf(-d)
        return own + prior * (stats.norm.logcdf(d / 2) + stats.norm.logcdf(-d / 2))

    grid = np.linspace(0, 2, 200_001)
    d = grid[np.argmax(likelihood(grid))]
    assert frame["image"].tolist() == ["a.png", "b.png"]
    assert frame["MOS"].tolist() == pytest.approx([2 * stats.norm.cdf(d / 2) - 1, 2 * stats.norm.cdf(-d / 2) - 1], abs=1e-4)


def test_ties_are_half_a_choice_and_groups_without_a_choice_between_them_have_scales_of_their_own(tmp_path):
    frame = read(tmp_path, "a.png,b.png,r.png,0.5\nc.png,d.png,r.png,0\n")
    mos = frame.set_index("image")["MOS"]
    assert mos[["a.png", "b.png"]].tolist() == pytest.approx([0, 0])
    assert mos["d.png"] == pytest.approx(-mos["c.png"])
    assert mos["d.png"] > 0.1
    assert set(frame["scene"]) == {"r"}


def test_a_reference_can_stand_first_and_keeps_one_row(tmp_path):
    frame = read(tmp_path, "r.png,a.png,r.png,1,0.5,0\n")
    assert frame["image"].tolist() == ["a.png", "r.png"]
    assert frame["MOS"][1] > 0.2


def test_triplets_made_from_scores_give_their_order_back(tmp_path):
    names = [f"s{n}.png" for n in range(9)]
    truth = dict(zip(names, np.random.default_rng(1).permutation(9), strict=True))
    lines = [f"{a},{b},r.png,{int(truth[a] > truth[b])}" for a, b in itertools.combinations(names, 2)]
    frame = read(tmp_path, "\n".join(lines))
    assert stats.spearmanr(frame["MOS"], [truth[name] for name in frame["image"]]).statistic == pytest.approx(1)


# --- Where the images lie


def test_images_are_found_below_the_folder_whatever_the_case_of_their_names(tmp_path):
    touch(tmp_path / "tid", "distorted/i01_01_1.BMP", "distorted/I01_02_5.bmp", "distorted/I25_24_5.bmp", "original/I01.BMP")
    path = write(tmp_path, TID)
    with pytest.warns(UserWarning, match=r"1 of 3 images have no reference in .*tid or below, e\.g\. I25\.bmp"):
        frame = load_foreign(path, root=tmp_path / "tid")
    assert frame["image"].tolist() == ["distorted/I01_02_5.bmp", "distorted/I25_24_5.bmp", "distorted/i01_01_1.BMP"]
    assert frame["reference"].tolist() == ["original/I01.BMP", "", "original/I01.BMP"]
    assert frame.attrs["root"] == str(tmp_path / "tid")
    assert all((tmp_path / "tid" / image).is_file() for image in frame["image"])


def test_csiq_is_found_in_the_folders_of_its_kinds(tmp_path):
    touch(tmp_path, "awgn/1600.AWGN.1.png", "awgn/1600.AWGN.5.png", "jpeg2000/aerial_city.jpeg2000.3.png")
    touch(tmp_path, "src_imgs/1600.png", "src_imgs/aerial_city.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_foreign(write(tmp_path, CSIQ))
    assert frame["image"][0] == "awgn/1600.AWGN.1.png"
    assert frame["reference"].tolist() == ["src_imgs/1600.png", "src_imgs/1600.png", "src_imgs/aerial_city.png"]


def test_a_folder_in_the_name_says_which_of_two_is_meant(tmp_path):
    touch(tmp_path, "all/one/b.jpg", "all/complementary/b.jpg", "all/complementary/orange_blue/140585134@N0737498238334.jpg")
    assert load_foreign(write(tmp_path, ICAA))["image"][0] == "all/complementary/b.jpg"
    with pytest.raises(ValueError, match=r"line 2: b\.jpg can be all/complementary/b\.jpg or all/one/b\.jpg"):
        load_foreign(write(tmp_path, "ID,MOS,color\nb.jpg,1,2\n"), "icaa17k")


def test_a_reference_of_a_triplet_may_be_of_another_kind_of_file(tmp_path):
    touch(tmp_path, "I01_05_01.bmp", "I01_23_05.bmp", "refs/I01.BMP")
    path = write(tmp_path, "I01_05_01.bmp,I01_23_05.bmp,I01.png,1,0,0\n")
    assert read_triplets(path)["reference"].tolist() == ["refs/I01.BMP"]
    assert load_foreign(path)["reference"].tolist() == ["refs/I01.BMP"] * 3


def test_images_in_hidden_folders_do_not_count(tmp_path):
    touch(tmp_path, ".cache/158.bmp", "x/158.bmp")
    assert load_foreign(write(tmp_path, "158.bmp 3\n"), "livec")["image"].tolist() == ["x/158.bmp"]


def test_a_missing_image_is_an_error_that_names_its_line(tmp_path):
    touch(tmp_path, "158.bmp", "159.png")
    with pytest.raises(FileNotFoundError, match=r"labels\.txt, line 2: no file 159\.bmp in .* give the folder of the images"):
        load_foreign(write(tmp_path, LIVEC), "livec")
    with pytest.raises(FileNotFoundError, match=r"line 1: no file I01_05_01\.png"):
        load_foreign(write(tmp_path, AFINE))


# --- Recognizing


@pytest.mark.parametrize("form", RECOGNIZED)
def test_a_form_is_recognized_by_its_first_row(tmp_path, form):
    text = RECOGNIZED[form]
    assert recognize(write(tmp_path, text)) == form
    assert recognize(write(tmp_path, "\ufeff\n" + text.replace("\n", "\r\n"))) == form
    assert cells(read(tmp_path, "\ufeff" + text.replace("\n", "\r\n"))) == cells(read(tmp_path, text, form))


def test_a_table_needs_only_the_columns_that_are_read(tmp_path):
    assert recognize(write(tmp_path, "ID,MOS,color\n1.jpg,5,6\n")) == "icaa17k"
    assert list(read(tmp_path, "ID,MOS,color\nI01_05_01.png,5,6\n")["color"]) == pytest.approx([0.2])


def test_forms_that_look_alike_must_be_named(tmp_path):
    for text in (LIVEC, "10004473376.jpg 3.41\n", "00001.jpg 48.9\n"):
        with pytest.raises(ValueError, match=r"labels\.txt has rows 'name score'.*name its form: livec, koniq or spaq"):
            recognize(write(tmp_path, text))
    assert set(FORMS) == {*RECOGNIZED, "livec", "koniq", "spaq"}


@pytest.mark.parametrize(
    "text",
    ["image,scene,PR\na.jpg,1,0\n", "a.jpg,b.jpg,1\n", "I01_01_1.bmp 5.5 x\n", "name 3\n", "a.png,b.png,c.png,d.png,e.png\n"],
)
def test_other_files_are_of_no_known_form(tmp_path, text):
    with pytest.raises(ValueError, match=r"labels\.txt, line 1: .* is of no known form.*; expected one of livec \(158\.bmp"):
        recognize(write(tmp_path, text))


def test_semicolons_are_pointed_out(tmp_path):
    with pytest.raises(ValueError, match="no known form; its cells are separated by semicolons, expected commas"):
        recognize(write(tmp_path, I2IQA.replace(",", ";")))


# --- Errors


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("livec", "158.bmp 79 1\n", r"line 1: expected a row such as '158\.bmp 79\.416667', got '158\.bmp 79 1'"),
        ("livec", "158.bmp good\n", r"line 1 has the score 'good', expected a row such as"),
        ("livec", "158.bmp nan\n", r"line 1 has the score 'nan'"),
        ("livec", "158.bmp 3\n\n./158.bmp 4\n", r"line 3: 158\.bmp is listed twice"),
        ("livec", "158.bmp 101\n", r"line 1: MOS of 158\.bmp has the score 101, outside 0 to 100"),
        ("livec", "/x/158.bmp 1\n", r"line 1: /x/158\.bmp is an absolute path"),
        (
            "kadid",
            KADID + "I1.png, 3\n",
            r"line 4: I1\.png is no name of KADID-10k; expected a row such as 'I01_01_01\.png, 4\.57'",
        ),
        ("tid2013", "I01_01_1.bmp 5.5\n", r"line 1 has the score 'I01_01_1\.bmp'"),
        ("csiq", CSIQ + "1600.AWGN.2.png 1.5\n", r"line 4: MOS of 1600\.AWGN\.2\.png has the score 1\.5, outside 0 to 1"),
        ("icaa17k", SPAQ, r"has the columns \['image_id', .*expected ID, MOS, color for ICAA17K, spelled so and once each"),
        ("icaa17k", "ID;MOS;color\na;1;2\n", "separated by semicolons"),
        ("icaa17k", ICAA + "c.jpg,1\n", "line 4: expected 4 cells as in the header, got 2"),
        ("icaa17k", ICAA + "c.jpg,1,,1\n", "line 4: MOS is '', expected a number"),
        ("icaa17k", "ID,MOS,color\n", "has no rows below its header"),
        ("icaa17k", "ID,MOS,color,MOS\n", "spelled so and once each"),
        ("i2iqa", I2IQA + ",0.jpg,1,1,1\n", "line 5: the cell image is empty"),
        ("i2iqa", I2IQA + '"MJ_1_1.jpg,0.jpg,1,1,1\n', "not a comma-separated UTF-8 table"),
        ("afine", "a.png,b.png,r.png\n", "line 1: expected 4 or 6 cells, .*got 3"),
        ("afine", AFINE + "a.png,b.png,r.png,1\n", "line 3: expected 6 cells, .*got 4"),
        ("afine", "a.png,b.png,r.png,2\n", "line 1 has the labels 2, expected each to be 1, 0.5 or 0"),
        ("afine", "a.png,b.png,r.png,x\n", "line 1 has the label 'x', expected 1, 0.5 or 0"),
        ("afine", "a.png,./a.png,r.png,1\n", r"line 1: a\.png is compared with itself"),
        ("afine", "a.png,b.png,r.png,1\na.png,c.png,s.png,1\n", r"line 2: a\.png has the references r\.png and s\.png"),
        ("afine", "a.png,b.png,r.png,1\nc.png,r.png,s.png,1\n", r"line 2: r\.png has the references r\.png and s\.png"),
        ("livec", "", "labels.txt is empty"),
        ("maniqa", LIVEC, "the form must be one of livec, koniq, .*, got 'maniqa'"),
    ],
)
def test_errors_name_file_and_line(tmp_path, form, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, form)


def test_files_that_are_not_there_or_no_text_are_errors(tmp_path):
    for call in (recognize, load_foreign, read_triplets):
        with pytest.raises(FileNotFoundError, match=r"no label file .*gone\.txt"):
            call(tmp_path / "gone.txt")
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"table\.xlsx is not UTF-8 text .*; save it as text or CSV"):
        load_foreign(tmp_path / "table.xlsx")


def test_a_range_does_not_go_with_choices(tmp_path):
    with pytest.raises(ValueError, match="holds choices, which have no range of scores"):
        read(tmp_path, AFINE, mos_range=(0, 1))


def test_scores_that_fill_little_of_their_range_give_a_warning(tmp_path):
    text = "".join(f"{n}.jpg {1 + 4 * n / 19}\n" for n in range(20))
    with pytest.warns(UserWarning, match=r"the scores lie in 1 to 5 of 0 to 100; .* the form is not livec or --mos-range"):
        read(tmp_path, text, "livec")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = read(tmp_path, text, "koniq")
    assert [frame["MOS"].min(), frame["MOS"].max()] == [-1, 1]


def test_columns_that_are_not_used_give_a_warning_unless_they_are_known(tmp_path):
    with pytest.warns(UserWarning, match=r"ignoring the columns \['Text_prompt'\]"):
        read(tmp_path, "Text_prompt,Generated_image,Image_prompt,MOS_q,MOS_a,MOS_c\nx,MJ_0_0.jpg,,1,2,3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not math.isnan(read(tmp_path, ICAA)["color"][0])
