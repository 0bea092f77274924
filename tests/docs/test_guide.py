"""Does every Python block of the guide run, and on eight devices what speaks of them?"""

import os
import subprocess
import sys

import pytest

from tests.docs import blocks

pytestmark = pytest.mark.usefixtures("quick_compile", "as_users_run_it")
EIGHT = {"JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
PAGES = [page for page in blocks.pages() if page.parent.name == "guide" and blocks.of(page.read_text(), "python")]
ON_EIGHT = [page for page in blocks.pages() if "JAX_NUM_CPU_DEVICES=8" in page.read_text()]
RUN = "import pathlib, sys; from tests.docs import blocks; blocks.run(pathlib.Path(sys.argv[1]))"


@pytest.mark.parametrize("page", PAGES, ids=blocks.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks.run(page)


@pytest.mark.parametrize("page", ON_EIGHT, ids=blocks.name)
def test_blocks_run_on_eight_devices(page, tmp_path):
    environment = os.environ | EIGHT | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(blocks.ROOT)}
    command = [sys.executable, "-c", RUN, str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
