"""Is the site built without a warning and without a network, and do links out of it look like links?"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

import lora_jax
from tests.docs import blocks

EXTERNAL = re.compile(r"\]\((\w+:[^)\s]*)\)")
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]*\ssrc=\"?https?:|<link[^>]*rel=\"?stylesheet\"?[^>]*https?:|@import[^;]*https?:"
)
PAGES = [blocks.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + blocks.pages()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """Where the site is built. A link or an anchor that leads nowhere, a page that the navigation lacks, and a documented argument
    that a function lacks are warnings, and warnings are errors (with --quiet they would pass)."""
    if not importlib.util.find_spec("mkdocs"):
        pytest.skip('mkdocs is not installed: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=blocks.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    sources = [path.relative_to(blocks.DOCS) for path in blocks.DOCS.rglob("*.md")]
    assert {path.with_suffix("") for path in sources} <= built
    assert {"changelog", "contributing", "adding_a_study"} <= {str(path) for path in built}


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = {path.name: LOADED.findall(path.read_text()) for path in site.rglob("*.html")}
    assert {name: found for name, found in loaded.items() if found} == {}


def test_everything_at_the_front_door_is_on_an_api_page(site):
    pages = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    assert [name for name in lora_jax.__all__ if f'id="lora_jax.{name}"' not in pages] == []


def test_examples_of_docstrings_are_blocks(site):
    pages = [page.read_text() for page in (site / "api").glob("*.html")]
    assert all('<span class="gp">&gt;&gt;&gt; </span>' in page and "<blockquote>" not in page for page in pages)


def test_the_ledger_has_a_section_for_each_claim(site):
    rows = re.findall(
        r"^\| ([A-Z][\w.]+) \|", (blocks.ROOT / "experiments/results/CLAIMS.md").read_text(), re.MULTILINE
    )
    page = (site / "studies" / "claims.html").read_text()
    assert len(rows) > 50 and all(f'id="{claim}"' in page for claim in rows)


@pytest.mark.parametrize("page", PAGES, ids=blocks.name)
def test_external_links_have_the_form_of_links(page):
    for link in EXTERNAL.findall(page.read_text()):
        parts = urllib.parse.urlsplit(link)
        assert parts.scheme == "https" and "." in parts.netloc, link
