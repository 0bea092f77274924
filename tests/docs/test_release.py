"""Do the files that name a release name the same?"""

import re

import lora_jax
from tests.docs.blocks import ROOT


def test_changelog_begins_with_the_version():
    version, date = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[
        0
    ]
    assert version == lora_jax.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation
