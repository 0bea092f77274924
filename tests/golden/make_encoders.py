"""Writes the golden RoBERTa and DistilBERT of tests/encoder_golden.py; needs torch and transformers.

Run from the repository root:

    python tests/golden/make_encoders.py

Weights are float32; the outputs are computed from them in float64 and then rounded, so that an error measured against
them is the other side's own. Written with torch 2.13 and transformers 4.57.
"""

import pathlib

import make_bert
import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
COMMON = dict(vocab_size=23, pad_token_id=3, num_labels=5, attn_implementation="eager")  # noqa: C408 (as transformers takes them)
SIZES = {  # odd on purpose: no two axes have the same length
    "Roberta": dict(  # noqa: C408
        **COMMON, hidden_size=8, num_attention_heads=2, num_hidden_layers=2, intermediate_size=12, max_position_embeddings=15,
        type_vocab_size=1, layer_norm_eps=1e-3, hidden_act="relu", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3,
        classifier_dropout=0.4, problem_type="single_label_classification",
    ),
    "DistilBert": dict(  # noqa: C408
        **COMMON, dim=8, n_heads=4, n_layers=2, hidden_dim=12, max_position_embeddings=14, activation="relu", dropout=0.2,
        attention_dropout=0.3, seq_classif_dropout=0.4,
    ),
}  # fmt: skip
WORDS = ("awful", "bad", "fair", "good", "great")
HEADS = {"ForSequenceClassification": "odd", "ForMaskedLM": "odd_mlm"}


def main() -> None:
    torch.manual_seed(0)
    arrays = inputs()
    for family, sizes in SIZES.items():
        config = getattr(transformers, f"{family}Config")(**sizes)
        config.id2label, config.label2id = dict(enumerate(WORDS)), {word: i for i, word in enumerate(WORDS)}
        for head, end in HEADS.items():
            name = f"{family.lower()}_{end}"
            model = make_bert.randomised(getattr(transformers, family + head)(config))
            make_bert.save(model, HERE / name)
            arrays |= {f"{name}_{key}": array for key, array in outputs(model.double(), arrays).items()}
    np.savez_compressed(HERE / "encoder_outputs.npz", **arrays)


def inputs() -> dict[str, np.ndarray]:
    """ids and mask [4, 10] int32: whole, padded right, padded left, and with a hole; token 3, that of padding, is also where nothing is masked."""
    random = np.random.default_rng(0)
    mask = np.ones((4, 10), np.int32)
    mask[1, 6:] = mask[2, :3] = mask[3, 4] = 0
    ids = random.integers(4, COMMON["vocab_size"], size=mask.shape, dtype=np.int32)
    ids[0, 5] = 3
    return {"ids": np.where(mask == 1, ids, COMMON["pad_token_id"]).astype(np.int32), "mask": mask}


@torch.no_grad()
def outputs(model, arrays) -> dict[str, np.ndarray]:
    """states [L + 1, 4, 10, D], and logits [4, C] or [4, 10, V]."""
    given = {
        "input_ids": torch.from_numpy(arrays["ids"]).long(),
        "attention_mask": torch.from_numpy(arrays["mask"]).long(),
    }
    found = model(**given, output_hidden_states=True)
    return {
        "states": make_bert.as_float32(torch.stack(found.hidden_states)),
        "logits": make_bert.as_float32(found.logits),
    }


if __name__ == "__main__":
    main()
