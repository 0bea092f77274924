"""Cores as devices: what XLA is told before it starts, and that the installed one takes it."""

import os
import subprocess
import sys

import jaxlib
import pytest

from experiments.common.accelerator import HAS_YNN, YNN
from tests.experiments import entries

CODE = """
import os, jax
from experiments.common import accelerator
accelerator.settle("cpu", cpu_devices=2)
print(jax.device_count(), float(jax.numpy.ones(3).sum()), os.environ.get("XLA_FLAGS", ""))
"""


def said(flags: str) -> list[str]:
    child = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | {"XLA_FLAGS": flags}, cwd=entries.REPOSITORY, capture_output=True, text=True
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout.split()


def test_several_devices_of_a_cpu_keep_no_memory_of_each_step():
    expected = [f"--{YNN}="] if jaxlib.version.__version_info__ >= HAS_YNN else []
    assert said("") == ["2", "3.0", *expected]


@pytest.mark.skipif(jaxlib.version.__version_info__ < HAS_YNN, reason="this XLA has no such flag")
def test_what_a_user_says_of_it_stays():
    flag = f"--{YNN}=LIBRARY_FUSION_TYPE_DOT"
    assert said(flag) == ["2", "3.0", flag]
