"""Does the suite notice when LoRA is wrong? Each mutant is one edit of the library; some test must fail under it.

    python tests/mutants.py            # all of them, some minutes
    python tests/mutants.py scale      # those whose name has this in it

Each runs in a copy of the repository, on the test files named beside it, and stops at the first failure. A mutant that no test kills is
reported, and makes the exit status 1. First the same files run on the library as it is, and must pass; only a test that fails kills a mutant:
where pytest ends otherwise (a file that cannot be collected, say) the script stops, says so and exits with 2. tests/test_mutants.py checks
that every edit still finds its place.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
LAYERS, MERGE, NNX = ("tests/test_layers.py",), ("tests/test_merge.py",), ("tests/test_nnx.py",)
VARIANTS, PEFT, BANK = ("tests/test_variants.py",), ("tests/test_peft.py",), ("tests/test_bank.py",)


class Mutant(NamedTuple):
    name: str
    file: str  # in lora_jax
    old: str  # found once
    new: str
    tests: tuple[str, ...]


QUANTISED = ("tests/test_quantised.py",)
CONSTANT = "jax.lax.stop_gradient((*adapter.factors()"
GAIN = "adapter.magnitude / jnp.where(norm > 0, norm, 1)"
FILES_A = "LORA_A: a.T, LORA_B: b.T}\n    if"
DIFFERENTIATED = ("tests/test_training.py", "tests/test_variants.py")
FUNCTIONS = ("tests/products/test_function.py",)
SIDE = "functools.reduce(operator.add, sides, y.astype(wide)).astype(y.dtype)"
TURN = 'factor.transpose(*params["permutation"], factor.ndim - 1)'
ALWAYS = "self.key = (jax.random.key(0) if key is None else key) if dropout else None"
MARKED = "Marked(leaf, mark.terms"
KEY = "self.key = key if dropout else None"
ROWS = "narrow = _of_factor(a, picked, value.ndim, indices, params)\n    offset"
NNX_KERNEL = "{name: kernel, **as_leaves(one.adapter, "
MUTANTS = [
    Mutant("side path dropped", "products/sides.py", SIDE, "y", LAYERS),
    Mutant("side path negated", "products/sides.py", SIDE, SIDE.replace("add", "sub"), LAYERS),
    Mutant("side path doubled", "products/sides.py", SIDE, SIDE.replace("sides", "[2 * side for side in sides]"), LAYERS),
    Mutant("a weight's turn is not its factors'", "products/relayouts.py", TURN, "factor", FUNCTIONS),
    Mutant("a scan's layers have one adapter", "products/nested.py", "return factor[0] if part is None else part", "return factor[0]", FUNCTIONS),
    Mutant("a derivative of its own is lost", "products/nested.py", "own = bind(eqn, bare)", "own = run(context, program, consts, bare)", FUNCTIONS),
    Mutant("rows of another id", "products/lookups.py", ROWS, ROWS.replace("indices", "0 * indices"), LAYERS),
    Mutant("groups of a convolution mixed", "products/dots.py", "b.reshape(groups, -1, rank)", "b.reshape(-1, groups, rank).swapaxes(0, 1)", LAYERS),
    Mutant("EVA does not centre", "products/moments.py", "centred = rows - mean[..., None, :]", "centred = rows", ("tests/test_eva.py",)),
    Mutant("the model's mode is not asked", "mode.py", "return bool(value) == when_training", "return True", ("tests/test_adapter.py",)),
    Mutant("parts of a batch weigh alike", "training.py", "jax.vmap(weight)(cut)", "jnp.ones(parts)", ("tests/test_training.py",)),
    Mutant("scale forgotten", "lowrank.py", " * scale.astype(narrow.dtype)\n", "\n", LAYERS),
    Mutant("scale forgotten in merge", "lowrank.py", "scale.astype(dtype)[..., None, None] * jnp.matmul", "jnp.matmul", MERGE),
    Mutant("a transposed", "lowrank.py", "@ a.astype(rows.dtype)  # [B, R]", "@ a.T.reshape(a.shape).astype(rows.dtype)", LAYERS),
    Mutant("b transposed", "lowrank.py", "(rows @ b.astype(narrow.dtype))", "(rows @ b.T.reshape(b.shape).astype(narrow.dtype))", LAYERS),
    Mutant("a transposed in PEFT files", "peft/tensors.py", FILES_A, FILES_A.replace("a.T,", "a.reshape(a.T.shape),"), PEFT),
    Mutant("base trains", "partition.py", "name_of(path) in TRAINABLE for path", "True for path", ("tests/test_partition.py",)),
    Mutant("base moves by its raw gradient", "optim.py", "jnp.zeros_like(leaf) for path", "leaf for path", ("tests/test_optim.py",)),
    Mutant("base is differentiated", "products/trees.py", MARKED, MARKED.replace("leaf,", "leaf + 0 * mark.terms[0][0].sum(),"), DIFFERENTIATED),
    Mutant("dropout always on", "products/sides.py", KEY, ALWAYS, ("tests/test_adapter.py",)),
    Mutant("head not saved", "checkpoint/adapters.py", " or p in heads}", "}", ("tests/test_checkpoint.py",)),
    Mutant("head not written to PEFT", "peft/beside.py", "_add_module(found, tree, module, saved=saved)", "pass", PEFT),
    Mutant("rank padding not zero", "lowrank.py", "jnp.pad(a", "1 + jnp.pad(a", ("tests/test_lowrank.py", "tests/test_sweep.py")),
    Mutant("DoRA's gain upside down", "dora.py", GAIN, "1 / (" + GAIN + ")", VARIANTS),
    Mutant("DoRA's norm differentiated", "dora.py", CONSTANT, CONSTANT.removeprefix("jax.lax.stop_gradient"), VARIANTS),
    Mutant("DoRA scales the update alone", "products/sides.py", "(gain - 1).astype(wide) * whole + ", "", VARIANTS),
    Mutant("start not subtracted", "leaves.py", "[self.b, -self.start_b]", "[self.b, self.start_b]", VARIANTS),
    Mutant("start not kept", "starts.py", "start_a=a, start_b=b", "start_a=0 * a, start_b=b", VARIANTS),
    Mutant("rsLoRA's root forgotten", "config.py", "alpha / math.sqrt(rank)", "alpha / rank", ("tests/test_config.py", "tests/test_peft.py")),
    Mutant("NNX side path dropped", "nnx/classes.py", NNX_KERNEL, NNX_KERNEL.replace("kernel, ", "kernel} or {"), NNX),
    Mutant("NNX state not written back", "nnx/classes.py", "found[path].set_raw_value(value)", "pass", ("tests/test_nnx_injected.py",)),
    Mutant("id -1 is the last adapter", "bank/applying.py", "lambda leaf: leaf[ids], bank", "lambda leaf: leaf[:-1][ids], bank", BANK),
    Mutant("weights of a combination ignored", "algebra.py", "(w * layer.scale / scale)", "(layer.scale / scale)", ("tests/test_algebra.py",)),
    Mutant("LoRA+ scales a", "optim.py", "in zero_is_a else B)", "in zero_is_a else A)", ("tests/test_optim.py", "tests/test_docstrings.py")),
    Mutant("NF4 codes swapped", "quantised.py", "[levels[codes >> 4], levels[codes & 15]]", "[levels[codes & 15], levels[codes >> 4]]", QUANTISED),
]  # fmt: skip


class NoVerdict(Exception):
    """A run of pytest that says nothing about a mutant."""


def survives(mutant: Mutant) -> bool:
    """Whether its tests pass all the same."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(folder)
        file = copy / "lora_jax" / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        return outcome(copy, mutant.tests)[0]


