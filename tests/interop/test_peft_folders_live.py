"""Does real PEFT compute what we do from the folders that we write: tied tables, heads, biases, rows, parameters, half precision, odd names?

Skipped where torch, transformers or peft is missing. `-s` prints how far apart the logits are.
"""

import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, adapt, trainable_mask
from lora_jax import peft as our_peft
from tests.cases import randomised
from tests.peft_golden import GOLDEN
from tests.peft_more_golden import FOLDERS, ROLES, model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quick_compile")]  # theirs
INPUTS = {"bert": ("input_ids", "attention_mask", "token_type_ids")}
INPUTS |= dict.fromkeys(("moe", "flagged", "unflagged", "deep"), ("x",))
TARGETS = {"moe": ("head", "gate_up_proj", "down_proj", "gate"), "bert": ("query", "value")}
ROLES_OF = dict(ROLES.roles)


def golden_source():
    sys.path.insert(0, str(GOLDEN))
    try:
        import make_peft_more
    finally:
        sys.path.remove(str(GOLDEN))
    return make_peft_more


def torch_base(kind: str):
    return golden_source().base_of(kind)


def torch_logits(kind: str, adapted, args) -> np.ndarray:
    names = INPUTS.get(kind, ("input_ids",))
    given = [torch.from_numpy(np.asarray(arg)) for arg in args]
    given = [arg.double() if arg.is_floating_point() else arg.long() for arg in given]
    with torch.no_grad():
        found = adapted.double().eval()(**dict(zip(names, given, strict=True)))
    return (found if torch.is_tensor(found) else found.logits).numpy()


def adapted(kind: str, targets=None, **fields):
    """(model, config, params) with random factors that change the logits by about their own size."""
    m = model(kind)
    targets = targets or TARGETS.get(kind, ("q_proj", "o_proj"))
    roles = ROLES_OF if kind == "moe" else {}
    config = LoRAConfig(rank=2, alpha=3, targets=targets, roles=roles, **fields)
    params = randomised(adapt(jax.random.key(0), m.params, LoRA(m.module, config), *m.args), seed=3)
    return m, config, lora_jax.scaled(params, 0.05)


def moved(params, pattern: str):
    """The leaves that the pattern matches, by a tenth of their size and more."""
    random = np.random.default_rng(1)
    leaves = lora_jax.tree.flat(params)
    move = {
        path: leaf + 0.05 * random.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in leaves.items()
        if re.search(pattern, path)
    }
    return lora_jax.tree.nested({**leaves, **move})


def assert_real_peft_agrees(kind, folder, m, config, params, tolerance=1e-6):
    theirs = torch_logits(kind, peft.PeftModel.from_pretrained(torch_base(kind), str(folder)), m.args)
    ours = np.asarray(LoRA(m.module, config).apply({"params": params}, *m.args))
    base = np.asarray(m.module.apply({"params": m.params}, *m.args))
    print(f"{kind}: {np.abs(ours - theirs).max():.2g} apart, {np.abs(ours - base).max():.2g} from the base")
    assert np.abs(ours - theirs).max() <= tolerance
    assert np.abs(ours - base).max() > 1e-2


def test_c1_a_tied_table_that_trains_whole(tmp_path):
    m, config, params = adapted("tied")
    params = moved(params, "embed_tokens")
    our_peft.save(
        tmp_path, params, config, m.layout, names_of=m.names_of, mask=trainable_mask(params, train="embed_tokens")
    )
    assert_real_peft_agrees("tied", tmp_path, m, config, params)


def test_c4_an_adapter_of_a_tied_table(tmp_path):
    m, config, params = adapted("tied", ("q_proj", "embed_tokens"))
    our_peft.save(tmp_path, params, config, m.layout, names_of=m.names_of, mask=None)
    assert_real_peft_agrees("tied", tmp_path, m, config, params)


