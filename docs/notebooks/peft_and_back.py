# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # PEFT to JAX and back
#
# A colleague trains adapters with PyTorch and Hugging Face PEFT. You work in JAX. This notebook takes her adapter, trains it further, and
# gives it back. It needs no PyTorch: `lora_jax` reads and writes PEFT's folders itself.
#
# To run anywhere, the notebook makes a small Llama with random weights, and writes the colleague's folder as PEFT would.
# With a real model and a real folder you leave these two cells out.

# %%
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file

import lora_jax
from lora_jax import models, training
from lora_jax.models.causal_lm import PRESETS, CausalLM
from lora_jax.models.mlp import MLP

folder = pathlib.Path(tempfile.mkdtemp())  # yours would have a name
key = jax.random.key(0)

# %% [markdown]
# ## The base
#
# `save_pretrained` writes a folder that `transformers` reads: a `config.json` and the weights.

# %%
small = CausalLM(PRESETS["0.3M"])
models.save_pretrained(folder / "llama", small, jax.jit(small.init)(key, *small.example())["params"])
print(sorted(path.name for path in (folder / "llama").iterdir()))

# %% [markdown]
# ## What the colleague does
#
# She types this, in PyTorch:
#
# ```python
# from peft import LoraConfig, get_peft_model
# from transformers import AutoModelForCausalLM
#
# base = AutoModelForCausalLM.from_pretrained("llama")
# model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
# ...  # she trains
# model.save_pretrained("from_peft")
# ```
#
# PEFT then leaves two files. `adapter_config.json` says how the adapter was made. `adapter_model.safetensors` holds two matrices for each
# layer: `lora_A` is $[r, \text{in}]$, `lora_B` is $[\text{out}, r]$, and the layer's update is $\frac{\alpha}{r} B A$.
#
# We write the same two files by NumPy, with random matrices.

# %%
RANK, ALPHA = 4, 8
weights = load_file(folder / "llama" / "model.safetensors")
rng = np.random.default_rng(0)
tensors = {}
for name, weight in weights.items():
    if name.endswith(("q_proj.weight", "v_proj.weight")):
        module = "base_model.model." + name.removesuffix(".weight")
        outputs, inputs = weight.shape
        tensors[f"{module}.lora_A.weight"] = rng.normal(size=(RANK, inputs)).astype(np.float32) / np.sqrt(inputs)
        tensors[f"{module}.lora_B.weight"] = 0.1 * rng.normal(size=(outputs, RANK)).astype(np.float32)

(folder / "from_peft").mkdir()
save_file(tensors, folder / "from_peft" / "adapter_model.safetensors")
about = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "llama",
    "r": RANK,
    "lora_alpha": ALPHA,
    "target_modules": ["q_proj", "v_proj"],
    "lora_dropout": 0.0,
    "bias": "none",
}
(folder / "from_peft" / "adapter_config.json").write_text(json.dumps(about))
for name in sorted(tensors)[:4]:
    print(name, tensors[name].shape)

# %% [markdown]
# ## PEFT to JAX
#
# `from_pretrained` reads the base, and `peft.load` lays the adapter on it. The model knows what torch calls its layers.

# %%
base, base_params, _ = models.from_pretrained(folder / "llama")
params, config = lora_jax.peft.load(folder / "from_peft", base_params, base)
model = lora_jax.LoRA(base, config)
print(config)
print(lora_jax.report(params))

# %% [markdown]
# Is it the adapter that she saved? We compute the update of one layer from her file, and compare it with what `merge` adds to the kernel.
# A kernel of Flax is the transpose of torch's weight, and the layers of this model lie stacked along the first axis.

# %%
layer, name = 1, "base_model.model.model.layers.1.self_attn.q_proj"
update = ALPHA / RANK * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


def kernel_of(params):
    """The kernel of `q_proj` in this layer, [in, out]."""
    return np.asarray(params["model"]["layers"]["self_attn"]["q_proj"]["kernel"][layer])


np.testing.assert_allclose(kernel_of(lora_jax.merge(params)) - kernel_of(base_params), update.T, atol=1e-6)
print("the update of layer 1 is (alpha / r) B A")

# %% [markdown]
# The side path and the merged model say the same.

# %%
ids = jax.random.randint(key, (8, 24), 0, base.config.vocab_size)
logits = model.apply({"params": params}, ids)
merged = base.apply({"params": lora_jax.merge(params)}, ids)
plain = base.apply({"params": base_params}, ids)
np.testing.assert_allclose(logits, merged, atol=1e-4)
assert not np.allclose(logits, plain, atol=1e-2)
print(f"the adapter moves a logit by up to {np.abs(logits - plain).max():.2f}; merging moves it by less than 0.0001")

