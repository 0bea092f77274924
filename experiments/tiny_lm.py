"""S4: trains a small causal language model from raw text, and studies whether LoRA teaches such models to follow instructions.

python experiments/tiny_lm.py --job=pretrain --corpus=books.jsonl.gz,more.txt      # without --corpus: docstrings installed here
python experiments/tiny_lm.py --job=study --preset=quick                           # LoRA against full fine-tuning
python experiments/tiny_lm.py --job=study --preset=full --parts=arms,open --bases=3 --onto=experiments/results/following   # adds to a kept summary

To fine-tune the model that pretrain writes, and to chat with it, use finetune_lm.py:
python experiments/finetune_lm.py --model=runs/tiny_lm_pretrain-1234/model --data=alpaca_data.json
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from absl import flags

from experiments.common.flags import MOST_SEED, define_choices, define_enum, define_integer, define_number, define_path
from experiments.common.options import MOST_EPOCHS, by_preset, define_common
from experiments.following import settings as following
from experiments.lm import pretraining_settings as lm_pretraining
from experiments.lm.options import define_texts

FLAGS = flags.FLAGS
define_enum(
    "job",
    "pretrain a model, or run the study; finetune_lm.py fine-tunes and chats",
    ["pretrain", "study"],
    default="pretrain",
)
define_common(f"with --job=study {by_preset(following.PRESETS, 'seeds')}")
define_texts()
define_enum(
    "size",
    f"number of parameters, roughly; {by_preset(lm_pretraining.PRESETS, 'size')}; with --job=study 1M, or 26M",
    lm_pretraining.SIZES,
    case_sensitive=False,
)
define_choices(
    "parts",
    f"with --job=study which parts to run, of {', '.join(following.PARTS)}; the first always; by default all of the preset",
    following.PARTS,
)
define_integer(
    "bases",
    f"with --job=study how many bases of the preset's to teach, the first ones; {by_preset(following.PRESETS, 'bases')}",
)
define_choices(
    "sizes",
    f"with --job=study and the part sizes which sizes beside that of the study; by default {','.join(following.PRESETS['full'].other_sizes)}",
    lm_pretraining.SIZES,
)
define_path(
    "onto",
    "with --job=study the folder of an earlier run's summary, say experiments/results/following: what it has is not taught again; by default none",
)
define_integer(
    "tokens", f"how many tokens of the corpus to pretrain on; {by_preset(lm_pretraining.PRESETS, 'tokens')}", most=2**53
)
define_integer("length", f"tokens in a row; {by_preset(lm_pretraining.PRESETS, 'length')}", least=2)
define_integer("batch_size", f"rows in a batch; {by_preset(lm_pretraining.PRESETS, 'batch_size')}")
define_integer(
    "epochs", f"number of passes over the corpus; {by_preset(lm_pretraining.PRESETS, 'epochs')}", most=MOST_EPOCHS
)
define_number("learning_rate", f"peak learning rate; {by_preset(lm_pretraining.PRESETS, 'learning_rate')}")
define_integer(
    "seed", f"random seed of the training; {by_preset(lm_pretraining.PRESETS, 'seed')}", least=0, most=MOST_SEED
)


def run() -> None:
    from experiments.following import command as study
    from experiments.lm import command as pretraining

    {"pretrain": pretraining, "study": study}[FLAGS.job].run()


if __name__ == "__main__":
    cli.run(run)
