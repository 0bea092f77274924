"""Strict JAX for every test: on the CPU, no silent rank promotion; warnings are errors (pyproject.toml)."""

import importlib.util
import mmap
import os
import pathlib
import tempfile
import zlib


def xla_knows(flag: str) -> bool:
    """Whether the installed XLA has such a flag: it ends the process on one that it does not know."""
    library = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent / "libjax_common.so"
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(flag.encode()) >= 0


os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX starts a backend
# The suite's many tiny programs compile in two thirds of the time without fusion emitters, and a tenth less where their code is not cut up for
# several threads.
QUICK = (
    "xla_cpu_use_fusion_emitters=false",
    "xla_cpu_parallel_codegen_split_count=1",
)
known = [f"--{flag}" for flag in QUICK if xla_knows(flag.partition("=")[0])]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known])

import jax  # noqa: E402
import pytest  # noqa: E402

from experiments.common import draws  # noqa: E402
from tests import thrift  # noqa: E402
from tests.bucket import bucket, orbax_bucket  # noqa: E402, F401  (fixtures)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
thrift.save_time_and_memory()
draws.fuse_on_cpu()  # as the entries do: the same bits, and less to compile
jax.devices()  # starts JAX with one device, before an entry that is tested makes one of each core


@pytest.fixture
def key(request) -> jax.Array:
    """A key of the test's own, the same in every run."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    """XLA need not compile again what another test of this process had compiled; Python traces as ever."""
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        yield
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def quick_compile():
    """XLA without its costly passes: for files that compile many tiny programs and ask nothing about speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
