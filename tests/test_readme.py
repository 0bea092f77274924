"""The README's Python blocks run, one after the other; tests/docs/test_commands.py looks at its commands."""

import numpy as np
import pytest

import lora_jax
from tests.docs import blocks

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
README = blocks.ROOT / "README.md"


def test_python_blocks_run_and_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = blocks.run(README)
    before, after = (
        names["loss"](names["trainable"]),
        names["loss"](lora_jax.partition(names["params"], names["mask"])[1]),
    )
    assert after < before and (tmp_path / "adapter").is_dir()
    np.testing.assert_allclose(
        names["base"].apply({"params": names["merged"]}, names["x"]), names["model"].apply({"params": names["params"]}, names["x"]), atol=1e-5
    )  # fmt: skip


def test_it_is_one_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1200


def test_file_tree_names_files_that_exist():
    tree = README.read_text().split("## Where things are")[1].split("```")[1].strip()
    folder = None
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = README.parent / name
            assert folder.exists(), name
        else:
            assert (folder / name.rstrip(",")).exists(), name
