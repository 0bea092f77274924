"""What torch calls the modules of BERT, RoBERTa and DistilBERT. Here all have the paths of BERT, so that one pattern names a layer in each."""

import re

from lora_jax.models import torch_names
from lora_jax.models.bert_config import FAMILIES

# A part of a path here -> of a name there; each is whole modules, and those before come first.
_ROBERTA = {
    "cls/predictions/transform/dense": "lm_head/dense",
    "cls/predictions/transform/LayerNorm": "lm_head/layer_norm",
    "cls/predictions": "lm_head",
}
_DISTILBERT = {
    "encoder/layer": "transformer/layer",
    "attention/self/query": "attention/q_lin",
    "attention/self/key": "attention/k_lin",
    "attention/self/value": "attention/v_lin",
    "attention/output/dense": "attention/out_lin",
    "attention/output/LayerNorm": "sa_layer_norm",
    "intermediate/dense": "ffn/lin1",
    "output/dense": "ffn/lin2",
    "output/LayerNorm": "output_layer_norm",
    "classifier/dense": "pre_classifier",
    "classifier/out_proj": "classifier",
    "cls/predictions/transform/dense": "vocab_transform",
    "cls/predictions/transform/LayerNorm": "vocab_layer_norm",
    "cls/predictions": "vocab_projector",
}
PARTS = {"bert": {}, "roberta": _ROBERTA, "distilbert": _DISTILBERT}  # by the name of the encoder


def module(model_type: str, path: str) -> str:
    """torch's name of a module of a model with a head.

    >>> module("distilbert", "bert/encoder/layer/0/attention/self/query"), module("roberta", "cls/predictions/transform/dense")
    ('distilbert.transformer.layer.0.attention.q_lin', 'lm_head.dense')
    """
    prefix = FAMILIES[model_type].prefix
    for ours, theirs in {"^bert": prefix, **PARTS[prefix]}.items():
        path = re.sub(f"(?<![^/]){ours}(?![^/])", theirs, path)
    return path.replace("/", ".")


def module_alone(model_type: str, path: str) -> str:
    """torch's name of a module of the encoder alone.

    >>> module_alone("distilbert", "encoder/layer/0/output/dense")
    'transformer.layer.0.ffn.lin2'
    """
    return module(model_type, f"bert/{path}").removeprefix(f"{FAMILIES[model_type].prefix}.")


def tensor(model_type: str, path: str) -> str:
    """torch's name of a parameter of a model with a head.

    >>> tensor("roberta", "bert/embeddings/LayerNorm/scale"), tensor("distilbert", "cls/predictions/bias")
    ('roberta.embeddings.LayerNorm.weight', 'vocab_projector.bias')
    """
    of_module, _, word = path.rpartition("/")
    return f"{module(model_type, of_module)}.{torch_names.WORDS.get(word, word)}"


def decoder(model_type: str) -> str:
    """torch's name of the output layer of a masked LM, which is the embedding matrix and a bias.

    >>> decoder("bert"), decoder("distilbert")
    ('cls.predictions.decoder', 'vocab_projector')
    """
    prefix = FAMILIES[model_type].prefix
    return {"bert": "cls.predictions.decoder", "roberta": "lm_head.decoder", "distilbert": "vocab_projector"}[prefix]
