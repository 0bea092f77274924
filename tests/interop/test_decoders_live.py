"""Do we and `transformers`, side by side in one process, compute the same with every family of decoders, and read each other's folders?

Skipped where torch or transformers is missing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM
from lora_jax.models.generation import generate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
# No two sizes are alike; 40 tokens reach past the windows and past what the scalings were trained on.
SIZES = {
    **{
        "vocab_size": 43,
        "hidden_size": 36,
        "intermediate_size": 22,
        "num_hidden_layers": 4,
        "max_position_embeddings": 64,
    },
    **{"num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "rope_theta": 50.0},
}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
WIDE = {"head_dim": 10}
CASES = {
    "llama 2": ("Llama", {"tie_word_embeddings": False}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True, **WIDE}),
    "llama 3.1": ("Llama", {"rope_scaling": {"rope_type": "llama3", **LLAMA3}}),
    "llama, linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "smollm2": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 7, **WIDE}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2, window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "qwen2, yarn": ("Qwen2", {"rope_scaling": YARN}),
    "qwen3": ("Qwen3", {**WIDE, "tie_word_embeddings": True}),
    "qwen3, biases": ("Qwen3", {**WIDE, "attention_bias": True}),
    "gemma": ("Gemma", WIDE),
    "gemma2": ("Gemma2", {**WIDE, "query_pre_attn_scalar": 17, "sliding_window": 7, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {**WIDE, "query_pre_attn_scalar": 17, "sliding_window": 7, "rope_local_base_freq": 20.0, "sliding_window_pattern": 3}),
    "gemma3, linear": ("Gemma3", {**WIDE, "sliding_window": 7, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)
IDS = np.random.default_rng(0).integers(SIZES["vocab_size"], size=(3, 40))
LENGTHS = np.array([40, 23, 9])


def theirs(case: str):
    """Random weights, of which every one counts."""
    name, more = CASES[case]
    kind = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, f"{kind}Config")(**SIZES, **more, attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(0.3 * torch.randn_like(leaf) + (leaf.ndim == 1) * (not name.startswith("Gemma")))
    return model


def their_outputs(model):
    """(logits, hidden states before the first layer, after each, the last one normed) with the rows padded at their ends."""
    mask = torch.from_numpy(np.arange(IDS.shape[1])[None] < LENGTHS[:, None]).long()
    with torch.no_grad():
        out = model(torch.from_numpy(IDS), attention_mask=mask, output_hidden_states=True)
    return out.logits.numpy(), out.hidden_states[-1].numpy()


def real(array) -> np.ndarray:
    """The rows without their padding, one after the other."""
    return np.concatenate([np.asarray(row)[:length] for row, length in zip(array, LENGTHS, strict=True)])


def read(model, folder, **options):
    model.save_pretrained(folder)
    found = causal_folder.read(folder, **options)
    return CausalLM(found.config), found.params


@every_case
def test_logits_and_states_are_those_of_transformers(tmp_path, case):
    reference = theirs(case)
    logits, states = their_outputs(reference)
    model, params = read(reference, tmp_path)
    ids = jnp.asarray(IDS, jnp.int32)
    ours = model.apply({"params": params}, ids, method="hidden")
    np.testing.assert_allclose(real(ours), real(states), atol=TOLERANCE, rtol=TOLERANCE)
    got = model.apply({"params": params}, ids)
    np.testing.assert_allclose(real(got), real(logits), atol=TOLERANCE, rtol=TOLERANCE)
    assert np.abs(logits).max() > 0.5


@every_case
def test_transformers_reads_what_we_write_and_both_generate_the_same(tmp_path, case):
    first = theirs(case)
    model, params = read(first, tmp_path / "theirs")
    causal_folder.write(tmp_path / "ours", model.config, params)
    assert causal_folder.read(tmp_path / "ours").config == model.config
    again, info = type(first).from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"]
    np.testing.assert_array_equal(their_outputs(again.eval())[0], their_outputs(first)[0])
    prompt = IDS[:, :20]
    said = generate(
        model, params, jnp.asarray(prompt, jnp.int32), jnp.full(3, 20), jax.random.key(0), max_new_tokens=16
    )
    with torch.no_grad():
        expected = again.generate(
            torch.from_numpy(prompt), attention_mask=torch.ones(prompt.shape), max_new_tokens=16, min_new_tokens=16,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert np.array_equal(said, expected[:, 20:])


@pytest.mark.parametrize("case", ["llama 3.1", "gemma3"])
def test_bfloat16_in_shards_stays_what_it_is(tmp_path, case):
    reference = theirs(case).to(torch.bfloat16)
    reference.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = causal_folder.read(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype(jnp.bfloat16)}
    logits = CausalLM(found.config).apply({"params": found.params}, jnp.asarray(IDS, jnp.int32))
    again = type(reference).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    np.testing.assert_allclose(real(logits), real(their_outputs(again)[0]), atol=TOLERANCE, rtol=TOLERANCE)


FAMILIES = ("llama, biases", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")


def their_adapter(peft, base):
    """A random adapter on every linear layer of two layers, of different ranks, and on the MLP of all."""
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=r".*layers\.([12]\.self_attn\.(q|k|v|o)_proj|\d\.mlp\.(gate|up|down)_proj)",
        rank_pattern={r"layers\.2\.self_attn\.q_proj": 4}, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(base, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if "lora_" in name:
                leaf.copy_(0.2 * torch.randn_like(leaf))
    return model


@pytest.mark.parametrize("case", FAMILIES)
def test_adapters_of_peft_both_ways(tmp_path, case):
    peft = pytest.importorskip("peft")
    model, params = read(theirs(case), tmp_path / "base")
    plain = their_outputs(theirs(case))[0]
    adapted = their_adapter(peft, theirs(case))
    expected = their_outputs(adapted)[0]
    adapted.save_pretrained(tmp_path / "peft")
    loaded, config = lora_jax.peft.load(tmp_path / "peft", params, model)
    ours = lora_jax.LoRA(model, config).apply({"params": loaded}, jnp.asarray(IDS, jnp.int32))
    np.testing.assert_allclose(real(ours), real(expected), atol=TOLERANCE, rtol=TOLERANCE)
    assert np.abs(expected - plain).max() > 0.1
    lora_jax.peft.save(tmp_path / "ours", loaded, config, model, mask=None, task_type="CAUSAL_LM")
    again = peft.PeftModel.from_pretrained(theirs(case), str(tmp_path / "ours")).eval()
    np.testing.assert_allclose(their_outputs(again)[0], expected, atol=TOLERANCE, rtol=TOLERANCE)
