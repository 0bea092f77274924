"""Are the notes short, does each of their links lead somewhere, and does each place that source files name exist?"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTES = ROOT / "BUILD_NOTES.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
FORM = ["Decision", "Alternatives", "Evidence", "Consequence"]
PAGE = re.compile(r"docs/decisions/[\w-]+\.md")


def anchors(page: pathlib.Path) -> set[str]:
    """Of its headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: pathlib.Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]


def sources() -> list[pathlib.Path]:
    folders = ("lora_jax", "experiments", "tests")
    return [page for folder in folders for kind in ("py", "md") for page in (ROOT / folder).rglob(f"*.{kind}")]


def test_the_notes_are_short():
    lines = NOTES.read_text().splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 160] == []


def test_every_decision_has_the_one_form():
    for decision in re.split(r"^### ", NOTES.read_text(), flags=re.MULTILINE)[1:]:
        assert re.findall(r"^- \*\*(\w+)\*\*: ", decision, re.MULTILINE) == FORM, decision.splitlines()[0]


@pytest.mark.parametrize("page", [NOTES, *DECISIONS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_page():
    index = next(page for page in DECISIONS if page.name == "index.md")
    assert sorted(links(index)) == [page.name for page in DECISIONS if page != index]


def test_pages_that_source_files_name_exist():
    named = {name for page in sources() if page != pathlib.Path(__file__) for name in PAGE.findall(page.read_text())}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
