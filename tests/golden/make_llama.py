"""Writes the golden files of tests/test_causal_lm.py; needs torch and transformers. Run from the repository root.

Weights are float32; the logits are computed from them in float64 and then rounded, so that an error measured against
them is the other side's own. Written with torch 2.13 and transformers 5.23.
"""

import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).parent
SIZES = dict(  # noqa: C408 (as transformers takes them); odd on purpose: no two axes have the same length
    vocab_size=37,
    hidden_size=24,
    num_attention_heads=6,
    num_key_value_heads=2,
    num_hidden_layers=3,
    intermediate_size=20,
    max_position_embeddings=32,
    rms_norm_eps=1e-3,  # large enough to be seen
    rope_theta=100.0,
    attn_implementation="eager",
)


def main() -> None:
    arrays = {"ids": np.random.default_rng(0).integers(SIZES["vocab_size"], size=(3, 13), dtype=np.int32)}
    for name, tied in (("llama_tied", True), ("llama_untied", False)):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
        with torch.no_grad():
            for leaf in model.parameters():
                leaf.copy_((1 if leaf.ndim == 1 else 0) + 0.35 * torch.randn_like(leaf))
            model.save_pretrained(HERE / name)
            (HERE / name / "model.safetensors").chmod(0o644)  # as git has it
            logits = model.double()(torch.from_numpy(arrays["ids"]).long()).logits
        arrays[name] = logits.numpy().astype(np.float32)
    np.savez_compressed(HERE / "llama_outputs.npz", **arrays)


if __name__ == "__main__":
    main()
