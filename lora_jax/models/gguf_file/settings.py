"""A GGUF file's metadata as the config.json of its family would say it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lora_jax.errors import ModelError, shown
from lora_jax.files import fits
from lora_jax.models.gguf_file import rope


class Family(NamedTuple):
    """What one architecture of GGUF is called in transformers, and what it has for all its sizes."""

    model_type: str
    model_class: str
    fixed: dict[str, Any]
    period: int = 0  # each so many-th layer attends without a window; 0: none has one
    caps: Mapping[str, float | None] = {}  # of logits, where the file is silent, which early ones are; llama.cpp's
    largest: int = 0  # the number of layers of the one size that scales its scores by hidden_size / heads


SILU = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
GELU = {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
QWEN = {"hidden_act": "silu", "use_sliding_window": False}
FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", SILU),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", QWEN),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", {**QWEN, "attention_bias": False}),
    "gemma2": Family("gemma2", "Gemma2ForCausalLM", GELU, period=2, caps=CAPS, largest=46),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", GELU, period=6, caps=dict.fromkeys(CAPS), largest=62),
}
WHOLE = {  # config.json -> GGUF
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
READ = {*WHOLE.values(), "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base"}
READ |= {"attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base_swa", "attention.sliding_window"}
READ |= {"attn_logit_softcapping", "final_logit_softcapping", "attention.scale", "vocab_size", "tensor_data_layout"}
READ |= {"attention.causal", "attention.sliding_window_pattern", *rope.READ}
IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


class Metadata:
    """The fields of one architecture, by name, held against the type they must have."""

    def __init__(self, fields: dict[str, Any], where: str):
        self.fields, self.where = fields, where
        self.architecture: str = fields.get("general.architecture", "")
        if not isinstance(self.architecture, str) or self.architecture not in FAMILIES:
            raise ModelError(
                f"{where}: the architecture is {shown(self.architecture)}; only {', '.join(FAMILIES)} can be read from a GGUF file."
            )

    def get(self, name: str, kind: Any, default: Any = None) -> Any:
        """The field `name` of the architecture, or of the file where there is a dot too many ("tokenizer.ggml...")."""
        whole = name if name.startswith(("tokenizer.", "split.")) else f"{self.architecture}.{name}"
        value = self.fields.get(whole, default)
        sample = value[:1] if isinstance(value, list) else value  # an array of GGUF has one type
        if value is not None and not fits(sample, kind):
            said = "a number for each layer is not supported" if isinstance(value, list) else "it has another type"
            raise ModelError(f"{self.where}: {whole} is {shown(value)}; {said}, expected {kind.__name__}.")
        return value

    def needed(self, name: str, kind: Any) -> Any:
        """A field that must be there: what llama.cpp does not guess."""
        value = self.get(name, kind)
        if value is None:
            raise ModelError(f"{self.where}: {self.architecture}.{name} is missing; fetch a file that llama.cpp reads.")
        return value

    def size(self, name: str) -> int:
        """A whole number of one or more that must be there."""
        value = self.get(name, int)
        if value is None or not 0 < value < 2**31:
            raise ModelError(
                f"{self.where}: {self.architecture}.{name} is {shown(value)}; expected a number of one or more."
            )
        return value


def values(metadata: Metadata, shapes: dict[str, tuple[int, ...]], factors: np.ndarray | None) -> dict[str, Any]:
    """What config.json would say.

    Args:
      shapes: the tensors' by their names in the file.
      factors: what "rope_freqs.weight" holds, of Llama 3's scaling.

    Raises:
      ModelError: for what is missing, or is said and not supported.
    """
    family = FAMILIES[metadata.architecture]
    _require_known(metadata)
    found = {**family.fixed, "model_type": family.model_type, "architectures": [family.model_class]}
    found |= {name: metadata.size(theirs) for name, theirs in WHOLE.items()}
    heads = found["num_attention_heads"]
    found["num_key_value_heads"] = metadata.get("attention.head_count_kv", int) or heads
    found["head_dim"] = _head_dim(metadata, found["hidden_size"], heads)
    found["rms_norm_eps"] = metadata.needed("attention.layer_norm_rms_epsilon", float)
    found["rope_theta"] = metadata.get("rope.freq_base", float, 10000.0)
    found["rope_scaling"] = rope.scaling(metadata, found["rope_theta"], found["head_dim"], factors)
    if "token_embd.weight" not in shapes:
        raise ModelError(f"{metadata.where}: the tensor token_embd.weight, the table of all tokens, is not there.")
    found["vocab_size"] = shapes["token_embd.weight"][0]
    found["tie_word_embeddings"] = "output.weight" not in shapes
    if "blk.0.attn_q.bias" in shapes and "attention_bias" in found:
        found["attention_bias"] = True
    if "blk.0.ffn_up.bias" in shapes and "mlp_bias" in found:
        found["mlp_bias"] = True
    ids = {name: metadata.get(f"tokenizer.ggml.{theirs}_token_id", int) for name, theirs in IDS.items()}
    found |= _windows(metadata, family)
    if family.period:
        found |= _of_gemma(metadata, family, found)
    return {**found, **ids}


def _require_known(metadata: Metadata) -> None:
    """Raises ModelError for a field that may change what the model computes, as the number of its experts."""
    if metadata.get("attention.causal", bool, True) is False:
        raise ModelError(
            f"{metadata.where}: attention.causal is false, an encoder of sentences; decoders here are causal."
        )
    own = f"{metadata.architecture}."
    odd = [
        name
        for name, value in metadata.fields.items()
        if name.startswith(own) and name.removeprefix(own) not in READ and value
    ]
    if odd:
        said = ", ".join(f"{name} = {shown(metadata.fields[name])}" for name in odd[:3])
        raise ModelError(
            f"{metadata.where}: {said} is not what a plain {metadata.architecture} has, which is all that is supported."
        )


def _head_dim(metadata: Metadata, hidden: int, heads: int) -> int:
    said = {metadata.get(f"attention.{name}_length", int) for name in ("key", "value")} - {None}
    if len(said) > 1:
        raise ModelError(f"{metadata.where}: keys and values of different widths ({sorted(said)}) are not supported.")
    rotated = metadata.get("rope.dimension_count", int)
    width = said.pop() if said else rotated or hidden // heads
    if rotated not in (None, width):
        raise ModelError(
            f"{metadata.where}: only {rotated} of a head's {width} dimensions have positions, which is not supported."
        )
    return width


def _windows(metadata: Metadata, family: Family) -> dict[str, Any]:
    window = metadata.get("attention.sliding_window", int) or None
    if not family.period:
        return {
            "sliding_window": window,
            **({"model_type": "mistral"} if window and family.model_type == "llama" else {}),
        }
    period = metadata.get("attention.sliding_window_pattern", int, family.period)
    if window is None or period != family.period:
        raise ModelError(
            f"{metadata.where}: the windows of {family.model_type} are expected, each {family.period}th layer without one; others are not supported."
        )
    return {"sliding_window": window}


def _of_gemma(metadata: Metadata, family: Family, found: dict[str, Any]) -> dict[str, Any]:
    """What Gemma has beside; its file does not say how scores are scaled, as llama.cpp knows it from the number of layers."""
    layers, heads = found["num_hidden_layers"], found["num_attention_heads"]
    scale = metadata.get("attention.scale", float)
    plain = found["hidden_size"] // heads if layers == family.largest else found["head_dim"]
    own = {
        "query_pre_attn_scalar": plain if not scale else round(scale**-2, 3),
        **{name: metadata.get(name, float, usual) or None for name, usual in family.caps.items()},
        "layer_types": [f"{'full' if (i + 1) % family.period == 0 else 'sliding'}_attention" for i in range(layers)],
    }
    local = {"rope_local_base_freq": metadata.get("rope.freq_base_swa", float, 10000.0)}
    return {**own, **(local if family.model_type == "gemma3_text" else {})}


def require_layers(metadata: Metadata, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ModelError where block_count is not the number of layers that are there, before anything is made of its size."""
    said = metadata.size("block_count")
    there = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    if len(there) != said or there != {str(i) for i in range(said)}:
        raise ModelError(
            f"{metadata.where}: {metadata.architecture}.block_count is {said:,}, and layers of {len(there)} numbers are there."
        )
