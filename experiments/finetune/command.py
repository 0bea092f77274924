"""`finetune_lm.py`, job by job."""

import dataclasses

from absl import flags
from etils import epath

from experiments.common import devices, main, processes
from experiments.common.errors import UserError
from experiments.data import conversations
from experiments.data.conversations import Conversations
from experiments.data.instructions import checkable
from experiments.finetune import base as finetune_base
from experiments.finetune import chat, figures, saved
from experiments.finetune import jobs as finetune_jobs
from experiments.finetune.base import Base, Voice
from experiments.finetune.jobs import Material
from experiments.finetune.options import SAMPLING_FLAGS
from experiments.finetune.saved import RUN, Run
from experiments.finetune.settings import PRESETS, Settings
from lora_jax.models import save_pretrained
from lora_jax.models.generation import Sampling

FLAGS = flags.FLAGS
OF_ADAPTERS = ("rank", "alpha", "targets", "dora", "rslora", "init", "dropout", "lora_plus")
OF_TRAINING = ("regime", *OF_ADAPTERS, "accumulate", "epochs", "steps", "learning_rate", "held_out")
OF_DATA = ("data", "length", "batch_size", "limit", "seed")
OF_BASE = ("dtype", "param_dtype")
OF_SETTINGS = (*OF_TRAINING, "length", "batch_size", "limit", "seed", *OF_BASE, "system", "max_new_tokens")
NEW_TOKENS = 128  # of an answer in a talk


def run() -> None:
    main.refuse(("seeds",), "here: this entry trains one model, and --seed gives its seed")
    jobs = {"finetune": _finetune, "chat": _chat, "evaluate": _evaluate, "merge": _merge}
    jobs[FLAGS.job]()


def _finetune() -> None:
    main.refuse(("adapter", "out", *SAMPLING_FLAGS), "with --job=finetune")
    settings = _settings()
    if settings.regime != "lora":
        main.refuse(OF_ADAPTERS, f"with --regime={settings.regime}, which has no adapter")
    if FLAGS.steps is not None:
        main.refuse(("epochs",), "with --steps, which says when training ends")
    data = _data(settings)
    devices.settle()
    material = Material(_base(FLAGS.model), data)
    main.execute(
        RUN, settings, lambda folder: finetune_jobs.finetune(folder, settings, material), figures, data=material
    )
    path = main.run_folder(RUN, settings, material).path
    for name in (saved.PEFT, saved.MODEL):
        if (path / name).is_dir():
            print(f"{name}: {path / name}")
    print(f"talk: python experiments/finetune_lm.py --job=chat --adapter={path}")


