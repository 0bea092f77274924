"""What a decoder is: its sizes, and what its family does otherwise than Llama."""

import dataclasses
import typing
from typing import NamedTuple

from lora_jax.errors import ModelError
from lora_jax.models.activations import ACTIVATIONS
from lora_jax.models.checks import require_positive, require_size
from lora_jax.models.rope import RopeScaling

SLIDING, FULL = "sliding_attention", "full_attention"  # the kinds of layers, as config.json calls them


class Family(NamedTuple):
    """What the code of a family does whatever its config.json says."""

    architecture: str  # transformers' class
    is_gemma: bool = False  # norms scale by 1 + weight, embeddings are multiplied by sqrt(D)
    has_norms_after: bool = False  # a norm after attention and after the MLP, too
    has_head_norms: bool = False  # RMSNorm of each head's query and key
    biased: tuple[str, ...] = ()  # projections that always have a bias


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family("Qwen3ForCausalLM", has_head_norms=True),
    "gemma": Family("GemmaForCausalLM", is_gemma=True),
    "gemma2": Family("Gemma2ForCausalLM", is_gemma=True, has_norms_after=True),
    "gemma3_text": Family("Gemma3ForCausalLM", is_gemma=True, has_norms_after=True, has_head_norms=True),
}


@typing.no_type_check  # it validates itself, and says more than a type checker
@dataclasses.dataclass(frozen=True)
class CausalLMConfig:
    """Sizes and choices, named as in Hugging Face's config.json; the defaults are study S4's 25.8 M parameters.

    | `model_type` | of | its own |
    |---|---|---|
    | llama | Llama 2, 3, 3.x, SmolLM2 | `attention_bias` (q, k, v, o), `mlp_bias`; `rope_scaling` linear, llama3 or yarn, as all |
    | mistral | Mistral | `sliding_window` |
    | qwen2 | Qwen2, Qwen2.5 | biases on q, k, v; `layer_types` |
    | qwen3 | Qwen3 | norms of each head's q and k; `attention_bias`; `layer_types` |
    | gemma | Gemma | norms times 1 + weight; embeddings times sqrt(D); GeGLU |
    | gemma2 | Gemma 2 | and norms around; soft caps; every other layer has the `sliding_window`; `query_pre_attn_scalar` |
    | gemma3_text | Gemma 3, text | and norms of q and k, no soft caps; five of six layers have the window, with `rope_local_base_freq` |

    A head's width is `head_dim` in all; any may tie the output layer to the embedding.

    Raises:
      ModelError: for sizes or choices that cannot be.
    """

    vocab_size: int = 6400
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    model_type: str = "llama"
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None
    rope_local_base_freq: float | None = None  # of sliding layers; None: rope_theta. These are never scaled.
    sliding_window: int | None = None  # a token sees so many, itself among them
    layer_types: tuple[str, ...] | None = None  # None: all sliding where there is a window, else all full
    query_pre_attn_scalar: float | None = None  # scores are divided by its root; None: the head's width
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    def __post_init__(self):
        if self.model_type not in FAMILIES:
            raise ModelError(
                f"CausalLMConfig: model_type is {self.model_type!r}; there is code for {', '.join(FAMILIES)}."
            )
        self._require_sizes()
        self._require_numbers()
        _require_known("hidden_act", self.hidden_act, ACTIVATIONS)
        self._require_layer_types()

    def _require_sizes(self) -> None:
        optional = {"head_dim", "sliding_window"}
        names = [field.name for field in dataclasses.fields(self) if field.type is int or field.name in optional]
        for name in names:
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            require_size("CausalLMConfig", name, value)
        pairs = [("num_key_value_heads", "num_attention_heads")]
        pairs += [("num_attention_heads", "hidden_size")] if self.head_dim is None else []
        for name, of in reversed(pairs):
            if getattr(self, of) % getattr(self, name):
                raise ModelError(
                    f"CausalLMConfig: {of} {getattr(self, of)} is no multiple of {name} {getattr(self, name)}."
                )
        if self.head_size % 2:
            raise ModelError(f"CausalLMConfig: a head is {self.head_size} wide; rotary positions need an even width.")

    def _require_numbers(self) -> None:
        optional = (
            "rope_local_base_freq",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        )
        for name in ("rms_norm_eps", "rope_theta", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            require_positive("CausalLMConfig", name, value)

    def _require_layer_types(self) -> None:
        types = self.layer_types
        if types is None:
            return
        if len(types) != self.num_hidden_layers or set(types) - {SLIDING, FULL}:
            raise ModelError(
                f"CausalLMConfig: layer_types are {list(types)}; one of {SLIDING!r} and {FULL!r} for each of {self.num_hidden_layers} layers "
                "is expected."
            )
        if SLIDING in types and self.sliding_window is None:
            raise ModelError(f"CausalLMConfig: layer_types has {SLIDING!r}, and sliding_window is None.")

    @property
    def family(self) -> Family:
        """What its code does whatever the config says."""
        return FAMILIES[self.model_type]

    @property
    def head_size(self) -> int:
        """K, the width of a head."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def is_sliding(self) -> tuple[bool, ...]:
        """Of each layer, whether it sees a window only.

        >>> CausalLMConfig(num_hidden_layers=2, sliding_window=4).is_sliding
        (True, True)
        """
        if self.layer_types is None:
            return (self.sliding_window is not None,) * self.num_hidden_layers
        return tuple(kind == SLIDING for kind in self.layer_types)

    def has_bias(self, projection: str) -> bool:
        """Whether a projection ("q_proj", "up_proj" ...) adds a bias.

        >>> CausalLMConfig(model_type="qwen2").has_bias("q_proj"), CausalLMConfig(model_type="qwen2").has_bias("o_proj")
        (True, False)
        """
        is_mlp = projection in ("gate_proj", "up_proj", "down_proj")
        return projection in self.family.biased or (self.mlp_bias if is_mlp else self.attention_bias)


def _require_known(name: str, value, known) -> None:
    if not isinstance(value, str) or value not in known:
        raise ModelError(f"CausalLMConfig: {name} is {value!r}; there is code for {', '.join(known)}.")


PRESETS = {
    "0.3M": CausalLMConfig(1600, 64, 176, 2, 2, 1, 256),
    "1M": CausalLMConfig(3200, 128, 352, 4, 4, 2, 256),
    "3M": CausalLMConfig(6400, 192, 512, 6, 6, 2, 256),
    "10M": CausalLMConfig(6400, 320, 864, 8, 8, 2, 512),
    "26M": CausalLMConfig(),
}
