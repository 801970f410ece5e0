"""What the pages of the repository promise: the Python of the README runs, and every link leads somewhere."""

import re
from pathlib import Path

import pytest
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
PAGES = sorted(p.relative_to(REPO).as_posix() for place in (".", "*") for p in REPO.glob(f"{place}/*.md"))


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    source = Image.open(next((REPO / "data" / "samples").glob("*.jpg")))
    for name in ("image.jpg", "a.jpg", "b.png"):
        source.save(tmp_path / name)
    (tmp_path / "image.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict = {}
    lines = [line for line in block.splitlines() if line.strip()]
    exec("\n".join(lines), names)
    scores = [eval(line, names) for line in lines if ".score(" in line]
    assert len(scores) == 5
    for score in scores:
        for value in score if isinstance(score, list) else [score]:
            assert -1 < value < 1
    assert scores[2] != scores[3]  # sub-scores that are given count


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    path = REPO / page
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name) if name else path
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_the_readme_is_short():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
