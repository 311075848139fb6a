"""Loads the checkpoints in the folders of FOLDER with transformers, and compares
what it computes with the check.json that Gradus left beside each.

    GRADUS_PYTHON=$(which python) go test ./policy -run TransformersLoads -v

writes such folders and calls this. It wants torch and transformers.
"""

import json
import pathlib
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


def check(folder):
    want = json.loads((folder / "check.json").read_text())
    # In f32, whatever the file has: what is compared is the weights, not the rounding of products.
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{folder.name}: {kind}: {info[kind]}"
    eos = model.generation_config.eos_token_id
    assert ([eos] if isinstance(eos, int) else eos) == want["eos"], f"{folder.name}: end tokens {eos}, want {want['eos']}"
    ids = torch.tensor([want["prompt"] + want["completion"]])
    with torch.no_grad():
        logits = model.eval()(ids).logits[0, len(want["prompt"]) - 1:-1]
    got = logits.log_softmax(-1).gather(1, torch.tensor(want["completion"])[:, None])[:, 0]
    worst = (got - torch.tensor(want["logprobs"])).abs().max().item()
    assert worst < 1e-4, f"{folder.name}: log-probabilities differ by {worst}"
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(want["text"]).ids
    assert ids == want["ids"], f"{folder.name}: tokens {ids}, want {want['ids']}"
    print(f"{folder.name}: {type(model).__name__}, log-probabilities within {worst:.1e}")


def main():
    folders = sorted(p.parent for p in pathlib.Path(sys.argv[1]).glob("*/check.json"))
    if not folders:
        sys.exit(f"{sys.argv[1]}: no folder has a check.json")
    for folder in folders:
        check(folder)


main()
