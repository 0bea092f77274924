"""S2, part II: trains BERT on SST-2 by its head alone, by LoRA at several ranks, and in full. Also fine-tunes any BERT on your own sentences.

python experiments/bert_sst2.py --preset=full --bert=prajjwal1/bert-tiny   # Google's BERT-tiny; needs a network once
python experiments/bert_sst2.py                                            # our BERT-tiny, and the data that this machine has
python experiments/bert_sst2.py --job=finetune --bert=bert-base-uncased --train_file=mine.tsv
python experiments/bert_sst2.py --job=predict --model=runs/bert_sst2_finetune-1234 --sentences=lines.txt
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a clone runs where it lies

from experiments.common import cli  # first, as it takes over Ctrl-C

# isort: split

from experiments.common.flags import define_enum, define_integers, define_path
from experiments.common.options import by_preset, by_task, define_common, define_data
from experiments.sst2 import classifier_settings as sst2_classifier
from experiments.sst2 import settings as sst2
from experiments.sst2.options import define_bert, define_finetuning

JOBS = {"study": sst2.PRESETS, "finetune": sst2_classifier.PRESETS}
define_enum(
    "job",
    "run the study; fine-tune one model; or let a fine-tuned model predict the labels of --sentences",
    ["study", "finetune", "predict"],
    default="study",
)
define_common(f"with --job=study {by_preset(sst2.PRESETS, 'seeds')}")
define_data("glue/sst2", is_mnist=False)
define_bert(
    regimes=f"with --job=study {by_preset(sst2.PRESETS, 'regimes')}",
    **{field: by_task("--job", JOBS, field) for field in ("epochs", "train_limit", "dropout")},
)
define_integers("ranks", f"with --job=study: LoRA's ranks, e.g. 1,2,4,8; {by_preset(sst2.PRESETS, 'ranks')}")
define_finetuning()
define_path(
    "sentences", "with --job=predict: text file to classify, one sentence a line; by default a few built-in sentences"
)


def run() -> None:
    from experiments.sst2 import command as bert_sst2

    bert_sst2.run()


if __name__ == "__main__":
    cli.run(run)
