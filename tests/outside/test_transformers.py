"""Hugging Face's Flax models, which transformers had until 4.57: GPT-2, BERT, T5, Whisper."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from tests.outside import bars
from tests.outside.bars import BATCH, LENGTH, Bars, Model

with bars.imports():
    import transformers
    from transformers.models.bert.modeling_flax_bert import FlaxBertForMaskedLM
    from transformers.models.gpt2.modeling_flax_gpt2 import FlaxGPT2LMHeadModel
    from transformers.models.t5 import modeling_flax_t5
    from transformers.models.whisper.modeling_flax_whisper import FlaxWhisperForConditionalGeneration

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers.*"),
]
IDS, POSITIONS = bars.ids(19), bars.positions()
ALL = jnp.ones_like(IDS)  # nothing is masked


def gpt2() -> Model:
    config = transformers.GPT2Config(vocab_size=19, n_positions=24, n_embd=16, n_layer=2, n_head=4)
    model = FlaxGPT2LMHeadModel(config, input_shape=(1, LENGTH))
    return bars.linen(model.module, model.params, IDS, ALL, POSITIONS)


def bert() -> Model:
    config = transformers.BertConfig(
        vocab_size=19,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=12,
        type_vocab_size=6,
    )
    model = FlaxBertForMaskedLM(config, input_shape=(1, LENGTH))
    return bars.linen(model.module, model.params, IDS, ALL, IDS % 6, POSITIONS, None)


def t5(**fields) -> Model:
    # `jnp.clip(x, a_max=...)` in it is no longer JAX's.
    clip = lambda x, a_max: jnp.clip(x, None, a_max)  # noqa: E731
    modeling_flax_t5.jnp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})
    config = transformers.T5Config(
        vocab_size=19,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        **fields,
    )
    model = modeling_flax_t5.FlaxT5ForConditionalGeneration(config, input_shape=(1, LENGTH))
    return bars.linen(model.module, model.params, IDS, ALL, IDS[::-1], ALL)


def t5_gated() -> Model:
    return t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)


def whisper() -> Model:
    config = transformers.WhisperConfig(
        vocab_size=29,
        num_mel_bins=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        d_model=16,
        max_source_positions=10,
        max_target_positions=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = FlaxWhisperForConditionalGeneration(config, input_shape=(1, 8, 20))
    sound = jax.random.normal(jax.random.key(0), (BATCH, 8, 20))
    table = "model/encoder/embed_positions"
    return bars.linen(
        model.module,
        model.params,
        sound,
        IDS,
        ALL,
        POSITIONS,
        config=dataclasses.replace(bars.CONFIG, excludes=table),
        uncovered={f"{table}/embedding": "the encoder's position table, whose gradient the model stops"},
    )


class TestTransformers(Bars):
    MODELS = {"GPT-2": gpt2, "BERT": bert, "T5": t5, "T5, gated": t5_gated, "Whisper": whisper}
