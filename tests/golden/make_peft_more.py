"""Writes the golden adapter folders of tests/test_peft_folders.py by real PEFT: tied tables, grown vocabularies, rows of tables, parameters.

Run from the repository root, after make_llama.py (whose ids it takes) and make_bert.py, with torch 2.13, transformers 5.24 and peft 0.21.2:

    python tests/golden/make_peft_more.py
"""

import json
import pathlib
import shutil

import numpy as np
import peft
import safetensors.torch
import torch
import transformers
from make_bert import batch
from make_peft import Net, base_model, config_of, outputs, randomised

HERE = pathlib.Path(__file__).parent
MORE = HERE / "peft_more"
WHOLE = ["embed_tokens", "lm_head"]
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj", "gate.w"]
SMALL = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip
# folder -> (base, PEFT's config)
ADAPTERS = {
    "tied_whole": (
        "tied",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied_adapter": ("tied", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "tied_rows": ("tied", {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    "tied_idly": ("tied", {"target_modules": ["q_proj"], "ensure_weight_tying": True}),
    "untied_rows": (
        "untied",
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]}},
    ),
    "untied_layers": ("untied", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "untied_mica": ("untied", {"target_modules": ["q_proj", "embed_tokens"], "init_lora_weights": "mica"}),
    "grown_whole": ("grown", {"target_modules": ["q_proj"], "modules_to_save": WHOLE}),
    "grown_silently": ("grown", {"target_modules": ["q_proj"]}),
    "grown_adapted": ("grown", {"target_modules": ["q_proj", "embed_tokens"]}),
    "grown_rows": ("grown", {"target_modules": ["q_proj"], "trainable_token_indices": [37, 38]}),
    "bert_lora_bias": ("bert", {"target_modules": ["query", "dense"], "lora_bias": True}),
    "deep_layers": ("deep", {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    "moe_parameters": (
        "moe",
        {"target_modules": ["head"], "target_parameters": PARAMETERS, "rank_pattern": {"experts.gate_up_proj": 4}},
    ),
    "moe_one": ("moe", {"target_modules": [], "target_parameters": ["experts.down_proj"], "use_rslora": True}),
    "flagged_parameters": ("flagged", {"target_modules": ["head"], "target_parameters": PARAMETERS[:2]}),
    "unflagged_parameters": ("unflagged", {"target_modules": ["head"], "target_parameters": PARAMETERS[:2]}),
}


class Experts(torch.nn.Module):
    """Three experts in two parameters, [E, out, in] or [E, in, out]."""

    def __init__(self, inputs_first: bool):
        super().__init__()
        self.inputs_first = inputs_first
        up, down = ((3, 6, 8), (3, 8, 6)) if inputs_first else ((3, 8, 6), (3, 6, 8))
        self.gate_up_proj = torch.nn.Parameter(0.4 * torch.randn(up))
        self.down_proj = torch.nn.Parameter(0.4 * torch.randn(down))

    def forward(self, x, weights):
        up, down = self.gate_up_proj, self.down_proj
        if not self.inputs_first:
            up, down = up.transpose(1, 2), down.transpose(1, 2)
        h = torch.tanh(torch.einsum("bd,edf->bef", x, up))
        return torch.einsum("bef,efd,be->bd", h, down, weights)


class Gate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(0.4 * torch.randn(3, 6))

    def forward(self, x):
        return torch.softmax(x @ self.w.T, dim=-1)


class Moe(torch.nn.Module):
    """Features [B, 6] -> a gate over experts -> a head."""

    def __init__(self, inputs_first: bool = False):
        super().__init__()
        self.gate, self.experts, self.head = Gate(), Experts(inputs_first), torch.nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.experts(x, self.gate(x)))


class Deep(torch.nn.Module):
    """Features [B, 4] -> three layers of two experts, each a Linear."""

    def __init__(self):
        super().__init__()

        def layer():
            experts = [torch.nn.ModuleDict({"up_proj": torch.nn.Linear(4, 4, bias=False)}) for _ in range(2)]
            return torch.nn.ModuleDict({"experts": torch.nn.ModuleList(experts)})

        self.model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer() for _ in range(3)])})

    def forward(self, x):
        for layer in self.model["layers"]:
            x = x + sum(expert["up_proj"](x) for expert in layer["experts"])
        return x


