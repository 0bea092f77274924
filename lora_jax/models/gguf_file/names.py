"""A GGUF file's tensors by the names, and in the layout, of Hugging Face."""

import re
from typing import Any

import numpy as np

from lora_jax.errors import ModelError
from lora_jax.models.gguf_file import dequantise
from lora_jax.models.gguf_file.header import Header

FACTORS = "rope_freqs.weight"  # what Llama 3's positions are scaled by; no weight
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA = {  # two norms around each half of a layer
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<module>\w+)\.(?P<leaf>weight|bias)")


def theirs(name: str, architecture: str, where: str) -> str:
    """What a tensor is called by Hugging Face.

    Raises:
      ModelError: for one that the architecture does not have.

    >>> theirs("blk.3.attn_q.weight", "llama", "file.gguf")
    'model.layers.3.self_attn.q_proj.weight'
    """
    match = NAME.fullmatch(name)
    inner = INNER | GEMMA if architecture.startswith("gemma") else INNER
    layer, module, leaf = match.group("layer", "module", "leaf") if match else (None, "", "")
    found = (OUTER if layer is None else inner).get(module)
    if found is None:
        raise ModelError(
            f"{where}: the tensor {name} is none that a plain {architecture} has, which is all that is supported."
        )
    return f"{found}.{leaf}" if layer is None else f"model.layers.{layer}.{found}.{leaf}"


def tensor(header: Header, name: str, where: str, values: dict[str, Any], dtype: Any) -> np.ndarray:
    """One tensor in Hugging Face's layout, of `dtype`.

    llama.cpp turns a Llama's positions pair by pair, not half by half: the rows of its queries and keys are back in their order
    here. It adds the one to Gemma's norms that transformers adds when it computes.
    """
    if values["model_type"] in ("llama", "mistral"):
        for module, heads in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
            if f".{module}." in name:
                return _halves(dequantise.dequantised(header, name, where, dtype), values[heads], f"{where}: {name}")
    if values["model_type"].startswith("gemma") and name.endswith("norm.weight"):
        return (dequantise.dequantised(header, name, where, np.float32) - 1).astype(dtype)
    return dequantise.dequantised(header, name, where, dtype)


def _halves(rows: np.ndarray, heads: int, what: str) -> np.ndarray:
    """Rows (head, pair, first or second) as (head, first or second, pair)."""
    if rows.shape[0] % (2 * heads):
        raise ModelError(f"{what} has {rows.shape[0]} rows, which {heads} heads of even width do not have.")
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
