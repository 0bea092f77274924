"""`mnist_new_digits.py`: S3, job by job."""

from absl import flags

from experiments.common import main, smoke
from experiments.common.errors import UserError
from experiments.common.recording import write_json
from experiments.data import by_flags
from experiments.new_digits import figures, images, jobs, study

FLAGS = flags.FLAGS
NAME = "mnist_new_digits"


def run() -> None:
    settings = main.settings_from_flags(study.PRESETS, new_digits=_new_digits())
    if FLAGS.job in ("pretrain", "finetune"):
        main.refuse(("images",), f"with --job={FLAGS.job}, only with inference and all")
    pixels = None if FLAGS.images is None else images.read(FLAGS.images)
    data = by_flags.load_mnist()
    folder = main.run_folder(NAME, settings, data)
    if FLAGS.job in ("pretrain", "all"):
        print(f"run: {folder.path}", flush=True)
        with folder.held():
            jobs.pretrain(folder, settings, data)
        print(f"pretrained: {folder.path / 'pretrain.json'}")
    if FLAGS.job in ("finetune", "all"):
        main.execute(NAME, settings, lambda folder: jobs.finetune(folder, settings, data), figures, data=data)
    if FLAGS.job in ("inference", "all"):
        _inference(folder, settings, data, pixels)


def _new_digits() -> tuple[int, ...] | None:
    if FLAGS.new_digits is None:
        return None
    wrong = [text for text in FLAGS.new_digits if text not in tuple("0123456789")]
    if wrong or not 0 < len(set(FLAGS.new_digits)) < 10:
        shown = wrong[0] if wrong else ",".join(FLAGS.new_digits)
        raise UserError(f"--new_digits: {shown!r} is no choice of one to nine digits 0-9; the study takes 8,9.")
    main.chosen("new_digits")  # each once
    return tuple(sorted({int(text) for text in FLAGS.new_digits}))


def _inference(folder, settings, data, pixels) -> None:
    result = jobs.inference(folder, settings, data, pixels)
    names = FLAGS.images or [f"test image {i}" for i in range(len(result["images"]))]
    said = {state: p.argmax(axis=1).tolist() for state, p in result["probabilities"].items()}
    predictions = [
        {"image": name, "on": on, "off": off} for name, on, off in zip(names, said["on"], said["off"], strict=True)
    ]
    write_json(
        folder.path / "inference.json",
        {key: result[key] for key in ("recipe", "on", "off")} | {"predictions": predictions},
    )
    if smoke.is_on():
        print(smoke.NOTE)
    for state in ("on", "off"):
        scores = ", ".join(f"{name} {100 * value:.2f} %" for name, value in result[state].items())
        print(f"adapter {state} ({result['recipe']}, seed 0): {scores}")
    for line in predictions if FLAGS.images else []:
        print(f"{line['image']}: {line['on']} with the adapter, {line['off']} without")
    print(f"figure: {figures.predictions(result, folder.path / 'predictions.png')}")
