"""Do we and real PEFT, side by side in one process, load each other's adapters and compute the same?

Skipped where torch, transformers or peft is missing.
"""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from lora_jax import LoRA, LoRAConfig, adapt, scaled, trainable_mask
from lora_jax import peft as our_peft
from tests.bert_golden import assert_close
from tests.cases import randomised
from tests.peft_golden import GOLDEN, model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
WIDER = {"bert": "value", "llama": "down_proj", "net": "conv"}  # a rank of its own under rslora
CASES = {
    "bert": {"targets": ("query", "value")},
    "llama": {"targets": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    "net": {"targets": ("embed", "conv", "head")},
}
KINDS = {
    "plain": {},
    "rslora": {"scaling": "alpha/sqrt(r)"},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "folded": {"alpha": 5},
}
TASKS = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM", "net": None}


def torch_base(base: str):
    sys.path.insert(0, str(GOLDEN))
    try:
        import make_peft
    finally:
        sys.path.remove(str(GOLDEN))
    net = make_peft.Net()
    if base == "net":
        from safetensors.torch import load_file

        net.load_state_dict(load_file(GOLDEN / "peft_net.safetensors"))
    return make_peft.base_model(base, net)


def torch_logits(base: str, adapted) -> np.ndarray:
    args = [torch.from_numpy(np.asarray(arg)).long() for arg in model(base).args]
    names = {"bert": ("input_ids", "attention_mask", "token_type_ids"), "llama": ("input_ids",), "net": ("ids",)}[base]
    with torch.no_grad():
        found = adapted.double().eval()(**dict(zip(names, args, strict=True)))
    return (found if torch.is_tensor(found) else found.logits).numpy()


def assert_equal_logits(got, expected) -> None:
    assert_close(got, expected, 1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", CASES)
def test_peft_loads_what_we_write(base, kind, tmp_path):
    m = model(base)
    config = LoRAConfig(**{"rank": 2, "alpha": 3, **CASES[base], **KINDS[kind]})
    if kind == "rslora":
        config = dataclasses.replace(config, rank_pattern={WIDER[base]: 4})
    params = randomised(adapt(jax.random.key(0), m.params, LoRA(m.module, config), *m.args), seed=3)
    params = scaled(params, 0.2)  # logits of a size that float32 has five digits for
    train = ("classifier",) if base == "bert" else ()
    if base == "bert":
        params = {**params, "classifier": jax.tree.map(lambda leaf: leaf + 0.3, params["classifier"])}
    mask = trainable_mask(params, train=train)
    fold = kind == "folded"
    our_peft.save(
        tmp_path, params, config, m.layout, names_of=m.names_of, mask=mask, task_type=TASKS[base], fold_scaling=fold
    )
    theirs = peft.PeftModel.from_pretrained(torch_base(base), str(tmp_path))
    ours = LoRA(m.module, config).apply({"params": params}, *m.args)
    assert_equal_logits(ours, torch_logits(base, theirs))
    assert np.abs(ours - m.module.apply({"params": m.params}, *m.args)).max() > 1e-2


@pytest.mark.parametrize("kind", ["plain", "rslora", "dora"])
@pytest.mark.parametrize("base", CASES)
def test_we_load_what_peft_writes(base, kind, tmp_path):
    torch.manual_seed(1)
    sys_config = peft.LoraConfig(
        r=3,
        lora_alpha=4,
        target_modules=list(CASES[base]["targets"]),
        task_type=TASKS[base],
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(torch_base(base), sys_config)
    theirs.save_pretrained(tmp_path)
    m = model(base)
    found = our_peft.load(tmp_path, m.params, m.layout, names_of=m.names_of)
    ours = LoRA(m.module, found.config).apply({"params": found.params}, *m.args)
    assert_equal_logits(ours, torch_logits(base, theirs))


@pytest.mark.parametrize(("ours", "theirs"), [("pissa", "pissa"), ("olora", "olora")])
def test_a_start_is_peft_s(ours, theirs):
    """The same low-rank part of the same kernels: the product of the factors, which signs of singular vectors cannot change."""
    m = model("net")
    config = LoRAConfig(rank=2, alpha=3, targets="head", init=ours)
    params = adapt(jax.random.key(0), m.params, LoRA(m.module, config), *m.args)["head"]
    adapted = peft.get_peft_model(
        torch_base("net"), peft.LoraConfig(r=2, lora_alpha=3, target_modules=["head"], init_lora_weights=theirs)
    )
    layer = adapted.base_model.model.head
    expected = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().numpy().T
    assert_close(params["lora_a"] @ params["lora_b"], expected, 1e-6)
