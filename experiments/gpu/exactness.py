"""Is it right on this device? Side path against merge, the base after training, a sweep's member by itself, several devices against one."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lora_jax
from experiments.benchmarks import bert_setting, lm_setting, setting
from experiments.common.classification import cross_entropy
from experiments.gpu.checks import check
from experiments.gpu.parts import Size
from lora_jax import mesh, sweep, training
from lora_jax.models import bert
from lora_jax.models.causal_lm import PRESETS, CausalLM
from lora_jax.models.mlp import MLP

# Bars written down before any accelerator was at hand: differences over the largest output; in bfloat16, where merging rounds every entry of
# W + s a b to eight bits, the side path's error over the merged kernels', each against float32; losses, relative.
FLOAT32, BFLOAT16, LOSSES = 1e-5, 2.0, 1e-5
RANKS, STEPS, SEED = (1, 2, 4, 16), 20, 0
IDS = 100  # of tokens, in every vocabulary


class Case(NamedTuple):
    """A model and something to show it; it computes in the dtype of its parameters and of this."""

    model: nn.Module
    x: jax.Array


def measure(size: Size) -> dict[str, Any]:
    """`checks` by name, in float32 with JAX's highest precision of products; and that training in bfloat16 leaves the base alone."""
    ranks, steps = ((2,), 5) if size.is_smoke else (RANKS, STEPS)
    checks: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        for name, case in cases(jnp.float32, size.is_smoke).items():
            checks[f"{name}, float32: side path against merge"] = check(apart_from_merge(case), FLOAT32)
        checks["MLP: losses of a sweep's members against solo runs"] = check(apart_from_solo(ranks, steps), LOSSES)
        if jax.device_count() > 1:
            checks["MLP: losses of a sweep over all devices against one"] = check(
                apart_from_one_device(ranks, steps), LOSSES
            )
    checks["language model: entries of the base that moved in training"] = check(
        moved(_language_model(size.is_smoke), steps), 0.0
    )
    return {"checks": checks, "devices": jax.device_count()}


def measure_bfloat16(size: Size) -> dict[str, Any]:
    """`checks` by name of what computes in bfloat16, six programs each; and that training in float32 leaves the base alone."""
    found = cases(jnp.bfloat16, size.is_smoke)
    checks = {
        f"{name}, bfloat16: error of the side path over that of merge": check(error_ratio(case), BFLOAT16)
        for name, case in found.items()
        if not size.is_smoke or name == "MLP"
    }
    if not size.is_smoke:
        checks["MLP: entries of the base that moved in training"] = check(moved(setting.lora(), STEPS), 0.0)
    return {"checks": checks, "devices": jax.device_count()}


def cases(dtype: Any, is_smoke: bool) -> dict[str, Case]:
    """A plain MLP, a decoder whose layers are scanned and whose embedding is tied, and BERT-tiny."""
    decoder = PRESETS["0.3M" if is_smoke else "3M"]
    ids = jax.random.randint(jax.random.key(0), (4, 32), 1, IDS, jnp.int32)
    found = {
        "MLP": Case(MLP(setting.HIDDEN), jax.random.normal(jax.random.key(0), (64, 784)).astype(dtype)),
        "decoder": Case(CausalLM(decoder, dtype=dtype), ids),
    }
    if not is_smoke:
        found["BERT-tiny"] = Case(bert.BertForSequenceClassification(bert_setting.CONFIG, dtype=dtype), ids)
    return found


def adapted(case: Case, dtype: Any) -> tuple[lora_jax.LoRA, dict[str, Any]]:
    """(the wrapped model, its parameters): every linear layer and embedding, a and b both random."""
    model = lora_jax.LoRA(case.model, lora_jax.LoRAConfig(rank=8, alpha=8, targets="*"))

    @jax.jit
    def draw(key):
        base = case.model.init(key, case.x)["params"]
        base = jax.tree.map(lambda leaf: leaf.astype(dtype), base)
        return lora_jax.adapt(key, base, model, case.x)

    random = np.random.default_rng(3)

    def moved(path, leaf):
        is_factor = str(getattr(path[-1], "key", "")) in ("lora_a", "lora_b")
        return jnp.asarray(random.normal(0, 0.1, leaf.shape), leaf.dtype) if is_factor else leaf

    return model, jax.tree_util.tree_map_with_path(moved, draw(jax.random.key(1)))


def apart_from_merge(case: Case) -> float:
    """The largest difference of outputs between the side path and the merged kernels, over the largest output; inf where adapters do nothing."""
    side, merged, base = outputs(case, *adapted(case, jnp.float32))
    scale = np.abs(merged).max()
    return float("inf") if np.abs(merged - base).max() < 0.1 * scale else float(np.abs(side - merged).max() / scale)


