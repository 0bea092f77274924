"""Does `verify` hold on what is right, and name what is not?"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, verify
from lora_jax.errors import TreeError
from tests.cases import CASES, DORA, STARTS
from tests.nnx_cases import PLAIN
from tests.products.functions import CASES as FUNCTIONS

pytestmark = pytest.mark.usefixtures("quick_compile")
NAMES = ("tied_scan_remat-dora=True", "attention-init=pissa", "embed-init=orthogonal")
SOME = [*CASES, *(case for case in (*DORA, *STARTS) if case.name in NAMES)]


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_models_of_linen(case):
    found = verify(case.model(), case.params(), case.x())
    assert found.holds, str(found)
    assert len(found.rows) > 0 and all(row.gradient > 0 for row in found.rows)


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_models_of_nnx(case):
    found = verify(case.model(), case.params(), case.x())
    assert found.holds, str(found)


@pytest.mark.parametrize("name", ["gemma", "scan over axis 1"])
def test_functions(name):
    case = FUNCTIONS[name]
    config = LoRAConfig(rank=2, targets="*")
    params = lora_jax.products.adapt(jax.random.key(0), case.params(), case.fn, config, case.input())
    found = verify(case.fn, params, case.input())
    assert found.holds, str(found)
    assert {row.path for row in found.rows} == {f"{path}:{roles}" for path, roles in case.roles.items()}


class ReadByHand(nn.Module):
    """A kernel that a layer reads, and the model too."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(x.shape[-1], name="layer")
        y = layer(x)
        return y @ layer.variables["params"]["kernel"]


class Forgetful:
    """A wrapper that adds the side path at the first use alone."""

    def apply(self, variables, x):
        params = variables["params"]
        model = LoRA(nn.Dense(3), LoRAConfig(rank=2, targets="*"))
        return model.apply({"params": params["layer"]}, x) @ params["layer"]["kernel"]


def test_a_second_use_that_is_missed_is_found():
    params, x = _read_by_hand()
    found = verify(Forgetful(), params, x)
    assert not found.holds and found.apart > 0.01 and not found.rows[0].holds
    assert "layer" in str(found) and "is not the merged kernel's" in str(found) and str(found).endswith("DOES NOT HOLD")


def test_a_gradient_of_rounding_alone_is_told_as_such():
    """Equal tokens get equal weights whatever the queries are, so that these have no gradient."""

    def attend(params, x):
        q, k = x @ params["q"], x @ params["k"]
        return jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ (x @ params["v"])

    draws = zip("kqv", jax.random.split(jax.random.key(0), 3), strict=True)
    base = {name: jax.random.normal(key, (8, 8)) for name, key in draws}
    config, equal = LoRAConfig(rank=2, targets=("q", "v")), jnp.ones((1, 3, 8))
    params = lora_jax.products.adapt(jax.random.key(1), base, attend, config, equal)
    found = verify(attend, params, equal)
    assert not found.holds and found.apart < 1e-5
    assert "is rounding on this input; give another" in str(found) or "has no effect" in str(found)
    assert "is not the merged kernel's" not in str(found)
    assert verify(attend, params, jax.random.normal(jax.random.key(2), (1, 3, 8))).holds


def test_the_engine_reaches_it():
    params, x = _read_by_hand()
    assert verify(LoRA(ReadByHand(), LoRAConfig(rank=2, targets="*")), params, x).holds


def _read_by_hand():
    x = jnp.ones((2, 3))
    return LoRA(ReadByHand(), LoRAConfig(rank=2, targets="*")).init(jax.random.key(0), x)["params"], x


def test_an_adapter_without_effect_is_found():
    """Its layer's output is thrown away: it would get none, and has one from another model."""

    class Idle(nn.Module):
        share: float

        @nn.compact
        def __call__(self, x):
            idle = nn.Dense(4, name="idle")(x)
            return nn.Dense(4, name="used")(x) + (self.share * idle if self.share else 0)

    x, config = jnp.ones((2, 3)), LoRAConfig(rank=2, targets="*")
    model, other = LoRA(Idle(0.0), config), LoRA(Idle(1.0), config)
    assert "idle" not in lora_jax.adapter_of(model.init(jax.random.key(0), x)["params"])
    found = verify(model, other.init(jax.random.key(0), x)["params"], x)
    rows = {row.path: row for row in found.rows}
    assert not rows["idle"].holds and rows["used"].holds and "has no effect" in str(found)


def test_a_base_that_moves_is_told():
    found = dataclasses.replace(verify(*_dense()), moved=("kernel",))
    assert not found.holds and "moved at kernel" in str(found)


def test_a_base_with_entries_that_are_no_numbers_is_refused_by_name():
    """Behind an output that is fine, too."""
    fn = lambda params, x: (x @ params["v"], x @ params["w"])  # noqa: E731
    base = {name: jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32) for name in "vw"}
    x = jnp.ones((2, 3))
    params = lora_jax.products.adapt(jax.random.key(0), base, fn, LoRAConfig(rank=2, targets="*"), x)
    assert verify(fn, params, x).holds
    with pytest.raises(TreeError, match="w has non-finite values"):
        verify(fn, params | {"w": params["w"].at[0, 0].set(jnp.nan)}, x)


def test_a_difference_that_is_no_number_does_not_hold():
    fn = lambda params, x: (x @ params["w"], jnp.log(-jnp.abs(x @ params["w"])))  # noqa: E731
    x, base = jnp.ones((2, 3)), {"w": jnp.ones((3, 4))}
    params = lora_jax.products.adapt(jax.random.key(0), base, fn, LoRAConfig(rank=2, targets="*"), x)
    assert not verify(fn, params, x).holds


def test_bfloat16_by_its_own_tolerance():
    model = LoRA(nn.Dense(5, dtype=jnp.bfloat16), LoRAConfig(rank=2, targets="*"))
    x = jnp.linspace(-1, 1, 24).reshape(6, 4)
    params = model.init(jax.random.key(0), x)["params"]
    assert not verify(model, params, x, tolerance=1e-6).holds and verify(model, params, x, tolerance=3e-2).holds


def test_a_base_is_refused():
    model, params, x = _dense()
    with pytest.raises(TreeError, match="verify: these parameters hold no adapter"):
        verify(model, lora_jax.strip(params), x)


def _dense():
    model, x = LoRA(nn.Dense(4), LoRAConfig(rank=2, targets="*")), jnp.ones((2, 3))
    return model, model.init(jax.random.key(0), x)["params"], x
