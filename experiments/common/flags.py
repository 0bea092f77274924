"""The flags that every experiment has, and a flag type for lists of positive numbers."""

from collections.abc import Callable

from absl import flags

from experiments.common import devices, profiling

PRESETS = ("smoke", "quick", "full")
FLAGS = flags.FLAGS


class _NumberList(flags.ArgumentParser):
    """`1,2,4` -> [1, 2, 4], each positive."""

    syntactic_help = "a list of positive numbers, separated by commas"

    def __init__(self, kind: Callable[[str], float], word: str):
        self._kind, self._word = kind, word

    def parse(self, argument):
        if isinstance(argument, (list, tuple)):
            return list(argument)
        values = []
        for item in str(argument).split(","):
            try:
                value = self._kind(item)
            except ValueError:
                raise ValueError(f"{item!r} is not {self._word}; give a list such as 1,2,4") from None
            if not 0 < value < float("inf"):
                raise ValueError(f"{item!r} is not positive; give a list such as 1,2,4")
            values.append(value)
        return values

    def flag_type(self):
        return "comma-separated list"


class _ListSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(str, value))


def define_integers(name: str, default: list[int] | None, text: str) -> None:
    """A flag holding a list of integers > 0."""
    flags.DEFINE(_NumberList(int, "an integer"), name, default, text, serializer=_ListSerializer())


def define_numbers(name: str, default: list[float] | None, text: str) -> None:
    """A flag holding a list of numbers > 0."""
    flags.DEFINE(_NumberList(float, "a number"), name, default, text, serializer=_ListSerializer())


def define_common() -> None:
    """--accelerator, --preset, --seeds, --workdir, and what `devices` and `profiling` define."""
    devices.define()
    profiling.define()
    flags.DEFINE_enum(
        "accelerator", "auto", ["auto", "cpu", "gpu", "tpu"], "where to compute; one that is absent is an error"
    )
    flags.DEFINE_enum(
        "preset",
        "quick",
        PRESETS,
        "how much to run: smoke (seconds, to see it work), quick (minutes), full (the reference)",
    )
    flags.DEFINE_integer("seeds", None, "number of seeds; by default what the preset says", lower_bound=1)
    flags.DEFINE_string("workdir", "runs", "folder for records, figures and saved state")


def define_data(name: str = "mnist") -> None:
    """--data_dir, --download."""
    or_file = "" if name == "glue/sst2" else "; of MNIST also a file mnist.npz"
    flags.DEFINE_string(
        "data_dir", None, f"folder of TensorFlow Datasets that holds a prepared {name}; default $TFDS_DATA_DIR{or_file}"
    )
    flags.DEFINE_bool(
        "download", False, f"prepare {name} in --data_dir first; needs the internet and the extra `prepare`"
    )


def define_bert() -> None:
    """--bert, --regimes, --epochs, --train_limit, --dropout."""
    flags.DEFINE_string(
        "bert",
        None,
        "BERT to start from: a Hugging Face folder, or a hub name such as prajjwal1/bert-tiny; by default ours",
    )
    flags.DEFINE_list("regimes", None, "some of: head only, LoRA, full, from scratch, LoRA all linear")
    flags.DEFINE_integer("epochs", None, "epochs of fine-tuning", lower_bound=1)
    flags.DEFINE_integer("train_limit", None, "train on a fixed sample of this many sentences", lower_bound=1)
    flags.DEFINE_float(
        "dropout",
        None,
        "where something trains: the whole model, or for head only the head; by default none",
        lower_bound=0.0,
        upper_bound=0.9,
    )


def define_finetuning() -> tuple[str, ...]:
    """The flags of one model that is fine-tuned on SST-2 or on a user's sentences; returns their names."""
    before = set(FLAGS)
    flags.DEFINE_string("regime", None, "what trains: LoRA (the default), head only, full, LoRA all linear")
    flags.DEFINE_integer("rank", None, "LoRA's rank; by default 8", lower_bound=1)
    flags.DEFINE_float("learning_rate", None, "by default one that suits the regime and the model's width")
    flags.DEFINE_integer(
        "seed",
        None,
        "of the new head, the adapter and the order of the sentences; by default 0",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_integer(
        "batch_size", None, "sentences a step; by default 32, fewer where there are few", lower_bound=1
    )
    flags.DEFINE_integer(
        "max_tokens",
        None,
        "what is longer is cut; by default 72, which holds all of SST-2",
        lower_bound=3,  # [CLS], one, [SEP]
    )
    flags.DEFINE_string(
        "train_file", None, "sentences of yours in place of SST-2: .tsv, .csv or .jsonl with sentence and label"
    )
    flags.DEFINE_string("validation_file", None, "sentences to measure on; by default a tenth of --train_file")
    return tuple(sorted(set(FLAGS) - before))