class Tied(nn.Module):
    def setup(self):
        self.embed_tokens, self.q_proj = nn.Embed(9, 8), nn.Dense(8)

    def __call__(self, ids):
        return self.embed_tokens.attend(jnp.tanh(self.q_proj(self.embed_tokens(ids))))


class TorchTied(torch.nn.Module):
    """One that does not say to PEFT what is tied in it."""

    def __init__(self):
        super().__init__()
        self.embed_tokens, self.q_proj = torch.nn.Embedding(9, 8), torch.nn.Linear(8, 8)
        self.lm_head = torch.nn.Linear(8, 9, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids):
        return self.lm_head(torch.tanh(self.q_proj(self.embed_tokens(ids))))


@pytest.mark.parametrize("kind", ["whole", "adapter", "rows"])
def test_c1_a_model_that_does_not_say_that_it_is_tied(kind, tmp_path):
    base, ids = Tied(), jnp.arange(6).reshape(2, 3)
    config = LoRAConfig(rank=2, alpha=3, targets=("q_proj", "embed_tokens") if kind == "adapter" else "q_proj")
    start = base.init(jax.random.key(0), ids)["params"]
    params = randomised(adapt(jax.random.key(1), start, LoRA(base, config), ids), seed=3)
    mask, more = None, {}
    if kind != "adapter":
        table = params["embed_tokens"]["embedding"].at[jnp.asarray([1, 4])].add(0.5)
        params = {**params, "embed_tokens": {"embedding": table}}
        mask = trainable_mask(params, train="embed_tokens")
        more = {"token_rows": "embed_tokens", "base_params": start} if kind == "rows" else {}
    our_peft.save(tmp_path, params, config, lora_jax.layout(base, ids), mask=mask, **more)
    twin = TorchTied()
    weights = {
        "embed_tokens.weight": start["embed_tokens"]["embedding"],
        "lm_head.weight": start["embed_tokens"]["embedding"],
    }
    weights |= {"q_proj.weight": start["q_proj"]["kernel"].T, "q_proj.bias": start["q_proj"]["bias"]}
    twin.load_state_dict({name: torch.tensor(np.array(weight)) for name, weight in weights.items()})
    with torch.no_grad():
        theirs = (
            peft.PeftModel.from_pretrained(twin, str(tmp_path))
            .double()
            .eval()(torch.from_numpy(np.array(ids)).long())
            .numpy()
        )
    ours = np.asarray(LoRA(base, config).apply({"params": params}, ids))
    print(f"{kind}: {np.abs(ours - theirs).max():.2g} apart of {np.abs(ours).max():.2g}")
    assert np.abs(ours - theirs).max() <= 1e-6 * max(1.0, np.abs(ours).max())