def require_control(chosen: list[Mutant]) -> None:
    """Raises NoVerdict unless the tests of these mutants pass on the library as it is."""
    with tempfile.TemporaryDirectory() as folder:
        passed, end = outcome(copied(folder), sorted({test for mutant in chosen for test in mutant.tests}))
    if not passed:
        raise NoVerdict(f"these tests fail on the library as it is:\n{end}")


def copied(folder: str) -> pathlib.Path:
    copy = pathlib.Path(folder) / "copy"
    ignored = shutil.ignore_patterns(".git", "runs", "results", "__pycache__", ".venv", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def outcome(copy: pathlib.Path, tests: Iterable[str]) -> tuple[bool, str]:
    """(whether these test files pass, the end of what pytest said).

    Raises:
      NoVerdict: where pytest's exit code is neither 0 (all pass) nor 1 (a test fails), as for a file that cannot be collected.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", *tests]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    end = (run.stdout + run.stderr)[-1500:]
    if run.returncode not in (0, 1):
        raise NoVerdict(f"pytest ended with code {run.returncode} on {' '.join(tests)}:\n{end}")
    return run.returncode == 0, end


def main(wanted: list[str]) -> int:
    chosen = [m for m in MUTANTS if not wanted or any(word in m.name for word in wanted)]
    if not chosen:
        print(f"no verdict: no mutant's name has any of {wanted} in it")
        return 2
    try:
        return verdict(chosen)
    except NoVerdict as error:
        print(f"no verdict: {error}")
        return 2


def verdict(chosen: list[Mutant]) -> int:
    """Prints who is killed; 1 where some are alive."""
    require_control(chosen)
    alive = []
    for mutant in chosen:
        lives = survives(mutant)
        print(f"{'ALIVE ' if lives else 'killed'}  {mutant.name}", flush=True)
        alive += [mutant.name] if lives else []
    print(
        f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed{'; alive: ' + ', '.join(alive) if alive else ''}"
    )
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