def error_ratio(case: Case) -> float:
    """The side path's largest error in bfloat16 over that of the merged kernels, both against float32 on the same rounded parameters."""
    model, params = adapted(case, jnp.bfloat16)
    side, merged, _ = outputs(case, model, params)
    with jax.default_matmul_precision("highest"):
        exact, _, _ = outputs(*_in_float32(case, model, params))
    return float(np.abs(side - exact).max() / np.abs(merged - exact).max())


def _in_float32(case: Case, model: lora_jax.LoRA, params: dict[str, Any]) -> tuple[Case, lora_jax.LoRA, dict[str, Any]]:
    wide = {"dtype": jnp.float32} if hasattr(case.model, "dtype") else {}
    x = case.x.astype(jnp.float32) if jnp.issubdtype(case.x.dtype, jnp.floating) else case.x
    case = Case(case.model.clone(**wide), x)
    return case, lora_jax.LoRA(case.model, model.config), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def outputs(case: Case, model: lora_jax.LoRA, params: dict[str, Any]) -> list[np.ndarray]:
    """With the side path, with merged kernels, and of the base."""
    side = jax.jit(lambda params: model.apply({"params": params}, case.x))(params)
    plain = jax.jit(lambda params: case.model.apply({"params": params}, case.x))
    found = side, plain(jax.jit(lora_jax.merge)(params)), plain(lora_jax.strip(params))
    return [np.asarray(value, np.float64) for value in found]


def moved(rival: setting.Rival, steps: int) -> float:
    """Entries of frozen leaves whose bits a training changed; inf where an entry of the trainable tree did not move at all, leaf by leaf."""
    before = jax.tree.map(lambda leaf: np.array(leaf), rival.frozen)
    state, _ = training.make_epoch(rival.loss, rival.tx)(rival.state(), rival.frozen, rival.data, rival.order(steps))
    trained = jax.tree.map(
        lambda new, old: bool((np.asarray(new) != np.asarray(old)).any()), state.trainable, rival.trainable
    )
    if not all(jax.tree.leaves(trained)):
        return float("inf")
    changed = jax.tree.map(lambda old, new: np.sum(_bits(old) != _bits(np.asarray(new))), before, rival.frozen)
    return float(sum(jax.tree.leaves(changed)))


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def apart_from_solo(ranks: tuple[int, ...], steps: int) -> float:
    """The largest difference of losses, relative, between members of these ranks in one program and as many runs by themselves."""
    together, wrapped = _losses(ranks, steps, None), setting.wrapped()
    alone = []
    for rank in ranks:
        model = wrapped.with_config(dataclasses.replace(wrapped.config, rank=rank))
        params = setting.adapted(model, setting.base(), jnp.ones((1, 784)), SEED)
        mask = lora_jax.trainable_mask(params)
        rival = setting.rival(
            cross_entropy(model), optax.adam(setting.RATE), params, mask, setting.data(), setting.BATCH
        )
        state = training.init_state(rival.trainable, rival.tx, jax.random.key(SEED))
        _, (losses, _) = training.make_epoch(rival.loss, rival.tx)(state, rival.frozen, rival.data, _order(steps))
        alone.append(np.asarray(losses))
    return _relative(together, np.stack(alone))


def apart_from_one_device(ranks: tuple[int, ...], steps: int) -> float:
    """The same between members shared out over all devices and those of one."""
    everywhere, one = mesh.make(members=jax.device_count()), mesh.make(devices=jax.devices()[:1])
    return _relative(_losses(ranks, steps, everywhere), _losses(ranks, steps, one))


def _losses(ranks: tuple[int, ...], steps: int, on: jax.sharding.Mesh | None) -> np.ndarray:
    """Of the members, [M, S]."""
    members = sweep.grid(ranks=ranks, learning_rates=(setting.RATE,), seeds=(SEED,))
    model = setting.wrapped()
    trainer = sweep.Sweep(cross_entropy(model), optax.adam, mesh=on)
    stacked = sweep.init_adapters(model, members, jnp.ones((1, 784)))
    mask = lora_jax.trainable_mask(stacked)
    rates, seeds = [member.learning_rate for member in members], [member.seed for member in members]
    state = trainer.filled(trainer.start(stacked, mask, learning_rates=rates, seeds=seeds))
    shared, data, order = (trainer.share(tree, state) for tree in (setting.base(), setting.data(), _order(steps)))
    _, (losses, _) = trainer.run(state, shared, data, order)
    return mesh.fetch(losses)[: len(members)]


def _order(steps: int) -> jax.Array:
    return setting.order((steps, setting.BATCH), setting.EXAMPLES)


def _relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got / expected - 1).max())


def _language_model(is_smoke: bool) -> setting.Rival:
    """Computed in bfloat16, its base kept so."""
    from experiments.gpu import decoder

    model = CausalLM(PRESETS["0.3M" if is_smoke else "3M"], dtype=jnp.bfloat16)
    return decoder.in_bfloat16(lm_setting.lora(lm_setting.full_rows(64, rows=8, below=IDS), 4, model))
