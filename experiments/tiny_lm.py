"""S4: a small causal language model from raw text, fine-tuned fully and by LoRA, and talked to.

python experiments/tiny_lm.py --job=pretrain --corpus=books.jsonl.gz,more.txt      # without --corpus: docstrings installed here
python experiments/tiny_lm.py --job=finetune --model=runs/tiny_lm_pretrain-1234/model --questions=alpaca_data.json --rank=8
python experiments/tiny_lm.py --job=chat --model=... --questions=... --rank=8      # the flags of finetune
python experiments/tiny_lm.py --job=study --preset=quick                           # LoRA against full, with verdicts
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import (
    MOST_SEED,
    define_enum,
    define_integer,
    define_list,
    define_number,
    define_path,
)
from experiments.common.options import MOST_EPOCHS, by_preset, by_task, define_common, define_texts
from experiments.settings import lm_jobs, lm_pretraining, lm_study

JOBS = {"pretrain": lm_pretraining.PRESETS, "finetune": lm_jobs.PRESETS}
define_enum("job", "what to do", ["pretrain", "finetune", "study", "chat"], default="pretrain")
define_common(f"with --job=study {by_preset(lm_study.PRESETS, 'seeds')}")
define_texts()
define_enum(
    "size", f"of the model; {by_preset(lm_pretraining.PRESETS, 'size')}", lm_pretraining.SIZES, case_sensitive=False
)
define_integer(
    "tokens", f"how much of the corpus is pretrained on; {by_preset(lm_pretraining.PRESETS, 'tokens')}", most=2**53
)
define_integer("length", f"tokens in a row; {by_task('--job', JOBS, 'length')}", least=2)
define_integer("batch_size", f"rows in a batch; {by_task('--job', JOBS, 'batch_size')}")
define_integer(
    "epochs", f"how often what is learned from is seen; {by_task('--job', JOBS, 'epochs')}", most=MOST_EPOCHS
)
define_number(
    "learning_rate",
    f"with --job=pretrain {by_preset(lm_pretraining.PRESETS, 'learning_rate')}; with --job=finetune by default "
    + ", ".join(f"{rate:g} ({regime})" for regime, rate in lm_jobs.RATES.items()),
)
define_path("model", "folder that --job=pretrain left; must be given to finetune and chat")
define_enum(
    "regime", f"what is trained; {by_preset(lm_jobs.PRESETS, 'regime')}", list(lm_jobs.RATES), case_sensitive=False
)
define_integer("rank", f"of the adapters; {by_preset(lm_jobs.PRESETS, 'rank')}")
define_number("scale", f"alpha / r; {by_preset(lm_jobs.PRESETS, 'scale')}", least=1e-6, most=1e6)
define_list("targets", f"patterns of the module paths to adapt; {by_preset(lm_jobs.PRESETS, 'targets')}")
define_integer("limit", f"train on this many questions only; {by_preset(lm_jobs.PRESETS, 'limit')}")
define_integer("seed", f"of the training; {by_task('--job', JOBS, 'seed')}", least=0, most=MOST_SEED)
define_number(
    "temperature", "of sampling; 0 takes the likeliest token", default=0.0, least=1e-3, most=1e3, has_zero=True
)
define_integer("top_k", "sample among so many tokens; 0 all", default=0, least=0)
define_number("top_p", "sample among the fewest tokens of this probability together", default=1.0, least=1e-6, most=1.0)
define_integer("max_new_tokens", "of an answer", default=64)


def run() -> None:
    from experiments.commands import tiny_lm

    tiny_lm.run()


if __name__ == "__main__":
    cli.run(run)
