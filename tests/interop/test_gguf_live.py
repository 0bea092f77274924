"""Do `transformers` and we read the same model from one GGUF file? Skipped where torch, transformers or gguf is missing."""

import numpy as np
import pytest

from lora_jax.models import gguf_file
from tests import gguf_cases as cases
from tests.test_gguf import smollm2

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the other side

SAME = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SAME += ("max_position_embeddings", "rope_theta", "vocab_size", "tie_word_embeddings", "model_type")


def theirs(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


def assert_same(path):
    found, model = gguf_file.read(path), theirs(path)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    assert tensors.keys() == found.tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor, err_msg=name)
    said = model.config.to_dict()
    assert {name: found.values[name] for name in SAME} == {name: said[name] for name in SAME}


@pytest.mark.parametrize("kind", ("F32", "Q8_0", "Q4_0"))
def test_a_small_llama(tmp_path, kind):
    made = cases.writer(tmp_path / "model.gguf")
    made.add_vocab_size(cases.WORDS)
    made.add_rope_dimension_count(cases.WIDTH)  # where transformers finds the width of a head
    cases.add_tensors(made, "llama", cases.random_model("llama"), kind)
    cases.finish(made)
    assert_same(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "architecture", ("gemma2", "gemma3")
)  # it takes Qwen's heads to be of other widths than the file says
def test_other_families(tmp_path, architecture):
    made = cases.writer(tmp_path / "model.gguf", architecture)
    made.add_vocab_size(cases.WORDS)
    cases.add_tensors(made, architecture, cases.random_model(architecture), "Q8_0")
    cases.finish(made)
    assert_same(tmp_path / "model.gguf")


def test_smollm2():
    assert_same(smollm2())


def test_our_values_are_a_config_that_transformers_runs(tmp_path):
    """Its own Llama with our tensors answers as its own reader's."""
    path = smollm2()
    found = gguf_file.read(path)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**found.values))
    missing = model.load_state_dict({name: torch.from_numpy(t) for name, t in found.tensors.items()}, strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys
    model.tie_weights()
    ids = torch.tensor([found.tokenizer.chat_ids([{"role": "user", "content": "What is the capital of France?"}])])
    with torch.no_grad():
        ours, own = model.eval()(ids).logits, theirs(path).eval()(ids).logits
    np.testing.assert_allclose(ours.numpy(), own.numpy(), rtol=0, atol=1e-4)
    answer = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=found.tokenizer.eos)
    assert "Paris" in found.tokenizer.decode(answer[0, ids.shape[1] :].tolist())
