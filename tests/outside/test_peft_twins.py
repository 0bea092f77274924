"""Hugging Face's Flax models beside their torch twins: an adapter goes through a PEFT folder, and real PEFT computes the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig
from tests.cases import randomised

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "FlaxBertForMaskedLM"):
    pytest.skip("transformers without Flax models", allow_module_level=True)
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quick_compile")]

SMALL = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = transformers.BertConfig(**SMALL, intermediate_size=24, max_position_embeddings=16)
GPT2 = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=16)
LLAMA = transformers.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, max_position_embeddings=16)
TWINS = {
    "BERT": ("BertForMaskedLM", BERT, ("query", "value", "dense")),
    "GPT-2": ("GPT2LMHeadModel", GPT2, ("c_attn", "c_proj", "c_fc")),
    "Llama": ("LlamaForCausalLM", LLAMA, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
}
IDS = np.array([[3, 7, 1, 30, 2], [9, 9, 0, 4, 12]])


def twin_name(path: str) -> str:
    """torch's name of a Flax module: the names are the same, but for the layers' list of Llama."""
    return path.replace("/", ".")


@pytest.fixture(params=TWINS)
def twins(request, tmp_path):
    """(torch model, Flax model, config of the adapter), of the same weights."""
    name, config, targets = TWINS[request.param]
    torch.manual_seed(0)
    one = getattr(transformers, name)(config).eval()
    one.save_pretrained(tmp_path / "base")
    other = getattr(transformers, {"GPT2LMHeadModel": "FlaxGPT2LMHeadModel"}.get(name, f"Flax{name}")).from_pretrained(
        tmp_path / "base", from_pt=True
    )
    return one, other, LoRAConfig(rank=3, alpha=5, targets=targets)


def test_real_peft_computes_the_same(twins, tmp_path):
    torch_model, flax_model, config = twins
    with jax.numpy_rank_promotion("allow"):
        model, inputs = LoRA(flax_model.module, config), (jnp.asarray(IDS), jnp.ones_like(IDS))
        more = _positions(flax_model)
        # Updates of the size of the kernels: many times larger ones make what lies between large, and float32 rounds it.
        fresh = lora_jax.adapt(jax.random.key(0), flax_model.params, model, *inputs, *more)
        drawn = lora_jax.adapter_of(randomised(fresh, seed=3))
        params = lora_jax.combine(flax_model.params, jax.tree.map(lambda leaf: leaf / 4, drawn))
        layout = lora_jax.layout(flax_model.module, *inputs, *more)
        assert "" not in layout  # the tied output layer is a nested `apply` of a Dense
        lora_jax.peft.save(tmp_path / "adapter", params, config, layout, mask=None, names_of=twin_name)
        got = model.apply({"params": params}, *inputs, *more)[0]
        base = flax_model.module.apply({"params": flax_model.params}, *inputs, *more)[0]
    expected_base = logits(torch_model)
    expected = logits(peft.PeftModel.from_pretrained(torch_model, tmp_path / "adapter"))
    assert np.abs(got - base).max() > 1e-2
    apart, before = np.abs(got - expected).max(), np.abs(base - expected_base).max()
    print(f"logits {apart:.1e} apart, the largest {np.abs(expected).max():.2g}; the bases {before:.1e}")
    assert apart <= 1e-6


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS), attention_mask=torch.ones(IDS.shape)).logits.numpy()


def _positions(flax_model) -> tuple:
    """What the module takes beside ids and mask, where it has no defaults."""
    positions = jnp.tile(jnp.arange(IDS.shape[1])[None], (len(IDS), 1))
    return (jnp.zeros_like(IDS), positions, None) if "Bert" in type(flax_model).__name__ else (positions,)
