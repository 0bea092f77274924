"""The flags that experiments have in common, group by group, and what their presets make of those that are not given."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.common.flags import (
    MOST_SEED,
    define_enum,
    define_integer,
    define_list,
    define_model,
    define_number,
    define_path,
    define_paths,
    define_text,
)

PRESETS = ("smoke", "quick", "full")
MOST_EPOCHS = 10_000
MOST_WAIT_S = 7 * 24 * 3600
TEXT_FLAGS = ("corpus", "field", "questions", "medical")
BERT_FLAGS = ("bert", "regimes", "epochs", "train_limit", "dropout")
SAMPLING_FLAGS = ("temperature", "top_k", "top_p")
FINETUNING_FLAGS = (
    "regime", "rank", "learning_rate", "seed", "batch_size", "max_tokens", "train_file", "validation_file", "text_field",
    "label_field", "model",
)  # fmt: skip


def by_preset(presets: Mapping[str, Any], field: str, *, none: str = "all") -> str:
    """What each preset says of a field of its settings.

    >>> import types
    >>> few, many = types.SimpleNamespace(ranks=(1, 4)), types.SimpleNamespace(ranks=(1, 2, 8))
    >>> by_preset({"smoke": few, "quick": many, "full": many}, "ranks")
    'by default 1,4 (smoke), 1,2,8 (quick, full)'
    """
    names: dict[str, list[str]] = {}
    for name, settings in presets.items():
        names.setdefault(_shown(getattr(settings, field), none), []).append(name)
    if len(names) == 1:
        return f"by default {next(iter(names))}"
    return "by default " + ", ".join(f"{value} ({', '.join(of)})" for value, of in names.items())


def by_task(flag: str, tasks: Mapping[str, Mapping[str, Any]], field: str, *, none: str = "all") -> str:
    """`by_preset` of each value that another flag may have."""
    return "; ".join(f"with {flag}={name} {by_preset(presets, field, none=none)}" for name, presets in tasks.items())


def _shown(value: Any, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, (tuple, list)):
        return ",".join(_shown(item, none) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def define_common(seeds: str) -> None:
    """--accelerator, --preset, --seeds, --workdir, --profile, and what says where processes and devices are.

    Args:
      seeds: what is said of the default of --seeds.
    """
    define_enum(
        "preset", "how much to run: smoke (seconds, to see it work), quick (minutes), full (the reference)", PRESETS, default="quick"
    )  # fmt: skip
    define_integer("seeds", f"number of seeds; {seeds}")
    define_path("workdir", "folder for records, figures and saved state", default="runs")
    define_accelerator()
    define_text("mesh", "devices along members, data and model, e.g. members:4,data:2; by default all along members")
    define_text(
        "coordinator", "host:port of process 0, where several processes run together; by default one process runs alone"
    )
    define_integer("num_processes", "how many processes run together; by default 1, or what a scheduler says")
    define_integer("process_id", "which of them this is, from 0; by default what a scheduler says", least=0)
    define_integer("join_timeout", "seconds to wait for the others", default=300, most=MOST_WAIT_S)
    flags.DEFINE_bool(
        "profile", False, "trace one block of each phase into the run's folder, for TensorBoard and Perfetto"
    )


def define_accelerator() -> None:
    """--accelerator."""
    define_enum(
        "accelerator", "where to compute; one that is absent is an error", ["auto", "cpu", "gpu", "tpu"], default="auto"
    )


def define_data(name: str = "mnist", *, is_mnist: bool = True) -> None:
    """--data_dir, --download."""
    or_file = "; of MNIST also a file mnist.npz" if is_mnist else ""
    define_path(
        "data_dir", f"folder of TensorFlow Datasets that holds {name}, prepared; by default $TFDS_DATA_DIR{or_file}"
    )
    flags.DEFINE_bool(
        "download", False, f"prepare {name} in --data_dir first; needs the internet and the extra `prepare`"
    )


def define_bert(*, regimes: str, epochs: str, train_limit: str, dropout: str) -> None:
    """--bert, --regimes, --epochs, --train_limit, --dropout; each argument says what the default is."""
    define_model(
        "bert", "BERT to start from: a Hugging Face folder, or a hub name such as prajjwal1/bert-tiny; by default ours"
    )
    define_list("regimes", f"some of: head only, LoRA, full, from scratch, LoRA all linear; {regimes}")
    define_integer("epochs", f"epochs of fine-tuning; {epochs}", most=MOST_EPOCHS)
    define_integer("train_limit", f"train on a fixed sample of this many sentences; {train_limit}")
    define_number(
        "dropout", f"where something trains: the whole model, or for head only the head; {dropout}", least=0.0, most=0.9
    )


def define_finetuning() -> None:
    """The flags of one model that is fine-tuned on SST-2 or on a user's sentences: FINETUNING_FLAGS."""
    define_text("regime", "what trains: LoRA (the default), head only, full, LoRA all linear")
    define_integer("rank", "LoRA's rank; by default 8")
    define_number("learning_rate", "by default one that suits the regime and the model's width")
    define_integer(
        "seed", "of the new head, the adapter and the order of the sentences; by default 0", least=0, most=MOST_SEED
    )
    define_integer("batch_size", "sentences a step; by default 32, fewer where there are few")
    # [CLS], one, [SEP]
    define_integer("max_tokens", "what is longer is cut; by default 72, which holds all of SST-2", least=3)
    define_path(
        "train_file", "sentences of yours in place of SST-2: .tsv, .csv or .jsonl with texts and labels, two classes or more; by default SST-2"
    )  # fmt: skip
    define_path("validation_file", "sentences to measure on; by default a tenth of --train_file")
    define_text("text_field", "column of the texts; by default sentence, text or the like, whichever is there")
    define_text("label_field", "column of the labels; by default label, labels or the like, whichever is there")
    define_path(
        "model",
        "for `predict`: the folder of a finished run of --job=finetune, in place of the flags that it was trained by; "
        "by default the run that these flags name",
    )


def define_texts() -> None:
    """--corpus, --field, --questions, --medical."""
    define_paths(
        "corpus", "text files to pretrain on: .txt (documents are apart by blank lines), .jsonl, also .gz; by default docstrings installed here"
    )  # fmt: skip
    define_text("field", "where a line of .jsonl has its text", default="text")
    define_path("questions", "Alpaca's .json or MedQuAD's .jsonl, also .gz; by default about docstrings")
    define_path("medical", "the same of medicine, for the study; by default ICD-10-CM's terms")


def define_sampling() -> None:
    """--temperature, --top_k, --top_p: SAMPLING_FLAGS."""
    define_number(
        "temperature", "of sampling; 0 takes the likeliest token", default=0.0, least=1e-3, most=1e3, has_zero=True
    )
    define_integer("top_k", "sample among so many tokens; 0 all", default=0, least=0)
    define_number(
        "top_p", "sample among the fewest tokens of this probability together", default=1.0, least=1e-6, most=1.0
    )
