"""A model is made once for all its tests. Models of others add arrays of different ranks as they please."""

import jax
import pytest

pytest.register_assert_rewrite("tests.outside.bars")


@pytest.fixture(scope="package", autouse=True)
def as_jax_comes():
    with jax.numpy_rank_promotion("allow"):
        yield


def pytest_generate_tests(metafunc):
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", list(metafunc.cls.MODELS), indirect=True, scope="class")


@pytest.fixture(scope="class")
def model(request):
    return request.cls.MODELS[request.param]()


@pytest.fixture(scope="class")
def params(model):
    """With fresh adapters."""
    return model.adapt()
