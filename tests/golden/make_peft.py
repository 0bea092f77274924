"""Writes the golden adapter folders of tests/test_peft.py by real PEFT; needs torch, transformers and peft.

Run from the repository root, after make_bert.py and make_llama.py, whose models it adapts:

    python tests/golden/make_peft.py

Every weight of every adapter is random; outputs are computed in float64 and then rounded. Written with torch 2.13, transformers 5.23
and peft 0.21.
"""

import json
import pathlib

import numpy as np
import peft
import safetensors.torch
import torch
import transformers
from make_bert import as_float32, batch

HERE = pathlib.Path(__file__).parent
HEADS = ["classifier"]
# folder -> (base, PEFT's config)
ADAPTERS = {
    "peft_bert_plain": (
        "bert",
        {"r": 4, "lora_alpha": 6, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
    ),
    "peft_bert_rslora_patterns": (
        "bert",
        {
            "r": 3,
            "lora_alpha": 5,
            "use_rslora": True,
            "target_modules": ["query", "key", "dense"],
            "rank_pattern": {"layer.0.attention.self.query": 2, "dense": 4, "query": 5},
            "alpha_pattern": {"layer.1.attention.self.key": 7, "key": 2},
            "modules_to_save": HEADS,
        },
    ),
    "peft_bert_dora": (
        "bert",
        {"r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": ["query", "value"], "modules_to_save": HEADS},
    ),
    "peft_bert_biases": ("bert", {"r": 2, "lora_alpha": 3, "bias": "lora_only", "target_modules": ["value"]}),
    "peft_llama_all_linear": (
        "llama",
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    ),
    "peft_llama_layer_pattern": (
        "llama",
        {
            "r": 3,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 5},
        },
    ),
    "peft_net_plain": ("net", {"r": 3, "lora_alpha": 4, "target_modules": ["embed", "conv", "head"]}),
    "peft_net_dora": ("net", {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ["embed", "conv", "head"]}),
}


class Net(torch.nn.Module):
    """Token ids [B, H, W] -> embedding -> a convolution -> a head; sizes odd on purpose."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.conv = torch.nn.Conv2d(6, 7, (3, 2), stride=(1, 2))
        self.head = torch.nn.Linear(7, 5)

    def forward(self, ids):
        x = torch.tanh(self.conv(self.embed(ids).permute(0, 3, 1, 2)))
        return self.head(x.permute(0, 2, 3, 1))


def main() -> None:
    torch.manual_seed(0)
    net = Net()
    safetensors.torch.save_file(net.state_dict(), HERE / "peft_net.safetensors")
    random = np.random.default_rng(0)
    arrays = {"net_ids": random.integers(11, size=(2, 5, 8), dtype=np.int32)}
    with np.load(HERE / "llama_outputs.npz") as llama:
        arrays["llama_ids"] = llama["ids"].astype(np.int32)
    with np.load(HERE / "bert_outputs.npz") as bert:
        inputs = {"bert": batch(bert, ""), "llama": {"input_ids": torch.from_numpy(arrays["llama_ids"]).long()}}
    inputs["net"] = {"ids": torch.from_numpy(arrays["net_ids"]).long()}
    for folder, (base, config) in ADAPTERS.items():
        model = randomised(peft.get_peft_model(base_model(base, net), peft.LoraConfig(**config)))
        model.save_pretrained(HERE / folder)
        (HERE / folder / "README.md").unlink(missing_ok=True)
        (HERE / folder / "adapter_model.safetensors").chmod(0o644)
        arrays[folder] = outputs(model.double().eval(), inputs[base])
    np.savez_compressed(HERE / "peft_outputs.npz", **arrays)


def base_model(base: str, net: Net) -> torch.nn.Module:
    if base == "net":
        copy = Net()
        copy.load_state_dict(net.state_dict())
        return copy
    kind = {"bert": transformers.AutoModelForSequenceClassification, "llama": transformers.AutoModelForCausalLM}[base]
    folder = {"bert": "bert_odd", "llama": "llama_untied"}[base]
    model = kind.from_pretrained(HERE / folder, config=config_of(HERE / folder), attn_implementation="eager")
    model.config._name_or_path = model.name_or_path = folder
    return model


def config_of(folder: pathlib.Path) -> transformers.PretrainedConfig:
    """Of a base; transformers 4 does not know where 5 writes the base of the rotations."""
    config = transformers.AutoConfig.from_pretrained(folder)
    rotations = json.loads((folder / "config.json").read_text()).get("rope_parameters")
    if rotations and hasattr(config, "rope_theta"):
        config.rope_theta = rotations["rope_theta"]
    return config


@torch.no_grad()
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter of the adapter drawn anew, magnitudes near what they were."""
    for name, leaf in model.named_parameters():
        if "magnitude" in name:
            leaf.mul_(1 + 0.3 * torch.randn_like(leaf))
        elif leaf.requires_grad:
            leaf.copy_(0.2 * torch.randn_like(leaf))
    return model


@torch.no_grad()
def outputs(model: torch.nn.Module, given: dict[str, torch.Tensor]) -> np.ndarray:
    found = model(**given)
    return as_float32(found if torch.is_tensor(found) else found.logits)


if __name__ == "__main__":
    main()
