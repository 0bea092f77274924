"""Is a PEFT folder of which a word, a tensor's name, type or shape is another refused, or read as it is?"""

import functools
import pathlib
import tempfile

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import safetensors.numpy

import lora_jax
from lora_jax import LoRA, LoRAConfig, peft
from lora_jax.files import as_safetensors, parse
from tests.cases import randomised
from tests.files.faults import content, lay
from tests.fuzz.judge import fuzzed, judged
from tests.fuzz.strategies import JUNK, NAMES, at, broken_bytes, places, replaced, text_of, without

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
X = np.ones((1, 3), np.float32)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(nn.Dense(4, name="body")(x))


@functools.cache
def written():
    """(the folder's files, the base, its layout)."""
    model, config = (
        Two(),
        LoRAConfig(rank=2, alpha=3, targets=("body", "head"), rank_pattern={"body": 1}, alpha_pattern={"body": 5.0}),
    )
    base = model.init(jax.random.key(0), X)["params"]
    params = randomised(lora_jax.adapt(jax.random.key(1), base, LoRA(model, config), X), 3)
    layout = lora_jax.layout(model, X)
    with tempfile.TemporaryDirectory() as folder:
        peft.save(folder, params, config, layout, mask=lora_jax.trainable_mask(params), base_model="base")
        return content(pathlib.Path(folder)), base, layout


def read(files):
    _, base, layout = written()
    with tempfile.TemporaryDirectory() as folder:
        found = peft.load(lay(pathlib.Path(folder) / "peft", files), base, layout)
        return layers_of(found.config), found.params, found.train, dict(found.token_rows)


def layers_of(config):
    """What a config says of each layer; which of the ranks it calls the usual one does not matter."""
    told = {
        name: (dict(config.rank_pattern).get(name, config.rank), dict(config.alpha_pattern).get(name, config.alpha))
        for name in config.targets
    }
    return told, config.scaling, config.dropout, config.dora, config.excludes


@functools.cache
def as_written():
    return read(written()[0])


def ask(name, new, of):
    judged("peft", lambda: read({**written()[0], name: new}), as_written(), of=of)


def may_mean_another_adapter(path, new):
    """Whether PEFT itself takes the value, and reads another adapter by it: a number for a number, null or nothing where there is a default."""
    is_number = isinstance(new, (int, float)) and not isinstance(new, bool)
    if path[0] in ("lora_alpha", "lora_dropout", "alpha_pattern", "rank_pattern") and is_number:
        return True
    return path[0] in ("use_rslora", "use_dora", "fan_in_fan_out") and isinstance(new, bool)


@fuzzed(0.05, data=st.data())
def test_words_of_the_config(data):
    said = parse(written()[0][CONFIG], CONFIG)
    path = data.draw(st.sampled_from(places(said)))
    new = data.draw(JUNK)
    hypothesis.assume(not may_mean_another_adapter(path, new) and (path[0] != "alpha_pattern" or new not in (None, {})))
    hypothesis.assume(new != at(said, path))
    changed = data.draw(
        st.sampled_from(
            [without(said, path), replaced(said, path, new), replaced(said, path, new), {**said, data.draw(NAMES): new}]
        )
    )
    hypothesis.assume("lora_dropout" in changed and changed.get("alpha_pattern"))  # else a default of the format
    hypothesis.assume(changed["lora_dropout"] is not None)
    ask(CONFIG, text_of(changed), changed)


@fuzzed(0.03, data=st.data())
def test_bytes_of_the_config(data):
    """Bytes that leave the JSON as it is, or make none of it, or another whose words are not PEFT's; numbers that are others are not told."""
    content = written()[0][CONFIG]
    new = data.draw(broken_bytes(content))
    hypothesis.assume(not means_another_adapter(content, new))
    ask(CONFIG, new, new)


def means_another_adapter(old, new):
    try:
        said, now = parse(old, "old"), parse(new, "new")
    except lora_jax.LoRAError:
        return False
    if not isinstance(now, dict):
        return False
    read_again = ("lora_alpha", "lora_dropout", "alpha_pattern", "rank_pattern", "use_rslora", "use_dora")
    return any(now.get(name) != said[name] for name in read_again)


def header_of(content):
    size = int.from_bytes(content[:8], "little")
    return content[8 : 8 + size], content[8 + size :]


@fuzzed(0.03, data=st.data())
def test_bytes_of_the_tensors_header(data):
    header, rest = header_of(written()[0][TENSORS])
    new = data.draw(broken_bytes(header))
    size = data.draw(st.sampled_from([len(new), len(header), 0, 2**63, 10**6]))
    hypothesis.assume(not are_exchanged(header, new))
    ask(TENSORS, size.to_bytes(8, "little") + new + rest, new)


def are_exchanged(old, new):
    """Whether tensors of one shape have each other's names or places: nothing in the file tells."""
    try:
        old, new = parse(old.strip(), "old"), parse(new.strip(), "new")
    except lora_jax.LoRAError:
        return False
    return isinstance(new, dict) and new.keys() == old.keys() and new != old


@fuzzed(0.04, data=st.data())
def test_tensors_of_other_names_types_and_shapes(data):
    tensors = safetensors.numpy.load(written()[0][TENSORS])
    name = data.draw(st.sampled_from(sorted(tensors)))
    way = data.draw(st.sampled_from(["name", "dtype", "shape", "missing", "more", "odd"]))
    tensor = tensors.pop(name)
    if way == "name":
        tensors[data.draw(NAMES.filter(lambda new: new.isprintable())) or "x"] = tensor
    elif way == "dtype":
        dtype = data.draw(st.sampled_from([np.int8, np.uint8, bool, np.int64, np.float64, np.uint32]))
        tensors[name] = tensor.astype(dtype)
    elif way == "shape":
        tensors[name] = data.draw(
            st.sampled_from(
                [tensor.T, tensor[:0], tensor[None], tensor.reshape(-1), tensor[:1], np.float32(3)[None][0:1]]
            )
        )
        hypothesis.assume(tensors[name].shape != tensor.shape)
    elif way == "more":
        other = data.draw(st.sampled_from([tensor, np.ones(1, np.float32)]))
        tensors |= {name: tensor, data.draw(NAMES.filter(lambda new: new.isprintable() and new)): other}
    elif way == "odd":
        tensors[name] = np.full_like(tensor, data.draw(st.sampled_from([np.nan, np.inf, -np.inf])))
    ask(TENSORS, as_safetensors(tensors), (way, name, sorted(tensors)))
