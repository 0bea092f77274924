"""Has each initialiser of A the distribution that its docstring gives?"""

import jax
import numpy as np
import pytest
import scipy.stats

from lora_jax.initializers import KaimingUniform, Normal, Orthogonal

D, R = 64, 32


@pytest.mark.parametrize(
    ("init", "distribution"),
    [
        (KaimingUniform(), scipy.stats.uniform(-1 / np.sqrt(D), 2 / np.sqrt(D))),
        (Normal(), scipy.stats.norm(0, 1 / R)),
        (Normal(stddev=0.3), scipy.stats.norm(0, 0.3)),
    ],
    ids=["kaiming_uniform", "normal", "normal_0.3"],
)
def test_distribution(init, distribution, key):
    entries = np.asarray(init(key, (D, R))).ravel()
    assert scipy.stats.kstest(entries, distribution.cdf).pvalue > 1e-3
    assert entries.var() == pytest.approx(distribution.var(), rel=0.1)


@pytest.mark.parametrize(("d", "r"), [(8, 3), (3, 8)])
def test_orthogonal_columns_or_rows(d, r, key):
    a = np.asarray(Orthogonal(gain=2.0)(key, (d, r)))
    gram = a.T @ a if r <= d else a @ a.T
    np.testing.assert_allclose(gram, 4 * np.eye(min(d, r)), atol=1e-5)


@pytest.mark.parametrize("init", [KaimingUniform(), Normal(), Orthogonal()])
def test_a_key_names_a_draw(init, key):
    other = jax.random.fold_in(key, 1)
    np.testing.assert_array_equal(init(key, (4, 2)), init(key, (4, 2)))
    assert np.any(np.asarray(init(key, (4, 2))) != np.asarray(init(other, (4, 2))))
