"""Makes the fixtures of testdata/models: a tiny model of random weights for each
architecture, as transformers saves it, and what transformers computes with it.

    pip install torch transformers==5.23.0 && python make_models.py

Run it by hand; the tests read what it wrote.
"""

import json
import pathlib
import shutil

import torch
from transformers import (GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = pathlib.Path(__file__).parent / "models"
TOKENIZERS = pathlib.Path(__file__).parent.parent / "tokenizer" / "testdata"
SHAPE = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, attention_dropout=0.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
MODELS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, vocab_size=568, tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
              "qwen2", "<|im_end|>", "<|endoftext|>", {}),
    "qwen2-tied": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, vocab_size=568, tie_word_embeddings=True), "qwen2", "<|im_end|>", "<|endoftext|>", dict(max_shard_size="20KB")),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, vocab_size=568, head_dim=10, tie_word_embeddings=True), "qwen2", "<|im_end|>", "<|endoftext|>", {}),
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, vocab_size=568, head_dim=8, tie_word_embeddings=False, rope_parameters=LLAMA3), "llama3", "<|eot_id|>", None, {}),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, vocab_size=624, head_dim=6, sliding_window=None), "mistral", "</s>", None, {}),
}


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for name, (cls, config, tokenizer, eos, pad, options) in MODELS.items():
        torch.manual_seed(1)
        folder = HERE / name
        folder.mkdir(parents=True)
        raw = json.loads((TOKENIZERS / f"{tokenizer}.json").read_text())
        ids = {t["content"]: t["id"] for t in raw["added_tokens"]} | raw["model"]["vocab"]
        config.eos_token_id, config.bos_token_id, config.pad_token_id = ids[eos], None, ids.get(pad)
        model = cls(config).eval()
        with torch.no_grad():  # large enough for the distributions to be uneven, biases and norms too
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.25)
        model.generation_config = GenerationConfig(eos_token_id=[ids[eos], 65], temperature=0.7, top_p=0.8, do_sample=True, pad_token_id=ids.get(pad))
        model.save_pretrained(folder, **options)
        shutil.copy(TOKENIZERS / f"{tokenizer}.json", folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "pad_token": pad, "tokenizer_class": "PreTrainedTokenizerFast"}) + "\n")
        prompts = [[5, 17, 300, 42], [99], list(range(40, 80))]
        expected = []
        for prompt in prompts:
            x = torch.tensor([prompt])
            with torch.no_grad():
                greedy = model.generate(x, attention_mask=torch.ones_like(x), do_sample=False, temperature=None, top_p=None, max_new_tokens=24)[0, len(prompt):]
                logits = model(torch.cat([x, greedy[None]], 1)).logits[0, len(prompt) - 1:-1]
            expected.append({"prompt": prompt, "greedy": greedy.tolist(), "logprobs": logits.log_softmax(-1).gather(1, greedy[:, None])[:, 0].tolist(),
                             "first": logits[0].log_softmax(-1).tolist()})
        (folder / "expected.json").write_text(json.dumps(expected) + "\n")


main()