def base_of(kind: str) -> torch.nn.Module:
    """The base, its weights those of the files."""
    if kind in ("bert",):
        return base_model(kind, Net())
    if kind in ("tied", "untied", "grown"):
        folder = MORE / ("llama_tied" if kind == "tied" else "llama_untied")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config_of(folder), attn_implementation="eager"
        )
        if kind == "grown":
            model.resize_token_embeddings(40, mean_resizing=False)
        return model
    model = Deep() if kind == "deep" else Moe(inputs_first=kind in ("flagged", "unflagged"))
    if kind == "flagged":
        model.experts.is_transposed = True
    stored = MORE / f"{kind if kind == 'deep' else 'moe'}.safetensors"
    weights = safetensors.torch.load_file(stored)
    if kind in ("flagged", "unflagged"):
        weights = {name: w.transpose(1, 2).contiguous() if "experts" in name else w for name, w in weights.items()}
    model.load_state_dict(weights)
    return model


def main() -> None:
    shutil.rmtree(MORE, ignore_errors=True)
    MORE.mkdir()
    torch.manual_seed(0)
    for name, model in (("moe", Moe()), ("deep", Deep())):
        safetensors.torch.save_file(model.state_dict(), MORE / f"{name}.safetensors")
    for tied in (True, False):
        llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=tied))
        llama.save_pretrained(MORE / ("llama_tied" if tied else "llama_untied"))
        (MORE / ("llama_tied" if tied else "llama_untied") / "generation_config.json").unlink(missing_ok=True)
    random = np.random.default_rng(0)
    arrays = {
        "features": random.normal(size=(4, 6)).astype(np.float32),
        "narrow": random.normal(size=(4, 4)).astype(np.float32),
    }
    with np.load(HERE / "llama_outputs.npz") as llama:
        arrays["ids"] = llama["ids"].astype(np.int32)
    with np.load(HERE / "bert_outputs.npz") as bert:
        inputs = {"bert": batch(bert, "")}
    ids, grown = arrays["ids"], arrays["ids"].copy()
    grown[0, :3] = (37, 38, 39)
    arrays["grown_ids"] = grown
    inputs |= {kind: {"input_ids": torch.from_numpy(ids).long()} for kind in ("tied", "untied")}
    inputs["grown"] = {"input_ids": torch.from_numpy(grown).long()}
    inputs |= {kind: {"x": torch.from_numpy(arrays["features"]).double()} for kind in ("moe", "flagged", "unflagged")}
    inputs["deep"] = {"x": torch.from_numpy(arrays["narrow"]).double()}
    for folder, (base, config) in ADAPTERS.items():
        model = randomised(peft.get_peft_model(base_of(base), peft.LoraConfig(**{"r": 2, "lora_alpha": 3, **config})))
        model.save_pretrained(MORE / folder)
        (MORE / folder / "README.md").unlink(missing_ok=True)
        (MORE / folder / "adapter_model.safetensors").chmod(0o644)
        forget_the_path(MORE / folder / "adapter_config.json")
        arrays[folder] = outputs(model.double().eval(), inputs[base])
    np.savez_compressed(MORE / "outputs.npz", **arrays)


def forget_the_path(file: pathlib.Path) -> None:
    """The name of the base's folder without where it lies here: PEFT looks into it to see whether the vocabulary grew."""
    values = json.loads(file.read_text())
    name = values["base_model_name_or_path"]
    values["base_model_name_or_path"] = name and pathlib.Path(name).name
    file.write_text(json.dumps(values, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
