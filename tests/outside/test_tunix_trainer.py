"""Does tunix's PeftTrainer train the adapters of an injected model, and nothing else?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lora_jax
import lora_jax.nnx

peft_trainer = pytest.importorskip("tunix.sft.peft_trainer")
pytestmark = pytest.mark.filterwarnings("ignore")  # tunix's own


class Einsum(nnx.Module):
    """As in tunix's models: a `w`, and an equation."""

    def __init__(self, equation, shape, rngs):
        self.equation, self.w = equation, nnx.Param(jax.random.normal(rngs.params(), shape) / 4)

    def __call__(self, x):
        return jnp.einsum(self.equation, x, self.w[...])


class Model(nnx.Module):
    """Tokens -> an embedding, heads, a layer that drops -> logits through the embedding."""

    def __init__(self, rngs):
        self.embed, self.norm = nnx.Embed(11, 8, rngs=rngs), nnx.RMSNorm(8, rngs=rngs)
        self.up, self.down = Einsum("btd,ndh->btnh", (2, 8, 6), rngs), Einsum("btnh,nhd->btd", (2, 6, 8), rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, ids, positions=None, cache=None, attention_mask=None):
        x = self.embed(ids)
        x = x + self.drop(self.down(nnx.gelu(self.up(self.norm(x)))))
        return x @ self.embed.embedding[...].T, None


def batches(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        tokens = jnp.asarray(random.integers(11, size=(4, 5)), jnp.int32)
        yield {"input_tokens": tokens, "input_mask": jnp.ones((4, 5), jnp.float32)}


def trained(model, steps=4):
    config = peft_trainer.TrainingConfig(eval_every_n_steps=100, max_steps=steps)
    trainer = peft_trainer.PeftTrainer(model, optax.adam(1e-2), config)
    trainer = trainer.with_gen_model_input_fn(lambda batch: {**batch, "positions": None, "attention_mask": None})
    trainer.train(list(batches(steps)))
    return trainer


def test_the_adapters_train_and_the_base_stays_bit_for_bit():
    base = Model(nnx.Rngs(0))
    config = lora_jax.LoRAConfig(rank=2, targets=("all-linear", "embed"), dropout=0.1)
    model = lora_jax.nnx.LoRA(base, config)
    params = lora_jax.adapt(jax.random.key(0), model.base_params, model, jnp.zeros((4, 5), jnp.int32))
    assert sorted(lora_jax.adapter_of(params)) == ["down", "embed", "up"]
    injected = model.inject(params, rngs={"dropout": jax.random.key(1)})
    trainer = trained(injected)
    assert trainer.train_steps == 4 and trainer._lora_enabled
    before, after = lora_jax.tree.flat(params), lora_jax.tree.flat(model.params_of(injected))
    moved = {path for path in before if np.asarray(before[path]).tobytes() != np.asarray(after[path]).tobytes()}
    assert moved == {path for path in before if path.endswith(("lora_a", "lora_b"))}


def test_the_trained_model_merged_gives_its_outputs():
    model = lora_jax.nnx.LoRA(Model(nnx.Rngs(0)), lora_jax.LoRAConfig(rank=2))
    ids = jnp.zeros((4, 5), jnp.int32)
    injected = model.inject(lora_jax.adapt(jax.random.key(0), model.base_params, model, ids))
    trained(injected)
    injected.eval()
    merged = model.inject(lora_jax.merge(model.params_of(injected)))
    merged.eval()
    np.testing.assert_allclose(injected(ids)[0], merged(ids)[0], rtol=1e-5, atol=1e-5)


def test_every_matrix_of_a_llama_is_reached():
    llama = pytest.importorskip("tunix.models.llama3.model")
    config = llama.ModelConfig(
        num_layers=2, vocab_size=13, embed_dim=8, hidden_dim=12, num_heads=4, head_dim=6, num_kv_heads=2,
        rope_theta=10_000, norm_eps=1e-5, weight_tying=True,
    )  # fmt: skip
    model = lora_jax.nnx.LoRA(llama.Llama3(config, rngs=nnx.Rngs(0)), lora_jax.LoRAConfig(rank=2, targets="*"))
    ids, mask = jnp.asarray([[1, 5, 2, 7]]), jnp.tril(jnp.ones((1, 4, 4), bool))
    inputs = ids, jnp.arange(4)[None], None, mask
    params = lora_jax.adapt(jax.random.key(0), model.base_params, model, *inputs)
    matrices = [path for path, leaf in lora_jax.tree.flat(model.base_params).items() if leaf.ndim > 1]
    adapters = [path for path in lora_jax.tree.flat(params) if path.endswith("lora_a")]
    assert len(matrices) == len(adapters) == 15 and not model.layout_of(*inputs).missed
    leaves = lora_jax.tree.flat(params)
    random = {path: jax.random.normal(jax.random.key(k), leaves[path].shape) for k, path in enumerate(leaves)}
    params = lora_jax.tree.nested({**leaves, **{path: random[path] for path in leaves if path.endswith("lora_b")}})
    merged = model.inject(lora_jax.merge(params))
    np.testing.assert_allclose(model.inject(params)(*inputs)[0], merged(*inputs)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.apply({"params": params}, *inputs)[0], merged(*inputs)[0], rtol=1e-4, atol=1e-4)
