"""The library as users run it, without the tests' own check of annotations; and what a long run says at its end."""

import jax
import jaxtyping
import pytest

from tests.fuzz import judge


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def findings_of_a_long_run(request):
    """All of a module together: a long run does not stop at the first."""
    judge.counts.clear()
    judge.findings.clear()
    yield
    if not judge.IS_SUITE:
        said = f"{request.module.__name__}, FUZZ_SEED={judge.SEED}\n{judge.report()}\n"
        with open(judge.REPORT, "a") as file:  # noqa: PTH123
            file.write(said)
        assert not judge.findings, said
