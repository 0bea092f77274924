"""Is a Hugging Face folder of which a word, a tensor's name, type or shape is another refused, or read as it is?"""

import contextlib
import functools
import json
import pathlib
import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import safetensors.numpy

from lora_jax import LoRAError
from lora_jax.files import as_safetensors, parse
from tests.files.faults import content, lay
from tests.files.test_model_folders import of
from tests.fuzz.judge import fuzzed, judged
from tests.fuzz.strategies import JUNK, NAMES, at, broken_bytes, places, replaced, text_of, without

CONFIG, TENSORS, INDEX, SHARD = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-1.safetensors",
)
KINDS = st.sampled_from(["bert", "llama", "roberta", "distilbert"])
# What a BERT or Llama has whatever its tensors are: a number for another number is another model, and not told.
FREE = {
    "layer_norm_eps", "rms_norm_eps", "rope_theta", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range",
    "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "classifier_dropout", "hidden_act", "tie_word_embeddings",
    "pad_token_id", "n_heads", "activation", "dropout", "attention_dropout", "seq_classif_dropout",
}  # fmt: skip


@functools.cache
def written(kind, sharded=False):
    folders, config, params = of(kind)
    with tempfile.TemporaryDirectory() as folder:
        folders.write(pathlib.Path(folder), config, params)
        files = content(pathlib.Path(folder))
    if sharded:
        files[SHARD] = files.pop(TENSORS)
        names = safetensors.numpy.load(files[SHARD])
        files[INDEX] = json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, SHARD)}).encode()
    return files


def read(kind, files):
    with tempfile.TemporaryDirectory() as folder:
        found = of_kind(kind)[0].read(lay(pathlib.Path(folder) / "model", files))
        return found.config, found.params


@functools.cache
def of_kind(kind):
    return of(kind)


@functools.cache
def as_written(kind):
    return read(kind, written(kind))


def ask(kind, new, of, *, sharded=False):
    judged(f"model folders ({kind})", lambda: read(kind, {**written(kind, sharded), **new}), as_written(kind), of=of)


def is_another_model(old, new):
    """Whether a config may be that of another model of the same tensors."""
    return isinstance(new, dict) and any(new.get(name) != old.get(name) for name in FREE if name in old)


@fuzzed(0.04, data=st.data(), kind=KINDS)
def test_words_of_the_config(data, kind):
    said = parse(written(kind)[CONFIG], CONFIG)
    path = data.draw(st.sampled_from(places(said)))
    new = data.draw(JUNK)
    hypothesis.assume(new != at(said, path))
    changed = data.draw(
        st.sampled_from([without(said, path), *[replaced(said, path, new)] * 3, {**said, data.draw(NAMES): new}])
    )
    is_number = isinstance(new, (int, float)) and not isinstance(new, bool)
    hypothesis.assume(
        path[0] not in FREE or not (path[0] not in changed or new is None or is_number or isinstance(new, bool))
    )
    ask(kind, {CONFIG: text_of(changed)}, changed)


@fuzzed(0.02, data=st.data(), kind=KINDS)
def test_bytes_of_the_config(data, kind):
    old = written(kind)[CONFIG]
    new = data.draw(broken_bytes(old))
    with contextlib.suppress(LoRAError):
        hypothesis.assume(not is_another_model(parse(old, ""), parse(new, "")))
    ask(kind, {CONFIG: new}, new)


@fuzzed(0.02, data=st.data(), kind=KINDS)
def test_bytes_of_the_tensors_header(data, kind):
    size = int.from_bytes(written(kind)[TENSORS][:8], "little")
    header, rest = written(kind)[TENSORS][8 : 8 + size], written(kind)[TENSORS][8 + size :]
    new = data.draw(broken_bytes(header))
    hypothesis.assume(not are_exchanged(header, new))
    said = data.draw(st.sampled_from([len(new), len(new), size, 0, 2**63, 10**6]))
    ask(kind, {TENSORS: said.to_bytes(8, "little") + new + rest}, new)


def are_exchanged(old, new):
    """Whether tensors of one shape have each other's places: nothing in the file tells."""
    try:
        old, new = parse(old.strip(), "old"), parse(new.strip(), "new")
    except LoRAError:
        return False
    return (
        isinstance(new, dict)
        and new != old
        and {k: v.get("data_offsets") for k, v in old.items()}
        != {k: v.get("data_offsets") if isinstance(v, dict) else None for k, v in new.items()}
    )


@fuzzed(0.02, data=st.data(), kind=KINDS)
def test_the_index(data, kind):
    said = parse(written(kind, True)[INDEX], INDEX)
    path = data.draw(st.sampled_from(places(said)))
    new = data.draw(JUNK)
    changed = data.draw(
        st.sampled_from([without(said, path), replaced(said, path, new), {**said, data.draw(NAMES): new}, new])
    )
    content = data.draw(st.just(text_of(changed)) | broken_bytes(text_of(said)))
    ask(kind, {INDEX: content}, content, sharded=True)


@fuzzed(0.02, data=st.data(), kind=KINDS)
def test_tensors_of_other_names_types_and_shapes(data, kind):
    tensors = safetensors.numpy.load(written(kind)[TENSORS])
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor, way = tensors.pop(name), data.draw(st.sampled_from(["name", "dtype", "shape", "missing", "more", "odd"]))
    other = data.draw(NAMES.filter(lambda new: new.isprintable() and new))
    if way == "name":
        tensors[other] = tensor
    elif way == "dtype":
        tensors[name] = tensor.astype(
            data.draw(st.sampled_from([np.int8, np.uint8, bool, np.int64, np.float64, np.uint32]))
        )
    elif way == "shape":
        tensors[name] = data.draw(st.sampled_from([tensor.T, tensor[:0], tensor[None], tensor.reshape(-1), tensor[:1]]))
        hypothesis.assume(tensors[name].shape != tensor.shape)
    elif way == "more":
        tensors |= {name: tensor, other: data.draw(st.sampled_from([tensor, np.ones(1, np.float32)]))}
    elif way == "odd":
        tensors[name] = np.full_like(tensor, data.draw(st.sampled_from([np.nan, np.inf, -np.inf])))
    ask(kind, {TENSORS: as_safetensors(tensors)}, (way, name, other))
