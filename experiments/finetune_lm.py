"""Fine-tunes a pretrained language model by LoRA on instructions, compares its answers before and after, and lets you chat with it.

python experiments/finetune_lm.py                                  # SmolLM2-135M (the extra `llm`), instructions of our own; minutes, no network
python experiments/finetune_lm.py --model=Qwen/Qwen2.5-0.5B-Instruct --data=mine.jsonl --rank=16 --length=512
python experiments/finetune_lm.py --job=chat --adapter=runs/finetune_lm-1234       # or a folder of PEFT; without --adapter the base speaks
python experiments/finetune_lm.py --job=evaluate --adapter=runs/finetune_lm-1234 --data=others.jsonl
python experiments/finetune_lm.py --job=compare --preset=full      # LoRA beside full fine-tuning on S4's instructions; an hour
python experiments/finetune_lm.py --job=merge --adapter=runs/finetune_lm-1234 --out=merged       # a folder for transformers
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from absl import flags

from experiments.common.flags import (
    MOST_SEED,
    define_enum,
    define_integer,
    define_list,
    define_model,
    define_number,
    define_path,
    define_text,
)
from experiments.common.options import MOST_EPOCHS, by_preset, define_common
from experiments.finetune.options import define_sampling
from experiments.finetune.settings import DTYPES, INITS, PRESETS, RATES

FLAGS = flags.FLAGS
define_enum(
    "job",
    "fine-tune; chat with the model; evaluate it; merge the adapter into it; or compare LoRA with full fine-tuning",
    ["finetune", "chat", "evaluate", "merge", "compare"],
    default="finetune",
)
define_common("not for this entry, which trains one model: see --seed")
define_model(
    "model", "decoder to start from: a Hugging Face folder, a name on the hub, a .gguf file, or smollm2; by default the base of --adapter, or "
    "smollm2 without --adapter",
)  # fmt: skip
define_path(
    "data", "questions in Alpaca's or MedQuAD's format, or chat messages (a line is {\"messages\": [...]}): .json or .jsonl, also .gz; by default "
    "checkable instructions that the program makes",
)  # fmt: skip
define_text(
    "system",
    "system message of every conversation that has none; by default a short instruction with the program's own data, else none",
)
define_path(
    "adapter",
    "with --job=chat, evaluate or merge: a run's folder, an adapter that lora_jax saved, or a PEFT folder; by default the base runs alone",
)
define_path("out", "with --job=merge: the folder to write, which is required")
define_enum(
    "regime",
    f"which part trains: adapters, the whole model, or the head; {by_preset(PRESETS, 'regime')}",
    list(RATES),
    case_sensitive=False,
)
define_integer("rank", f"rank of the adapters; {by_preset(PRESETS, 'rank')}")
define_number(
    "alpha", "alpha of the adapters, whose scale is alpha / rank; by default twice the rank", least=1e-6, most=1e9
)
define_list("targets", f"which layers get adapters: patterns of module paths; {by_preset(PRESETS, 'targets')}")
flags.DEFINE_bool("dora", False, "use DoRA, which learns magnitude and direction separately")
flags.DEFINE_bool("rslora", False, "use rsLoRA: scale by alpha / sqrt(rank) instead of alpha / rank")
define_enum("init", f"how the two factors of an adapter are initialised; {by_preset(PRESETS, 'init')}", INITS)
define_number(
    "dropout",
    f"dropout rate on the adapters' input; {by_preset(PRESETS, 'dropout')}",
    least=1e-6,
    most=0.9,
    has_zero=True,
)
define_number(
    "lora_plus", "LoRA+: the learning rate of b as a multiple of that of a; by default 1", least=1e-3, most=1e6
)
define_enum("dtype", f"dtype of the computation; {by_preset(PRESETS, 'dtype')}", DTYPES)
define_enum(
    "param_dtype",
    "dtype of the base's parameters; by default the one they are stored in. Trained parameters are always float32",
    DTYPES,
)
define_integer("length", f"tokens in a row; longer conversations are left out; {by_preset(PRESETS, 'length')}", least=8)
define_integer("batch_size", f"rows in a batch; {by_preset(PRESETS, 'batch_size')}")
define_integer("accumulate", f"how many batches' gradients are summed in a step; {by_preset(PRESETS, 'accumulate')}")
define_integer("epochs", f"number of passes over the data; {by_preset(PRESETS, 'epochs')}", most=MOST_EPOCHS)
define_integer("steps", f"number of steps, in place of --epochs; {by_preset(PRESETS, 'steps', none='by --epochs')}")
define_number(
    "learning_rate",
    "peak learning rate; by default " + ", ".join(f"{rate:g} ({regime})" for regime, rate in RATES.items()),
)
define_integer("limit", f"use only this many conversations; {by_preset(PRESETS, 'limit')}")
define_integer(
    "held_out",
    f"conversations to hold out for evaluation, of your own data a tenth at most; {by_preset(PRESETS, 'held_out')}",
)
define_integer(
    "seed",
    f"random seed of the adapters, the order and the program's own data; {by_preset(PRESETS, 'seed')}",
    least=0,
    most=MOST_SEED,
)
define_sampling()
define_integer(
    "max_new_tokens",
    "longest answer, in tokens; with --job=chat by default 128, else " + by_preset(PRESETS, "max_new_tokens"),
)


def run() -> None:
    from experiments.finetune import command as finetune_lm
    from experiments.smollm2 import command as comparing

    (comparing if FLAGS.job == "compare" else finetune_lm).run()


if __name__ == "__main__":
    cli.run(run)
