"""The golden adapter folders that real PEFT wrote (golden/make_peft.py), and the same models here."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import lora_jax
from lora_jax.models import bert_folder, causal_folder
from lora_jax.models.bert import BertForSequenceClassification
from lora_jax.models.causal_lm import CausalLM
from lora_jax.peft import dotted

GOLDEN = pathlib.Path(__file__).parent / "golden"
FOLDERS = sorted(path.parent.name for path in GOLDEN.glob("peft_*/adapter_config.json"))


class Net(nn.Module):
    """What make_peft.py's Net is: ids [B, H, W] -> embedding -> a convolution -> a head."""

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(11, 6, name="embed")(ids)
        x = nn.tanh(nn.Conv(7, (3, 2), strides=(1, 2), padding="VALID", name="conv")(x))
        return nn.Dense(5, name="head")(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    module: nn.Module
    params: dict
    args: tuple
    names_of: Any = dotted

    @functools.cached_property
    def layout(self):
        return lora_jax.layout(self.module, *self.args)


@functools.cache
def outputs() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "peft_outputs.npz") as arrays, np.load(GOLDEN / "bert_outputs.npz") as bert:
        return {
            **{name: bert[name] for name in ("ids", "mask", "types")},
            **{name: arrays[name] for name in arrays.files},
        }


@functools.cache
def model(kind: str) -> Model:
    arrays = {name: jnp.asarray(array) for name, array in outputs().items()}
    if kind == "bert":
        folder = bert_folder.read(GOLDEN / "bert_odd")
        return Model(
            BertForSequenceClassification(folder.config, 5),
            folder.params,
            (arrays["ids"], arrays["mask"], arrays["types"]),
        )
    if kind == "llama":
        folder = causal_folder.read(GOLDEN / "llama_untied")
        return Model(
            CausalLM(folder.config), folder.params, (arrays["llama_ids"],), CausalLM(folder.config).torch_module
        )
    t = load_file(GOLDEN / "peft_net.safetensors")
    params = {
        "embed": {"embedding": t["embed.weight"]},
        "conv": {"kernel": t["conv.weight"].transpose(2, 3, 1, 0), "bias": t["conv.bias"]},
        "head": {"kernel": t["head.weight"].T, "bias": t["head.bias"]},
    }
    import jax

    return Model(Net(), jax.tree.map(jnp.asarray, params), (arrays["net_ids"],))


def model_of(folder: str) -> Model:
    return model(folder.split("_")[1])


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter_model.safetensors")


def config(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())
