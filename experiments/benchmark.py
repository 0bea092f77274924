"""How fast, against what: LoRA and full steps, scan and loop, sweep and serial runs, and PEFT where it is installed.

python experiments/benchmark.py                                  # 2 minutes on 2 cores
python experiments/benchmark.py --peft_python=/path/to/python    # an interpreter that has torch and peft
"""

import pathlib
import sys
from typing import Any

from absl import flags

from experiments.common import accelerator, cli, main
from experiments.common.flags import define_common
from experiments.common.recording import environment, make_folder, write_json, write_text

define_common()
flags.DEFINE_string("peft_python", sys.executable, "interpreter with torch and peft")
FLAGS = flags.FLAGS
STEPS = {"smoke": 10, "quick": 100, "full": 200}
ROUNDS = {"smoke": 2, "quick": 10, "full": 30}


def run() -> None:
    from experiments.benchmarks import against_peft, steps, sweeps

    main.refuse(("seeds",), f"here: every sweep that is timed has {sweeps.SEEDS}")
    platform = accelerator.settle(FLAGS.accelerator)
    has_peft = against_peft.is_installed(FLAGS.peft_python)
    folder = pathlib.Path(FLAGS.workdir) / f"benchmark-{platform}"
    make_folder(folder)
    count, rounds = STEPS[FLAGS.preset], ROUNDS[FLAGS.preset]
    results = {
        "LoRA against full fine-tuning, per step": steps.lora_against_full(count, rounds),
        "scanned epoch against a loop of jitted steps, per step": steps.scan_against_loop(count, rounds),
        "30 members: one program against serial runs, per member step": sweeps.one_program_against_serial(
            count, max(2, rounds // 4)
        ),
        "LoRA training against PEFT, per step": against_peft.ours_against_peft(
            FLAGS.peft_python, count, max(1, rounds // 5)
        )
        if has_peft
        else None,
    }
    write_json(folder / "benchmark.json", {"environment": environment(), "results": results})
    report = table(results)
    write_text(folder / "table.txt", report + "\n")
    print(report)
    print(f"benchmark: {folder / 'benchmark.json'}")


def table(results: dict[str, Any]) -> str:
    """Medians with quartiles, then ratios."""
    lines = []
    for title, result in results.items():
        lines.append(title)
        if result is None:
            lines.append(
                "  not measured: no interpreter in which torch and peft work (pip install -e '.[interop]', or --peft_python)"
            )
            continue
        for name, row in result["rows"].items():
            more = [
                f"{key} {row[key]:,.4g}"
                for key in ("flops", "optimizer_bytes", "times_the_floor", "with_compilation_s")
                if key in row
            ]
            timing = f"{row['median_ms']:.3f} ms [{row['quartile_low_ms']:.3f}, {row['quartile_high_ms']:.3f}], n = {row['n']}"
            lines.append(f"  {name:<12} {timing}  {'; '.join(more)}")
        lines += [f"  {name}: {value:.2f}" for name, value in result["ratio"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(run)