# %% [markdown]
# ## Training it further
#
# The adapter trains like one that was made here. Our base is random, so there is nothing worth learning: we train on a few random rows,
# and see the loss fall.

# %%
mask = lora_jax.trainable_mask(params)
frozen, trainable = lora_jax.partition(params, mask)
tx = optax.adam(3e-2)


def loss_fn(params, batch, key):
    logits = model.apply({"params": params}, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean(), {}


state = training.init_state(trainable, tx, key)
epoch = training.make_epoch(loss_fn, tx)
state, (losses, _) = epoch(state, frozen, ids, jnp.tile(jnp.arange(8), (150, 1)))
trained = lora_jax.combine(frozen, state.trainable)
print(f"loss: {losses[0]:.2f} nats a token at first, {losses[-1]:.2f} in the end")

assert losses[-1] < losses[0]
assert jax.tree.all(jax.tree.map(jnp.array_equal, lora_jax.strip(trained), base_params))

# %% [markdown]
# ## Back to PEFT

# %%
lora_jax.peft.save(
    folder / "to_peft", trained, config, base, mask=mask, base_model=str(folder / "llama"), task_type="CAUSAL_LM"
)
written = load_file(folder / "to_peft" / "adapter_model.safetensors")
assert {name: tensor.shape for name, tensor in written.items()} == {name: t.shape for name, t in tensors.items()}

said = json.loads((folder / "to_peft" / "adapter_config.json").read_text())
for field in ("peft_type", "r", "lora_alpha", "target_modules", "task_type"):
    print(field, "=", said[field])

# %% [markdown]
# The names and shapes are those of her file. She types this:
#
# ```python
# from peft import PeftModel
#
# base = AutoModelForCausalLM.from_pretrained("llama")
# model = PeftModel.from_pretrained(base, "to_peft")
# ```
#
# Nothing is lost on the way. Read again, the folder gives the same tree, bit for bit; and her own folder, read and written untrained,
# gives her own matrices.

# %%
again, _ = lora_jax.peft.load(folder / "to_peft", base_params, base)
assert jax.tree.all(jax.tree.map(jnp.array_equal, again, trained))

lora_jax.peft.save(folder / "untrained", params, config, base, mask=None)
untrained = load_file(folder / "untrained" / "adapter_model.safetensors")
assert untrained.keys() == tensors.keys()
assert all(np.array_equal(untrained[name], tensors[name]) for name in tensors)
print("both round trips are exact")

# %% [markdown]
# ## Folders for servers
#
# Some servers read one rank and one alpha for all layers. `fold_scaling` writes such a folder: alpha equals the rank, and the scales
# are in `lora_B`. `dtype` writes smaller files.

# %%
lora_jax.peft.save(
    folder / "for_server", trained, config, base, mask=mask, fold_scaling=True, dtype="bfloat16", task_type="CAUSAL_LM"
)
said = json.loads((folder / "for_server" / "adapter_config.json").read_text())
assert said["r"] == said["lora_alpha"] == RANK
for name in ("to_peft", "for_server"):
    print(name, (folder / name / "adapter_model.safetensors").stat().st_size, "bytes")

# %% [markdown]
# ## What does not fit is refused
#
# An adapter of another model is not loaded in part. The error lists what is missing, what is too much and what has another shape.

# %%
strange = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
save_file(strange, folder / "from_peft" / "adapter_model.safetensors")
try:
    lora_jax.peft.load(folder / "from_peft", base_params, base)
except lora_jax.LoRAError as error:
    print(str(error).replace(str(folder), "..."))
else:
    raise AssertionError("a strange adapter was loaded")

# %% [markdown]
# ## A model of your own
#
# `peft.load` and `peft.save` take the layout of any Flax model in place of a model of `lora_jax.models`. Where torch has other names,
# `names_of` gives them. Here torch calls the layer `net.0`, and Flax calls it `hidden_0`.

# %%
mlp = MLP(hidden=(16,), classes=3)
x = jnp.ones((2, 8))
mlp_config = lora_jax.LoRAConfig(rank=2, alpha=4, targets=("hidden_0",))
adapted = lora_jax.adapt(key, mlp.init(key, x)["params"], lora_jax.LoRA(mlp, mlp_config), x)
layout = lora_jax.layout(mlp, x)
torch_names = {"hidden_0": "net.0", "classifier": "net.2"}

lora_jax.peft.save(folder / "mlp", adapted, mlp_config, layout, names_of=torch_names.get, mask=None)
print(*load_file(folder / "mlp" / "adapter_model.safetensors"), sep="\n")

back, _ = lora_jax.peft.load(folder / "mlp", lora_jax.strip(adapted), layout, names_of=torch_names.get)
assert jax.tree.all(jax.tree.map(jnp.array_equal, back, adapted))
