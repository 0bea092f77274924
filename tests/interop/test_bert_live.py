"""Do we and `transformers`, side by side in one process, read each other's folders and compute the same?

Skipped where torch or transformers is missing. Largest error measured (transformers 5.23): 8e-7.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.models import bert_folder
from lora_jax.models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification
from tests.bert_golden import assert_close

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 41,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 28,
    "max_position_embeddings": 19,
    "type_vocab_size": 4,
    "layer_norm_eps": 1e-2,
}
HEADS = ("BertForSequenceClassification", "BertForMaskedLM")
ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
LABELS = 3
every_head = pytest.mark.parametrize("head", HEADS)


def ours(head: str, config: BertConfig):
    return BertForMaskedLM(config) if head == "BertForMaskedLM" else BertForSequenceClassification(config, LABELS)


def inputs() -> dict[str, np.ndarray]:
    """A batch of three rows, of 9, 6 and 2 real tokens."""
    random = np.random.default_rng(0)
    return {
        "input_ids": random.integers(41, size=(3, 9)),
        "attention_mask": (np.arange(9) < np.asarray([9, 6, 2])[:, None]).astype(int),
        "token_type_ids": random.integers(4, size=(3, 9)),
    }


def real(logits) -> np.ndarray:
    """Logits of sentences, or of real tokens."""
    logits = np.asarray(logits)
    return logits if logits.ndim == 2 else logits[inputs()["attention_mask"].astype(bool)]


def random_params(model, seed: int = 0) -> dict:
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.4, jnp.float32), shapes)


def our_logits(model, params) -> np.ndarray:
    return real(model.apply({"params": params}, **{name: jnp.asarray(x) for name, x in inputs().items()}))


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return real(model.eval()(**{name: torch.from_numpy(x) for name, x in inputs().items()}).logits.float())


def load(head: str, path, **kwargs):
    """Their model, with nothing missing and nothing left over but a pooler."""
    model, info = getattr(transformers, head).from_pretrained(path, output_loading_info=True, **kwargs)
    assert not set(info["missing_keys"])
    assert {key for key in info["unexpected_keys"] if "pooler" not in key} == set()
    return model


@every_head
@pytest.mark.parametrize("act", ACTS)
def test_transformers_reads_what_we_write(tmp_path, head, act):
    config = BertConfig(**SIZES, hidden_act=act)
    params = random_params(ours(head, config))
    bert_folder.write(tmp_path, config, params)
    model = load(head, tmp_path)
    assert model.config.num_labels == (LABELS if head == "BertForSequenceClassification" else 2)
    assert_close(their_logits(model), our_logits(ours(head, config), params))


@every_head
def test_transformers_reads_our_bfloat16(tmp_path, head):
    config = BertConfig(**SIZES)
    params = random_params(ours(head, config))
    bert_folder.write(tmp_path, config, params, dtype=jnp.bfloat16)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    assert_close(their_logits(load(head, tmp_path, dtype=torch.float32)), our_logits(ours(head, config), rounded))


def their_random(head: str, **changes):
    torch.manual_seed(0)
    model = getattr(transformers, head)(transformers.BertConfig(**SIZES, num_labels=LABELS, **changes))
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(0.4 * torch.randn_like(leaf))
    return model


@every_head
@pytest.mark.parametrize("act", ACTS)
def test_we_read_what_transformers_writes(tmp_path, head, act):
    theirs = their_random(head, hidden_act=act)
    theirs.save_pretrained(tmp_path)
    loaded = bert_folder.read(tmp_path)
    assert loaded.ignored == ()
    model = ours(head, loaded.config)
    params, new = bert_folder.initialised(model, jax.random.key(0), loaded.params)
    assert all("pooler" in path for path in new)
    assert_close(our_logits(model, params), their_logits(theirs))


@every_head
def test_we_read_shards_and_pickles_of_theirs(tmp_path, head):
    theirs = their_random(head)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    (tmp_path / "pickle").mkdir()
    theirs.config.save_pretrained(tmp_path / "pickle")
    torch.save(theirs.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    for name in ("shards", "pickle"):
        loaded = bert_folder.read(tmp_path / name)
        model = ours(head, loaded.config)
        params, _ = bert_folder.initialised(model, jax.random.key(0), loaded.params)
        assert_close(our_logits(model, params), their_logits(theirs))


def test_we_read_their_bfloat16_and_a_whole_pretraining_model(tmp_path):
    theirs = their_random("BertForPreTraining").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    loaded = bert_folder.read(tmp_path)
    assert loaded.ignored == ("cls.seq_relationship.bias", "cls.seq_relationship.weight")
    model = BertForMaskedLM(loaded.config)
    params, new = bert_folder.initialised(model, jax.random.key(0), loaded.params)
    assert new == []
    with torch.no_grad():
        expected = theirs.float().eval()(**{name: torch.from_numpy(x) for name, x in inputs().items()})
    assert_close(our_logits(model, params), real(expected.prediction_logits))
