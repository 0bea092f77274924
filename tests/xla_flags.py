"""XLA's flags that make the suite quicker, as far as the installed XLA has them: it ends the process on one that it does not know."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

# Many tiny programs compile in two thirds of the time without fusion emitters, and a tenth less where their code is not cut up for several threads.
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
ASKED = "LORA_JAX_TEST_XLA_FLAGS"  # what a process found, for its workers


def use_quick() -> None:
    """Adds to XLA_FLAGS those of QUICK that the installed XLA knows; one process asks, and its workers inherit the answer."""
    if ASKED not in os.environ:
        os.environ[ASKED] = " ".join(known(QUICK))
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {os.environ[ASKED]}".strip()


def known(flags: Sequence[str]) -> list[str]:
    """Those of the flags that XLA knows, asked in a child process; none where the child ends without naming those that it does not know."""
    environment = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True, text=True
    )
    if child.returncode == 0:
        return list(flags)
    complaint = re.search(r"Unknown flags? in XLA_FLAGS:(.*)", child.stderr)
    return [flag for flag in flags if flag not in complaint[1].split()] if complaint else []
