"""S2, part II: BERT on SST-2, by its head alone, by LoRA rank by rank, and in full.

python experiments/bert_sst2.py --preset=full --bert=prajjwal1/bert-tiny   # Google's BERT-tiny; needs a network once
python experiments/bert_sst2.py                                            # the base and the data that lie at hand
"""

from absl import flags

from experiments.common import cli, main
from experiments.common.flags import define_bert, define_common, define_data, define_integers
from experiments.figures import sst2 as figures
from experiments.studies import sst2

define_common()
define_data("glue/sst2")
define_bert()
define_integers("ranks", None, "LoRA's ranks, e.g. 1,2,4,8")
FLAGS = flags.FLAGS
NAME = "bert_sst2"


def run() -> None:
    settings = main.settings_from_flags(sst2.PRESETS, ranks=main.chosen("ranks"), **main.bert_settings())
    inputs = main.load_sst2()
    main.execute(NAME, settings, lambda folder: sst2.run(folder, settings, inputs), figures, data=inputs)


if __name__ == "__main__":
    cli.run(run)