@pytest.mark.parametrize("train", [None, "classifier"])
def test_c5_a_task_s_head(train, tmp_path):
    m, config, params = adapted("bert")
    params = params if train is None else moved(params, train)
    mask = None if train is None else trainable_mask(params, train=train)
    our_peft.save(tmp_path, params, config, m.layout, mask=mask, task_type="SEQ_CLS")
    assert_real_peft_agrees("bert", tmp_path, m, config, params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_c6_half_precision(dtype, tmp_path):
    m, config, params = adapted("moe", ("head",))
    our_peft.save(tmp_path, params, config, m.layout, names_of=m.names_of, mask=None, dtype=dtype)
    found = our_peft.load(tmp_path, m.params, m.layout, names_of=m.names_of)
    assert_real_peft_agrees("moe", tmp_path, m, found.config, found.params)


def test_c6_biases_of_lora_b(tmp_path):
    m, config, params = adapted("bert")
    params = moved(params, "(query|value)/bias")
    our_peft.save(tmp_path, params, config, m.layout, mask=None, lora_bias=True, base_params=m.params)
    assert_real_peft_agrees("bert", tmp_path, m, config, params)


@pytest.mark.parametrize(("kind", "rows"), [("tied", "embed_tokens"), ("untied", ("embed_tokens", "lm_head"))])
def test_c6_rows(kind, rows, tmp_path):
    m, config, params = adapted(kind)
    leaves = lora_jax.tree.flat(params)
    leaves["model/embed_tokens/embedding"] = leaves["model/embed_tokens/embedding"].at[jnp.asarray([2, 5, 7])].add(0.1)
    if kind == "untied":
        leaves["lm_head/kernel"] = leaves["lm_head/kernel"].at[:, 4].add(0.1)
    params = lora_jax.tree.nested(leaves)
    our_peft.save(
        tmp_path, params, config, m.layout, names_of=m.names_of, mask=None, token_rows=rows, base_params=m.params
    )
    assert_real_peft_agrees(kind, tmp_path, m, config, params)


@pytest.mark.parametrize("kind", ["moe", "flagged", "unflagged"])
def test_c6_parameters(kind, tmp_path):
    m, config, params = adapted("moe", rank_pattern={"gate_up_proj": 4})
    parameters = our_peft.Parameters(
        inputs_first={"gate_up_proj": True, "down_proj": True} if kind == "unflagged" else None
    )
    our_peft.save(tmp_path, params, config, m.layout, names_of=m.names_of, mask=None, parameters=parameters)
    assert_real_peft_agrees(kind, tmp_path, m, config, params)


NAMES = ("q+", "q_x", "qyx", "he(ad", "a|b")


class Odd(nn.Module):
    @nn.compact
    def __call__(self, x):
        return sum(nn.Dense(6, name=name, use_bias=False)(x) for name in NAMES)


class TorchOdd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in NAMES:
            self.add_module(name, torch.nn.Linear(6, 6, bias=False))

    def forward(self, x):
        return sum(module(x) for module in self.children())


def test_c6_names_with_signs_of_regular_expressions(tmp_path):
    x = jax.random.normal(jax.random.key(2), (2, 6))
    ranks = {f"re:{re.escape(name)}": rank for rank, name in enumerate(NAMES, 1)}
    config = LoRAConfig(rank=1, alpha=3, targets="all-linear", rank_pattern=ranks)
    start = Odd().init(jax.random.key(0), x)["params"]
    params = lora_jax.scaled(randomised(adapt(jax.random.key(1), start, LoRA(Odd(), config), x), seed=3), 0.05)
    our_peft.save(tmp_path, params, config, lora_jax.layout(Odd(), x), mask=None)
    twin = TorchOdd()
    twin.load_state_dict({f"{name}.weight": torch.tensor(np.array(start[name]["kernel"].T)) for name in NAMES})
    with torch.no_grad():
        theirs = (
            peft.PeftModel.from_pretrained(twin, str(tmp_path))
            .double()
            .eval()(torch.from_numpy(np.array(x)).double())
            .numpy()
        )
    ours = np.asarray(LoRA(Odd(), config).apply({"params": params}, x))
    print(f"{np.abs(ours - theirs).max():.2g} apart of {np.abs(ours).max():.2g}")
    assert np.abs(ours - theirs).max() <= 1e-6 * max(1.0, np.abs(ours).max())


@pytest.mark.parametrize("name", FOLDERS)
def test_c_we_read_what_the_installed_peft_writes(name, tmp_path):
    torch.manual_seed(0)
    kind, options = golden_source().ADAPTERS[name]
    adapted = peft.get_peft_model(torch_base(kind), peft.LoraConfig(**{"r": 2, "lora_alpha": 3, **options}))
    theirs = golden_source().randomised(adapted)
    theirs.save_pretrained(tmp_path)
    m = model(kind)
    found = our_peft.load(tmp_path, m.params, m.layout, names_of=m.names_of)
    ours = np.asarray(LoRA(m.module, found.config).apply({"params": found.params}, *m.args))
    expected, columns = torch_logits(kind, theirs, m.args), slice(37) if name == "grown_adapted" else slice(None)
    apart = np.abs(ours - expected)[..., columns].max()
    print(f"{name}: {apart:.2g} apart of {np.abs(expected).max():.2g}")
    assert apart <= 1e-6
