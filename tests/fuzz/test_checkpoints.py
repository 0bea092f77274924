"""Is a checkpoint of which a byte, a file or a word is another refused, or read as it was written?"""

import functools
import pathlib
import tempfile

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, checkpoint
from lora_jax.files import parse
from tests.cases import randomised
from tests.files.faults import content, lay
from tests.fuzz.judge import fuzzed, judged
from tests.fuzz.strategies import JUNK, broken_bytes, places, replaced, text_of, without

# tensorstore's threads may end a read after its loop was closed: a line of Python's own, which names no error
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
LAYER, X = nn.Dense(2), np.ones((1, 3), np.float32)
CONFIG = LoRAConfig(rank=2, alpha=3, targets="*", dropout=0.5)
STATE = {"a": np.arange(4, dtype=np.float32), "key": jax.random.key(3), "count": jnp.int32(7)}


@functools.cache
def written():
    """(files of an adapter's checkpoint, files of a state's, the base, the adapted tree)."""
    base = LAYER.init(jax.random.key(0), X)["params"]
    params = randomised(lora_jax.adapt(jax.random.key(1), base, LoRA(LAYER, CONFIG), X), 3)
    with tempfile.TemporaryDirectory() as folder:
        adapter, state = pathlib.Path(folder) / "adapter", pathlib.Path(folder) / "state"
        checkpoint.save_adapter(adapter, params, CONFIG, mask=None, step=4, run="run")
        checkpoint.save_state(state, STATE, base, CONFIG, step=4, run="run")
        return content(adapter), content(state), base, params


def read_adapter(files):
    _, _, base, params = written()
    with tempfile.TemporaryDirectory() as folder:
        place = lay(pathlib.Path(folder) / "saved", files)
        loaded = checkpoint.load(place, base, LAYER, run="run")
        restored = checkpoint.restore_adapter(place, params, run="run")
        return loaded.config, loaded.params, loaded.train, loaded.collections, restored, checkpoint.read_config(place)


def read_state(files):
    with tempfile.TemporaryDirectory() as folder:
        state = checkpoint.restore_state(
            lay(pathlib.Path(folder) / "saved", files), STATE, written()[2], CONFIG, run="run"
        )
        return {**state, "key": jax.random.key_data(state["key"])}


@functools.cache
def as_written(kind):
    return read_adapter(written()[0]) if kind == "adapter" else read_state(written()[1])


def ask(kind, files, of):
    read = read_adapter if kind == "adapter" else read_state
    judged(f"checkpoints ({kind})", lambda: read(files), as_written(kind), of=of)


KINDS = st.sampled_from(["adapter", "adapter", "state"])


@fuzzed(0.08, data=st.data(), kind=KINDS)
def test_bytes_of_a_file(data, kind):
    files = written()[0 if kind == "adapter" else 1]
    name = data.draw(st.sampled_from([name for name, found in files.items() if found is not None]))
    new = data.draw(broken_bytes(files[name]))
    ask(kind, {**files, name: new}, (name, new))


@fuzzed(0.02, data=st.data(), kind=KINDS)
def test_files_that_are_missing_exchanged_or_another_s(data, kind):
    files = dict(written()[0 if kind == "adapter" else 1])
    one, other = (
        data.draw(st.sampled_from([name for name, found in files.items() if found is not None])) for _ in "12"
    )
    way = data.draw(st.sampled_from(["missing", "exchanged", "of another", "empty"]))
    if way == "missing":
        del files[one]
    elif way == "exchanged":
        files[one], files[other] = files[other], files[one]
    elif way == "empty":
        files = {name: found for name, found in files.items() if not name.startswith(one.rpartition("/")[0])}
    else:
        files |= {name: found for name, found in written()[1 if kind == "adapter" else 0].items() if name == one}
    ask(kind, files, (way, one, other))


@fuzzed(0.05, data=st.data(), kind=KINDS)
def test_what_it_says_of_itself(data, kind):
    files = written()[0 if kind == "adapter" else 1]
    name = next(name for name in files if name.endswith("about/metadata"))
    said = parse(files[name], name)
    path = data.draw(st.sampled_from(places(said)))
    new = data.draw(st.just(without(said, path)) | st.builds(functools.partial(replaced, said, path), JUNK))
    ask(kind, {**files, name: text_of(new)}, (path, new))
