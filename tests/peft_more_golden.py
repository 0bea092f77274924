"""The golden adapter folders that golden/make_peft_more.py wrote by real PEFT, and the same models here."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import lora_jax
from lora_jax import LoRA, LoRAConfig, peft
from lora_jax.models import causal_folder
from lora_jax.models.causal_lm import CausalLM
from tests import peft_golden
from tests.peft_golden import GOLDEN, Model

MORE = GOLDEN / "peft_more"
FOLDERS = sorted(path.parent.name for path in MORE.glob("*/adapter_config.json"))
GROWN = 40  # rows of the larger vocabulary
PARAMETERS = {
    "experts/gate_up_proj": "experts.gate_up_proj[{}]",
    "experts/down_proj": "experts.down_proj[{}]",
    "gate/w": "gate.w[]",
}
ROLES = LoRAConfig(rank=1, roles={"gate_up_proj": "sio", "down_proj": "sio"})


class Experts(nn.Module):
    """[E, D, F] and [E, F, D], in the order of the products."""

    @nn.compact
    def __call__(self, x, weights):
        up = self.param("gate_up_proj", nn.initializers.normal(), (3, 6, 8))
        down = self.param("down_proj", nn.initializers.normal(), (3, 8, 6))
        return jnp.einsum("bef,efd,be->bd", jnp.tanh(jnp.einsum("bd,edf->bef", x, up)), down, weights)


class Gate(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.softmax(x @ self.param("w", nn.initializers.normal(), (6, 3)))


class Moe(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5, name="head")(Experts(name="experts")(x, Gate(name="gate")(x)))


CHILDREN = (("model",), ("layers",), ("0", "1", "2"), ("experts",), ("0", "1"), ())


class Deep(nn.Module):
    """model.layers.{0,1,2}.experts.{0,1}.up_proj: layers one after the other, each the sum of its experts and of what came in."""

    depth: int = 0

    @nn.compact
    def __call__(self, x):
        if not CHILDREN[self.depth]:
            return nn.Dense(4, use_bias=False, name="up_proj")(x)
        children = [Deep(self.depth + 1, name=name) for name in CHILDREN[self.depth]]
        if self.depth == 4:
            return sum(child(x) for child in children)
        for child in children:
            x = child(x) + (x if self.depth == 2 else 0)
        return x


@functools.cache
def outputs() -> dict[str, np.ndarray]:
    with np.load(MORE / "outputs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def nested(leaves):
    return jax.tree.map(jnp.asarray, lora_jax.tree.nested(leaves))


@functools.cache
def model(kind: str) -> Model:
    arrays = outputs()
    if kind == "bert":
        return peft_golden.model("bert")
    if kind in ("tied", "untied", "grown"):
        return llama(kind, arrays)
    if kind == "deep":
        kernels = {
            name.replace(".", "/").replace("weight", "kernel"): t.T
            for name, t in load_file(MORE / "deep.safetensors").items()
        }
        return Model(Deep(), nested(kernels), (jnp.asarray(arrays["narrow"]),))
    t = load_file(MORE / "moe.safetensors")
    leaves = {
        "experts/gate_up_proj": t["experts.gate_up_proj"].transpose(0, 2, 1),
        "experts/down_proj": t["experts.down_proj"].transpose(0, 2, 1),
        "gate/w": t["gate.w"].T,
        "head/kernel": t["head.weight"].T,
        "head/bias": t["head.bias"],
    }
    return Told(
        Moe(), nested(leaves), (jnp.asarray(arrays["features"]),), lambda path: PARAMETERS.get(path, peft.dotted(path))
    )


class Told(Model):
    """Each expert with factors of its own."""

    @functools.cached_property
    def layout(self):
        return lora_jax.layout(LoRA(self.module, ROLES), *self.args)


def llama(kind: str, arrays) -> Model:
    folder = causal_folder.read(MORE / ("llama_tied" if kind == "tied" else "llama_untied"))
    leaves, config, ids = lora_jax.tree.flat(folder.params), folder.config, arrays["ids"]
    if kind == "grown":
        config, ids = dataclasses.replace(config, vocab_size=GROWN), arrays["grown_ids"]
        more = GROWN - leaves["model/embed_tokens/embedding"].shape[0]
        leaves["model/embed_tokens/embedding"] = np.pad(leaves["model/embed_tokens/embedding"], ((0, more), (0, 0)))
        leaves["lm_head/kernel"] = np.pad(leaves["lm_head/kernel"], ((0, 0), (0, more)))
    return Model(CausalLM(config), nested(leaves), (jnp.asarray(ids),), CausalLM(config).torch_module)


def model_of(name: str) -> Model:
    return model(name.split("_")[0])


def loaded(name: str, folder=None) -> peft.Loaded:
    m = model_of(name)
    return peft.load(folder or MORE / name, m.params, m.layout, names_of=m.names_of)


def logits(name: str, found: peft.Loaded):
    m = model_of(name)
    return LoRA(m.module, found.config).apply({"params": found.params}, *m.args)
