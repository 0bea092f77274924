"""Strict JAX for every test: on the CPU, no silent rank promotion; warnings are errors (pyproject.toml)."""

import os
import tempfile
import zlib

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX starts a backend

from tests import xla_flags  # noqa: E402

xla_flags.use_quick()

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from experiments.common import draws  # noqa: E402
from tests import thrift  # noqa: E402
from tests.bucket import bucket, orbax_bucket  # noqa: E402, F401  (fixtures)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
thrift.save_time_and_memory()
draws.fuse_on_cpu()  # as the entries do: the same bits, and less to compile
jax.devices()  # starts JAX with one device, before an entry that is tested makes one of each core


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--cases", type=int, metavar="N", help="of each test function of the library N of its cases, no more"
    )


@pytest.hookimpl(trylast=True)  # of what -k and -m leave
def pytest_collection_modifyitems(config, items) -> None:
    if most := config.getoption("cases"):
        kept = set(thrift.few_cases(items, most))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


@pytest.fixture
def key(request) -> jax.Array:
    """A key of the test's own, the same in every run."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def as_users_run_it():
    """Without the check of annotations, which stands before the library's own in the tests alone, and with JAX's own rank promotion."""
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")


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


@pytest.fixture(scope="module")
def compiled_alike(quick_compile):
    """`quick_compile` from nothing, for files that compare bits: JAX 0.10 takes an operation that another file compiled with other options."""
    jax.clear_caches()
