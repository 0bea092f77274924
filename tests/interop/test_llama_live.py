"""Do we and `transformers`, side by side in one process, read each other's Llama folders, compute and generate the same?

Skipped where torch or transformers is missing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.models.generation import generate
from tests.bert_golden import assert_close

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 43,
    "hidden_size": 36,
    "intermediate_size": 22,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-2,
    "rope_theta": 50.0,
}
IDS = np.random.default_rng(0).integers(SIZES["vocab_size"], size=(3, 11))
NEW_TOKENS = 12
tied_or_not = pytest.mark.parametrize("tied", (True, False))


def random_params(model: CausalLM) -> dict:
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.4, jnp.float32), shapes)


def our_logits(model: CausalLM, params: dict) -> jax.Array:
    return model.apply({"params": params}, jnp.asarray(IDS, jnp.int32))


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(IDS)).logits.float().numpy()


def their_random(tied: bool):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied))
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(0.4 * torch.randn_like(leaf))
    return model


@tied_or_not
def test_transformers_reads_what_we_write(tmp_path, tied):
    config = CausalLMConfig(**SIZES, tie_word_embeddings=tied)
    params = random_params(CausalLM(config))
    causal_folder.write(tmp_path, config, params)
    model, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not set(info["missing_keys"]) | set(info["unexpected_keys"])
    assert_close(their_logits(model), our_logits(CausalLM(config), params))


@tied_or_not
@pytest.mark.parametrize("shard", ("1GB", "8KB"))
def test_we_read_what_transformers_writes(tmp_path, tied, shard):
    theirs = their_random(tied)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "8KB")
    found = causal_folder.read(tmp_path)
    assert found.config.tie_word_embeddings == tied
    assert_close(our_logits(CausalLM(found.config), found.params), their_logits(theirs))


def test_greedily_both_say_the_same(tmp_path):
    theirs = their_random(tied=False).eval()
    theirs.save_pretrained(tmp_path)
    found = causal_folder.read(tmp_path)
    lengths = jnp.full(len(IDS), IDS.shape[1], jnp.int32)
    said = generate(
        CausalLM(found.config), found.params, jnp.asarray(IDS, jnp.int32), lengths, jax.random.key(0),
        max_new_tokens=NEW_TOKENS,
    )  # fmt: skip
    with torch.no_grad():
        expected = theirs.generate(
            torch.from_numpy(IDS), attention_mask=torch.ones(IDS.shape), max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert np.array_equal(said, expected[:, IDS.shape[1] :])
