"""A trainer in PyTorch for Gradus: a Temporal worker of the queue gradus-train that serves the activity Update.

It keeps to activities/CONTRACT.md. Run it in the place of workers with the role train:
    python worker.py --temporal HOST:PORT --store /folder            # or s3://bucket?endpoint=http://host:9000
"""

import argparse, asyncio, hashlib, json, math, pathlib, tempfile, time, urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import torch
from pyarrow import fs
from safetensors.torch import load, save
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from transformers import AutoModelForCausalLM

OWN = "torch/1"  # the name and version of this trainer: part of its keys


def invalid(text):
    """What the user has to mend; another try would not."""
    return ApplicationError(text, type="Invalid", non_retryable=True)


class Store:
    """Objects by key, in a folder or a bucket."""

    def __init__(self, url):
        u = urllib.parse.urlparse(url)
        if u.scheme == "s3":
            q = dict(urllib.parse.parse_qsl(u.query))
            self.fs = fs.S3FileSystem(endpoint_override=q.get("endpoint"), region=q.get("region", "us-east-1"))
            self.root = (u.netloc + u.path).rstrip("/")
        else:
            self.fs, self.root = fs.LocalFileSystem(), u.path or url

    def get(self, key):
        with self.fs.open_input_file(f"{self.root}/{key}") as f:
            return f.read()

    def put(self, key, data):
        path = f"{self.root}/{key}"
        if isinstance(self.fs, fs.S3FileSystem):
            with self.fs.open_output_stream(path) as f:
                f.write(data)
        else:  # a file appears whole, or not at all
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=pathlib.Path(path).parent, delete=False) as f:
                f.write(data)
            pathlib.Path(f.name).replace(path)

    def load(self, ref):
        data = self.get("objects/" + ref["hash"] + (".arrow" if "/" in ref["kind"] else ""))
        if hashlib.sha256(data).hexdigest() != ref["hash"]:
            raise ApplicationError(f"object {ref['hash']} is damaged", ref, type="Corrupt", non_retryable=True)
        return data

    def table(self, ref):
        return pa.ipc.open_file(pa.BufferReader(self.load(ref))).read_all().to_pydict()

    def save(self, data, kind, rows=0):
        ref = {"hash": hashlib.sha256(data).hexdigest(), "bytes": len(data), "kind": kind}
        self.put("objects/" + ref["hash"] + (".arrow" if "/" in kind else ""), data)
        return ref | ({"rows": rows} if rows else {})


def samples(store, rounds, selections):
    """What is kept of a step: prompt, completion, log-probabilities, advantage and mask."""
    rows = []
    for r in rounds:
        for shard in ([] if r.get("request") else r["rollouts"]):
            t = store.table(shard)
            rows += zip(t["group"], t["prompt_ids"], t["completion_ids"], t["logprobs"])
    rows.sort(key=lambda row: row[0])  # as the selections are: by group, within it as drawn
    s = store.table(selections)
    n = len(rows)
    for name, (group, prompt, completion, logprobs), own, kept, a, why in zip(
        s["group"], rows, s.get("original_prompt", [False] * n), s["tokens_kept"], s["advantage"], s.get("token_reasons", [None] * n), strict=True
    ):
        if name != group:
            raise invalid(f"selections have group {name} where the rollouts have {group}")
        if own:
            raise invalid("completions that are learnt under another prompt than they were drawn under are not this trainer's")
        if kept:
            yield prompt, completion, logprobs, a, [float(not r) for r in why] if why else [1.0] * len(completion)


def logprobs(model, prompt, completion, temperature):
    ids = torch.tensor([prompt + completion])
    logits = model(ids).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]


