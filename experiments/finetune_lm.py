"""A pretrained language model: its answers, fine-tuned by LoRA on instructions, its answers after; and a talk with it.

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
define_enum("job", "what to do", ["finetune", "chat", "evaluate", "merge", "compare"], default="finetune")
define_common("it has no meaning here, where one model is trained: see --seed")
define_model(
    "model", "a decoder: a Hugging Face folder, a name on the hub, a .gguf file, or smollm2; by default the one that --adapter was made on, else "
    "smollm2",
)  # fmt: skip
define_path(
    "data", "Alpaca's or MedQuAD's questions, or chat messages ({\"messages\": [...]} a line): .json or .jsonl, also .gz; by default "
    "checkable instructions made here",
)  # fmt: skip
define_text(
    "system",
    "what every conversation begins with that says nothing itself; by default, with our own data, a short instruction",
)
define_path(
    "adapter",
    "for chat, evaluate, merge: a run's folder, an adapter that lora_jax saved, or a folder of PEFT; by default the base alone",
)
define_path("out", "for merge: the folder to write; must be given")
define_enum("regime", f"what is trained; {by_preset(PRESETS, 'regime')}", list(RATES), case_sensitive=False)
define_integer("rank", f"of the adapters; {by_preset(PRESETS, 'rank')}")
define_number("alpha", "of the adapters; by default twice the rank", least=1e-6, most=1e9)
define_list("targets", f"patterns of the module paths to adapt; {by_preset(PRESETS, 'targets')}")
flags.DEFINE_bool("dora", False, "magnitude and direction")
flags.DEFINE_bool("rslora", False, "scale by alpha / sqrt(r), not alpha / r")
define_enum("init", f"how both factors begin; {by_preset(PRESETS, 'init')}", INITS)
define_number(
    "dropout", f"on the adapters' input; {by_preset(PRESETS, 'dropout')}", least=1e-6, most=0.9, has_zero=True
)
define_number("lora_plus", "LoRA+: how many times as fast b learns as a; by default 1", least=1e-3, most=1e6)
define_enum("dtype", f"what is computed in; {by_preset(PRESETS, 'dtype')}", DTYPES)
define_enum("param_dtype", "of the base's parameters; by default as they are stored. What trains is float32", DTYPES)
define_integer("length", f"tokens in a row; what is longer is left out; {by_preset(PRESETS, 'length')}", least=8)
define_integer("batch_size", f"rows in a batch; {by_preset(PRESETS, 'batch_size')}")
define_integer("accumulate", f"batches whose gradients make a step; {by_preset(PRESETS, 'accumulate')}")
define_integer("epochs", f"how often the data is seen; {by_preset(PRESETS, 'epochs')}", most=MOST_EPOCHS)
define_integer("steps", f"when to stop, in place of --epochs; {by_preset(PRESETS, 'steps', none='by --epochs')}")
define_number("learning_rate", "by default " + ", ".join(f"{rate:g} ({regime})" for regime, rate in RATES.items()))
define_integer("limit", f"take this many conversations only; {by_preset(PRESETS, 'limit')}")
define_integer(
    "held_out", f"conversations to measure on, a tenth of a user's at most; {by_preset(PRESETS, 'held_out')}"
)
define_integer(
    "seed", f"of the adapters, the order and our own data; {by_preset(PRESETS, 'seed')}", least=0, most=MOST_SEED
)
define_sampling()
define_integer(
    "max_new_tokens", "of an answer; in a talk by default 128, when measured " + by_preset(PRESETS, "max_new_tokens")
)


def run() -> None:
    from experiments.finetune import command as finetune_lm
    from experiments.smollm2 import command as comparing

    (comparing if FLAGS.job == "compare" else finetune_lm).run()


if __name__ == "__main__":
    cli.run(run)
