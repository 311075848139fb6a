"""PyTorch on the shapes of `gradus bench model`, as one line of JSON a mode.

The same model, random weights, rows and lengths; the update is one
policy-gradient step with clipping of the norm and AdamW over all weights.
"""
import argparse
import json
import resource
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

# vocabulary, width, feed-forward, layers, heads, key heads, theta, tied; prompts, samples, prompt, completion
SHAPES = {
    "small": (64, 128, 384, 4, 4, 4, 1e4, False, 64, 1, 32, 32),
    "demo": (16, 64, 128, 2, 4, 4, 1e3, False, 32, 8, 10, 10),
    "qwen2.5-0.5b": (151936, 896, 4864, 24, 14, 2, 1e6, True, 64, 1, 256, 256),
    "qwen2.5-1.5b": (151936, 1536, 8960, 28, 12, 2, 1e6, True, 64, 1, 256, 256),
}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("--mode", choices=["eager", "compile", "generate"], required=True)
    p.add_argument("--device", default="cuda")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--micro", type=int, default=8192, help="tokens of a micro-batch")
    o = p.parse_args()
    v, d, f, layers, heads, kv, theta, tied, prompts, samples, lp, lc = SHAPES[o.shape]
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    config = Qwen2Config(vocab_size=v, hidden_size=d, intermediate_size=f, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv, rope_parameters={"rope_type": "default", "rope_theta": theta}, tie_word_embeddings=tied,
                         bos_token_id=None, eos_token_id=None, pad_token_id=None)
    config._attn_implementation = "sdpa"
    model = Qwen2ForCausalLM(config).to(o.device)
    rows = prompts * samples
    ids = torch.randint(0, v, (prompts, lp), device=o.device).repeat_interleave(samples, 0)
    cuda = o.device == "cuda"
    cast = torch.autocast(o.device, dtype=torch.bfloat16, enabled=o.dtype == "bfloat16")
    out = {"shape": o.shape, "mode": o.mode, "dtype": o.dtype, "device": o.device}

    def timed(work):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if o.mode == "generate":
        def work():
            with torch.no_grad(), cast:
                model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                               min_new_tokens=lc, max_new_tokens=lc, pad_token_id=0)
        tokens = rows * lc
    else:
        whole = torch.cat([ids, torch.randint(0, v, (rows, lc), device=o.device)], 1)
        advantage = torch.randn(rows, lc, device=o.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=cuda)
        net = torch.compile(model) if o.mode == "compile" else model
        step = max(1, min(rows, o.micro // (lp + lc)))

        def work():
            for at in range(0, rows, step):
                part = whole[at:at + step]
                with cast:
                    logits = net(part, use_cache=False, logits_to_keep=lc + 1).logits[:, :-1]
                logp = torch.gather(torch.log_softmax(logits.float(), -1), 2, part[:, lp:, None]).squeeze(-1)
                ratio = torch.exp(logp - logp.detach())
                a = advantage[at:at + step]
                (-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).sum() / (rows * lc)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        tokens = rows * (lp + lc)

    out["first_seconds"] = timed(work)
    out["tokens_per_second"] = tokens / min(timed(work) for _ in range(o.rounds))
    out["peak_bytes"] = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
