"""Small GGUF files, written by gguf.GGUFWriter from tensors as Hugging Face has them, by the rules of llama.cpp's converter."""

import pathlib

import numpy as np

LAYERS, HIDDEN, INNER, HEADS, GROUPS, WIDTH, WORDS = 2, 64, 96, 4, 2, 32, 40
BLOCK = {
    "input_layernorm": ("attn_norm", (HIDDEN,)),
    "self_attn.q_proj": ("attn_q", (HEADS * WIDTH, HIDDEN)),
    "self_attn.k_proj": ("attn_k", (GROUPS * WIDTH, HIDDEN)),
    "self_attn.v_proj": ("attn_v", (GROUPS * WIDTH, HIDDEN)),
    "self_attn.o_proj": ("attn_output", (HIDDEN, HEADS * WIDTH)),
    "mlp.gate_proj": ("ffn_gate", (INNER, HIDDEN)),
    "mlp.up_proj": ("ffn_up", (INNER, HIDDEN)),
    "mlp.down_proj": ("ffn_down", (HIDDEN, INNER)),
}
NORMS = {
    "plain": {"post_attention_layernorm": "ffn_norm"},
    "gemma": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
OF_HEADS = ("qwen3", "gemma3")  # norms on queries and keys


def modules(architecture: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of one layer: Hugging Face's name -> (GGUF's, the shape)."""
    norms = NORMS["gemma" if architecture.startswith("gemma") else "plain"]
    found = {**BLOCK, **{ours: (theirs, (HIDDEN,)) for ours, theirs in norms.items()}}
    if architecture in OF_HEADS:
        found |= {"self_attn.q_norm": ("attn_q_norm", (WIDTH,)), "self_attn.k_norm": ("attn_k_norm", (WIDTH,))}
    return found


def random_model(architecture: str, *, tied: bool = True) -> dict[str, tuple[str, np.ndarray]]:
    """Hugging Face's name -> (GGUF's name, the numbers as Hugging Face has them)."""
    random = np.random.default_rng(0)

    def draw(shape):
        return random.normal(size=shape).astype(np.float32)

    found = {
        "model.embed_tokens.weight": ("token_embd.weight", draw((WORDS, HIDDEN))),
        "model.norm.weight": ("output_norm.weight", draw((HIDDEN,))),
    }
    if not tied:
        found["lm_head.weight"] = ("output.weight", draw((WORDS, HIDDEN)))
    for i in range(LAYERS):
        for ours, (theirs, shape) in modules(architecture).items():
            found[f"model.layers.{i}.{ours}.weight"] = (f"blk.{i}.{theirs}.weight", draw(shape))
            if architecture == "qwen2" and theirs in ("attn_q", "attn_k", "attn_v"):
                found[f"model.layers.{i}.{ours}.bias"] = (f"blk.{i}.{theirs}.bias", draw(shape[:1]))
    return found


def converted(architecture: str, name: str, tensor: np.ndarray) -> np.ndarray:
    """What llama.cpp's converter makes of a tensor."""
    if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = HEADS if ".q_proj." in name else GROUPS
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor + 1 if architecture.startswith("gemma") and name.endswith("norm.weight") else tensor


def writer(path: pathlib.Path, architecture: str = "llama", *, sizes: bool = True):
    """A GGUFWriter with the sizes; add tensors and a tokenizer, then `finish`."""
    import gguf

    made = gguf.GGUFWriter(path, architecture)
    if sizes:
        made.add_block_count(LAYERS)
        made.add_context_length(128)
        made.add_embedding_length(HIDDEN)
        made.add_feed_forward_length(INNER)
        made.add_head_count(HEADS)
        made.add_head_count_kv(GROUPS)
        made.add_key_length(WIDTH)
        made.add_value_length(WIDTH)
        made.add_rope_freq_base(5e5)
        made.add_layer_norm_rms_eps(1e-5)
    if architecture.startswith("gemma"):
        made.add_sliding_window(16)
    return made


def add_tensors(made, architecture: str, model: dict, kind: str = "F32") -> None:
    """Matrices of type `kind`, and vectors of F32."""
    import gguf

    quantised = gguf.GGMLQuantizationType[kind]
    for name, (theirs, tensor) in model.items():
        tensor = converted(architecture, name, tensor)
        if tensor.ndim == 1 or kind == "F32":
            made.add_tensor(theirs, tensor)
        else:
            made.add_tensor(theirs, gguf.quants.quantize(tensor, quantised), raw_dtype=quantised)


def finish(made) -> None:
    """Writes the file, or the files."""
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def write(path: pathlib.Path, architecture: str = "llama", *, kind: str = "F32", tied: bool = True) -> dict:
    """A whole file without a tokenizer; the tensors as Hugging Face has them."""
    model = random_model(architecture, tied=tied)
    made = writer(path, architecture)
    add_tensors(made, architecture, model, kind)
    finish(made)
    return {name: tensor for name, (_, tensor) in model.items()}