def update(store, beat, given):
    try:
        plan = json.loads(store.load(given["run"]["plan"]))
    except ValueError as e:
        raise invalid(f"the plan is not JSON: {e}") from e
    learning, temperature = plan["learning"], plan["sampling"]["temperature"]
    able = {"loss_type": ["dapo", "bnpo"], "beta": [0], "num_iterations": [1], "mini_batch_size": [0], "lr_scheduler_type": ["constant"]}
    for key in able:
        if learning[key] not in able[key]:
            raise invalid(f"learning.{key} is {learning[key]}; this trainer can do {able[key]}")
    if plan["importance_sampling_correction"] and (plan["max_staleness"] or plan["rollout"]["engine"]):
        raise invalid("this trainer does not weigh completions of another policy or engine; set importance_sampling_correction=false")
    manifest = json.loads(store.load(given["policy"]))
    files = {name: store.load(ref) for name, ref in manifest["files"].items()}
    fresh = given["policy"]["hash"] == given["reference"]["hash"]  # the first update of a run: whatever came before is forgotten
    step = 0 if fresh else manifest["step"]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "model.safetensors"):
            pathlib.Path(folder, name).write_bytes(files[name])
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    named = dict(model.named_parameters())
    batch = list(samples(store, given["rounds"], given["selections"]))
    metrics = dict(given.get("metrics") or {})
    metrics["num_tokens_trained"] = sum(sum(m) for *_, m in batch)
    policy = given["policy"]
    lineage = {"stage": "update", "version": 1, "seed": plan["seed"], "step": given["step"]}
    if batch:
        rate = learning["learning_rate"] * min(1.0, step / learning["warmup_steps"] if learning["warmup_steps"] else 1.0)
        groups = [{"params": [p], "weight_decay": learning["weight_decay"] if p.dim() > 1 else 0.0} for p in named.values()]
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(learning["adam_beta1"], learning["adam_beta2"]), eps=learning["adam_epsilon"])
        if step and "optimizer.safetensors" in files:
            moments = load(files["optimizer.safetensors"])
            for name, p in named.items():
                optimizer.state[p] = {"step": torch.tensor(float(step)), "exp_avg": moments[name + ".exp_avg"], "exp_avg_sq": moments[name + ".exp_avg_sq"]}
        loss, low, high = 0.0, 1 - learning["epsilon"], 1 + (learning["epsilon_high"] or learning["epsilon"])
        for prompt, completion, old, advantage, mask in batch:
            ratio = (logprobs(model, prompt, completion, temperature) - torch.tensor(old)).exp()
            tokens = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage) * torch.tensor(mask)
            one = tokens.sum() / metrics["num_tokens_trained"]
            one.backward()
            loss += one.item()
            beat()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), learning["max_grad_norm"] or math.inf).item()
        metrics |= {"loss": loss, "grad_norm": norm, "learning_rate": rate}
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
            moments = {f"{n}.{m}": optimizer.state[p][m].contiguous() for n, p in named.items() for m in ("exp_avg", "exp_avg_sq")}
            files["model.safetensors"] = save({n: p.detach().contiguous() for n, p in named.items()}, {"format": "pt"})
            files["optimizer.safetensors"] = save(moments, {"format": "pt", "step": str(step + 1)})
            lineage |= {"params": OWN, "inputs": [given["policy"]["hash"], given["selections"]["hash"]]}
            refs = {name: store.save(data, "blob") for name, data in sorted(files.items())}
            policy = store.save(json.dumps({"files": refs, "step": step + 1, "lineage": lineage}).encode(), "policy")
        else:  # left out: the run goes on with the policy it had
            metrics = {k: v for k, v in metrics.items() if math.isfinite(v)} | {"update/nan": 1.0, "num_tokens_trained": 0.0}
    names = sorted(metrics)
    schema = pa.schema([("step", pa.int32()), ("name", pa.utf8()), ("value", pa.float64())], {"gradus.kind": "metrics/1", "gradus.lineage": json.dumps(lineage)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as w:
        w.write_batch(pa.record_batch([[given["step"]] * len(names), names, [float(metrics[n]) for n in names]], schema=schema))
    table = store.save(sink.getvalue().to_pybytes(), "metrics/1", len(names))
    shown = {k: metrics[k] for k in ("loss", "grad_norm", "learning_rate", "update/nan") if k in metrics}
    return {"tables": {"policy": policy, "metrics": table}, "metrics": {"trained": metrics["num_tokens_trained"]} | shown}


class Trainer:
    def __init__(self, store):
        self.store = store

    @activity.defn(name="Update")
    def update(self, given: dict) -> dict:
        begin = time.time()
        known = given | {"run": {"plan": given["run"]["plan"]}, "trainer": OWN}
        key = f"trainers/{given['run']['id']}/{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()}.json"
        try:
            if not given["run"].get("anew"):
                return json.loads(self.store.get(key)) | {"seconds": time.time() - begin, "reused": True}
        except FileNotFoundError:
            pass
        out = update(self.store, activity.heartbeat, given)  # between samples; raises where the run was told to stop
        self.store.put(key, json.dumps(out).encode())
        return out | {"seconds": time.time() - begin}

    @activity.defn(name="Release")
    def release(self) -> None:
        """Gives back the accelerator of a paused run: nothing is held between updates."""


async def main():
    p = argparse.ArgumentParser()
    for name, default in {"temporal": "127.0.0.1:7233", "namespace": "default", "store": None, "queue": "gradus-train"}.items():
        p.add_argument("--" + name, default=default, required=default is None)
    o = p.parse_args()
    torch.use_deterministic_algorithms(True)
    t = Trainer(Store(o.store))
    with ThreadPoolExecutor(1) as pool:
        client = await Client.connect(o.temporal, namespace=o.namespace)
        print("working", flush=True)
        await Worker(client, task_queue=o.queue, activities=[t.update, t.release], activity_executor=pool, max_concurrent_activities=1).run()


if __name__ == "__main__":
    asyncio.run(main())
