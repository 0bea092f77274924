"""Does every Python block of the documentation run? Pages of the guide are in test_guide.py, so that two processes share the work."""

import pytest

from tests.docs import blocks

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
PAGES = [page for page in blocks.pages() if page.parent.name != "guide" and blocks.of(page.read_text(), "python")]
# Page -> why some blocks do not run. A page that is missing here has none.
NOT_RUN: dict[str, list[str]] = {
    "docs/coming_from/peft.md": ["needs PyTorch"],
    "docs/coming_from/qwix.md": ["needs qwix"],
    "docs/guide/peft.md": ["needs PyTorch"],
}


@pytest.mark.parametrize("page", PAGES, ids=blocks.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks.run(page)


def test_blocks_that_do_not_run_are_few_and_say_why():
    reasons = {
        blocks.name(page): [b.not_run for b in blocks.of(page.read_text(), "python") if b.not_run]
        for page in blocks.pages()
    }
    assert {page: found for page, found in reasons.items() if found} == NOT_RUN