def _chat() -> None:
    main.refuse((*OF_TRAINING, *OF_DATA, "out", "profile"), "with --job=chat")
    sampling = Sampling(FLAGS.temperature, FLAGS.top_k, FLAGS.top_p)
    base, voices, run = _of_adapter()
    most = FLAGS.max_new_tokens or min(NEW_TOKENS, base.positions // 2)
    if most >= base.positions:
        raise UserError(f"--max_new_tokens: {most:,} is not below {base.positions:,}, the positions of {base.name}.")
    system = FLAGS.system if FLAGS.system is not None or run is None else run.summary["settings"]["system"]
    if system is not None:
        print(f"system: {system}", flush=True)
    chat.talk(base, voices, system=system, max_new_tokens=most, sampling=sampling)


def _evaluate() -> None:
    main.refuse((*OF_TRAINING, *SAMPLING_FLAGS, "out", "profile"), "with --job=evaluate")
    base, voices, run = _of_adapter()
    settings = _settings() if run is None else _as_run(run)
    data = _data(settings)
    measured = _measured(data, settings, run)
    asked = {name: voices[name] for name in ("base", "adapter") if name in voices}
    result = finetune_jobs.evaluate(base, settings, measured, asked)
    print(figures.evaluated(result))


def _merge() -> None:
    main.refuse((*OF_TRAINING, *OF_DATA, *SAMPLING_FLAGS, "system", "max_new_tokens", "profile"), "with --job=merge")
    for name in ("adapter", "out"):
        if not FLAGS[name].value:
            raise UserError(f"--job=merge needs --{name}; give it.")
    out = epath.Path(FLAGS.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={FLAGS.out} exists and is not empty; name a folder that is new or empty.")
    base, voices, _ = _of_adapter()
    params = saved.merged(voices["adapter"])
    if processes.is_first():
        save_pretrained(out, base.model, params, base.tokenizer)
    processes.wait("merged")
    print(f"merged: {out}")


def _settings() -> Settings:
    """What the flags say."""
    given = {name: FLAGS[name].value for name in OF_SETTINGS}
    for name in ("dora", "rslora"):
        given[name] = FLAGS[name].value or None  # as a preset has it
    given["targets"] = tuple(FLAGS.targets) if FLAGS.targets else None
    settings = main.settings_from_flags(PRESETS, **given)
    if FLAGS.epochs is not None:  # where the preset says steps
        settings = dataclasses.replace(settings, steps=None)
    return _for_data(settings)


def _for_data(settings: Settings) -> Settings:
    """With the instruction that our own data begins with, unless another is given."""
    if FLAGS.data is not None or settings.system is not None:
        return settings
    return dataclasses.replace(settings, system=checkable.SYSTEM)


def _as_run(run: Run) -> Settings:
    """How a run measured, with what the flags say otherwise."""
    known = {field.name for field in dataclasses.fields(Settings)}
    of_run = {name: value for name, value in run.summary["settings"].items() if name in known}
    of_run["targets"] = tuple(of_run["targets"])
    given = {name: FLAGS[name].value for name in ("length", "batch_size", "limit", "seed", "system", "max_new_tokens")}
    return dataclasses.replace(
        Settings(**of_run), **{name: value for name, value in given.items() if value is not None}
    )


def _data(settings: Settings) -> Conversations:
    """As --data says; prints a line about it."""
    if FLAGS.data is not None:
        found = conversations.read(FLAGS.data)
        print(f"data: {len(found.found):,} conversations of {found.source}", flush=True)
        return found
    count = min(settings.items, settings.limit or settings.items)
    found = checkable.conversations(count, settings.held_out, settings.seed)
    print(
        f"data: {len(found.found):,} {found.source}, and {len(found.held_out):,} of held-out words and phrasings",
        flush=True,
    )
    return found


def _measured(data: Conversations, settings: Settings, run: Run | None) -> Conversations:
    """What --job=evaluate measures on: what was held out of the run's own data, or all of another's; of either, --limit."""
    is_own = data.held_out is not None or (run is not None and run.summary["base"]["data_sha256"] == data.checksum)
    whole = conversations.split(data, settings.held_out, None)[1] if is_own else data
    found = dataclasses.replace(whole, found=whole.found[: FLAGS.limit])  # not the run's: that is of what it trained on
    part = "" if len(found.found) == len(whole.found) else f"the first {len(found.found):,} of "
    print(
        f"measured on {part}{'what is held out' if is_own else 'all'} of {data.source}, {len(whole.found):,} conversations",
        flush=True,
    )
    return found


def _base(name: str | None, run: Run | None = None) -> Base:
    """As the flags say, and where they do not, as the run had it: its adapter is bound to the parameters as they were."""
    of_run = {} if run is None else run.summary["settings"]
    dtype, param_dtype = FLAGS.dtype or of_run.get("dtype", "float32"), FLAGS.param_dtype or of_run.get("param_dtype")
    return finetune_base.load(name, dtype=dtype, param_dtype=param_dtype)


def _of_adapter() -> tuple[Base, dict[str, Voice], Run | None]:
    """(the base, who speaks: the adapter first where there is one, the run that left it where it was one)."""
    devices.settle()
    if FLAGS.adapter is None:
        base = _base(FLAGS.model)
        return base, {"base": base.voice}, None
    path = epath.Path(FLAGS.adapter)
    run = saved.run_at(path)
    made_on = saved.base_of(path, run)
    base = _base(made_on if FLAGS.model is None else FLAGS.model, run)
    voice = saved.voice_at(path, base)
    off = saved.off(voice)
    return base, {"adapter": voice, **({} if off is None else {"off": off}), "base": base.voice}, run
