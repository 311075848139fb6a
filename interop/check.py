"""Reads what Gradus writes and writes what Gradus reads, with the tools that people use."""

import gzip
import importlib.machinery
import importlib.util
import json
import math
import os
import subprocess
import sys
import types

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.fs
import pyarrow.ipc
import pyarrow.parquet as pq
import transformers

GRADUS, STATE, WORK = sys.argv[1:]


def gradus(*args):
    """Runs a command and returns what it prints."""
    done = subprocess.run([GRADUS, "--dir", STATE, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"gradus {' '.join(args)}: {done.stderr or done.stdout}")
    return done.stdout


def plain(value):
    """A value as JSON has it: what has no number is null."""
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    return plain(value.item()) if isinstance(value, np.generic) else value


def same(tool, what, got, want):
    """Compares rows; floats of 32 bits are printed shorter than they are."""

    def near(a, b):
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(near(a[k], b[k]) for k in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(near, a, b))
        if isinstance(a, float) or isinstance(b, float):
            return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-30)
        return a == b

    got = [plain(row) for row in got]
    if not near(got, want):
        row = next((i for i, (a, b) in enumerate(zip(got, want)) if not near(a, b)), min(len(got), len(want)))
        sys.exit(f"{tool}: {what}: {len(got)} rows for {len(want)}, row {row}: {got[row:row+1]}, want {want[row:row+1]}")


def ours(ref):
    return [json.loads(line) for line in gradus("data", "show", ref, "-n", "0", "--output", "json").splitlines()]


# Ours, read by others.


def readers(path, s3, options):
    """The rows of one table of the store by each tool: from its folder, and from S3."""
    key = "gradus/" + os.path.relpath(path, os.path.join(STATE, "s3", "gradus"))

    def by_arrow(files, name):
        with files.open_input_file(name) as f:
            return pa.ipc.open_file(f).read_all()

    def by_duckdb(table):
        relation = duckdb.from_arrow(table)
        return [dict(zip(relation.columns, row)) for row in relation.fetchall()]

    def by_pandas(source):
        frame = pd.read_feather(source)
        return [{c: row[c] for c in frame.columns} for row in frame.to_dict("records")]

    local = pa.fs.LocalFileSystem()
    yield "PyArrow", by_arrow(local, path).to_pylist()
    yield "PyArrow, S3", by_arrow(s3, key).to_pylist()
    yield "pandas", by_pandas(path)
    with s3.open_input_file(key) as f:
        yield "pandas, S3", by_pandas(f)
    yield "Polars", pl.read_ipc(path).to_dicts()
    yield "Polars, S3", pl.scan_ipc("s3://" + key, storage_options=options).collect().to_dicts()
    yield "DuckDB", by_duckdb(pa.dataset.dataset(path, format="ipc").to_table())
    yield "DuckDB, S3", by_duckdb(pa.dataset.dataset(key, format="ipc", filesystem=s3).to_table())
    yield "datasets", list(datasets.load_dataset("arrow", data_files=path, split="train"))
    yield "datasets, S3", list(datasets.Dataset(by_arrow(s3, key)))


def others_read_ours():
    with open(os.path.join(STATE, "stack.json")) as f:
        stack = json.load(f)
    s3 = pa.fs.S3FileSystem(access_key=stack["access_key"], secret_key=stack["secret_key"], endpoint_override=stack["s3"], region="us-east-1")
    options = {"aws_access_key_id": stack["access_key"], "aws_secret_access_key": stack["secret_key"], "aws_endpoint_url": stack["s3"],
               "aws_region": "us-east-1", "aws_allow_http": "true"}
    kinds = {}
    folder = os.path.join(STATE, "s3", "gradus", "objects")
    for name in sorted(os.listdir(folder)):
        if name.endswith(".arrow"):
            with pa.memory_map(os.path.join(folder, name)) as f:
                file = pa.ipc.open_file(f)
                kind, rows = file.schema.metadata[b"gradus.kind"].decode(), file.read_all().num_rows
            ref = f"{kind}:{rows}:{os.path.getsize(os.path.join(folder, name))}:{name.removesuffix('.arrow')}"
            kinds.setdefault(kind, (os.path.join(folder, name), ref))
    print(len(kinds), "kinds of tables:", ", ".join(sorted(kinds)))
    for needed in ("problems", "proposals", "rollouts", "scores", "selections", "assessments", "metrics"):
        if not any(k.startswith(needed + "/") for k in kinds):
            sys.exit(f"the run left no table of {needed}")
    for kind, (path, ref) in sorted(kinds.items()):
        want = ours(ref)
        for tool, rows in readers(path, s3, options):
            same(tool, kind, rows, want)


# Theirs, read by us.


def write_theirs(folder):
    """Files of problems as each tool writes them, with the rows that they hold."""
    rows = [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "solution": "naïve, “quoted”\n\tλ 🎲 \\frac{1}{2}" if i % 3 else "", "level": i % 8 + 1,
             "steps": [f"take {i}", "double it"][: i % 3], "source": ("odd", "even")[i % 2]} for i in range(257)]
    table = pa.Table.from_pylist(rows)
    kinds = {"plain": table}
    for name, text in (("large", pa.large_string()), ("view", pa.string_view())):
        kinds[name] = pa.table({c: table[c].cast(text) if pa.types.is_string(table[c].type) else table[c] for c in table.column_names})
    kinds["large_list"] = table.set_column(table.column_names.index("steps"), "steps", table["steps"].cast(pa.large_list(pa.large_string())))
    kinds["dictionary"] = pa.table({c: table[c].dictionary_encode() if c in ("source", "solution") else table[c] for c in table.column_names})

    def nulls(c):
        return pa.array([v or None for v in table[c].to_pylist()], table[c].type)

    kinds["nulls"] = pa.table({c: nulls(c) if c in ("solution", "steps") else table[c] for c in table.column_names})
    for name, t in kinds.items():
        with pa.ipc.new_file(os.path.join(folder, f"pyarrow_{name}_file.arrow"), t.schema) as w:
            w.write_table(t, max_chunksize=50)
        if name != "view":  # Parquet has no views
            pq.write_table(t, os.path.join(folder, f"pyarrow_{name}.parquet"), row_group_size=50, compression="zstd")
    with pa.ipc.new_stream(os.path.join(folder, "pyarrow_stream.arrow"), table.schema) as w:
        w.write_table(table, max_chunksize=50)
    pa.feather.write_feather(table, os.path.join(folder, "pyarrow_lz4.arrow"), compression="lz4")

    frame = pd.DataFrame(rows)
    frame.to_parquet(os.path.join(folder, "pandas.parquet"))
    frame.to_json(os.path.join(folder, "pandas.jsonl"), orient="records", lines=True)
    frame.to_json(os.path.join(folder, "pandas_zstd.jsonl.zst") if importlib.util.find_spec("zstandard") else os.path.join(folder, "pandas_gzip.jsonl.gz"), orient="records", lines=True)
    frame.drop(columns="steps").to_csv(os.path.join(folder, "pandas.csv"), index=False)
    polars = pl.DataFrame(rows)
    polars.write_ipc(os.path.join(folder, "polars.arrow"), compression="zstd")  # string views
    polars.with_columns(pl.col("source").cast(pl.Categorical)).write_ipc(os.path.join(folder, "polars_categorical.arrow"))
    polars.write_parquet(os.path.join(folder, "polars.parquet"))
    polars.write_ndjson(os.path.join(folder, "polars.jsonl"))
    polars.drop("steps").write_csv(os.path.join(folder, "polars.csv"))
    db = duckdb.connect()
    db.register("t", table)
    db.execute(f"COPY t TO '{folder}/duckdb.parquet' (FORMAT parquet)")
    db.execute(f"COPY t TO '{folder}/duckdb.jsonl' (FORMAT json)")
    db.execute(f"COPY t TO '{folder}/duckdb_zstd.jsonl.zst' (FORMAT json, COMPRESSION zstd)")
    db.execute(f"COPY (SELECT * EXCLUDE steps FROM t) TO '{folder}/duckdb_gzip.csv.gz' (FORMAT csv, HEADER, COMPRESSION gzip)")
    theirs = datasets.Dataset.from_list(rows)
    theirs.to_parquet(os.path.join(folder, "datasets.parquet"))
    theirs.to_json(os.path.join(folder, "datasets.jsonl"))
    return rows


def we_read_theirs():
    folder = os.path.join(WORK, "theirs")
    os.makedirs(folder)
    rows = write_theirs(folder)
    names = sorted(os.listdir(folder))
    for name in names:
        gradus("data", "import", os.path.join(folder, name), "--name", "theirs")
        columns = ["prompt", "answer", "solution", "level", "source"] + ([] if ".csv" in name else ["steps"])
        got = [{c: r[c] for c in columns} for r in ours("theirs")]
        same("gradus data import", name, got, [{c: r[c] for c in columns} for r in rows])
    print(len(names), "files of other tools:", ", ".join(names))


def we_select_theirs():
    """Rollouts drawn elsewhere: GRPO's advantages, by the paper's formula."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"uid": np.repeat([f"p{i}" for i in range(50)], 8), "reward": rng.integers(0, 2, 400).astype(float)})
    source = os.path.join(WORK, "rollouts.parquet")
    frame.to_parquet(source)
    gradus("select", "--recipe", "grpo", source, "-o", os.path.join(WORK, "kept.parquet"))
    kept = pd.read_parquet(os.path.join(WORK, "kept.parquet"))
    for group, rows in kept.groupby("uid"):
        flat = rows.reward.nunique() == 1
        if (rows.kept == flat).any():
            sys.exit(f"gradus select: group {group} of rewards {list(rows.reward)} is kept: {list(rows.kept)}")
        if not flat:
            std = min((0, 1), key=lambda ddof: abs((rows.reward - rows.reward.mean()) / rows.reward.std(ddof=ddof) - rows.advantage).max())
            want = (rows.reward - rows.reward.mean()) / rows.reward.std(ddof=std)
            if abs(want - rows.advantage).max() > 1e-3:
                sys.exit(f"gradus select: advantages {list(rows.advantage)}, want {list(want)}")
    print("advantages of", len(kept), "completions drawn elsewhere")


# Exports, read by the trainers' own code.


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(bytes_)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t)
    fast.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    return fast


def load_alone(package, module):
    """Imports a module of a package without the package's __init__, which needs PyTorch."""
    root = importlib.util.find_spec(package).submodule_search_locations[0]
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join([package, *parts[:i]])
        parent = types.ModuleType(name)
        parent.__path__ = [os.path.join(root, *parts[:i])]
        sys.modules[name] = parent
    return importlib.import_module(f"{package}.{module}")


def stand_in_for_torch():
    """Puts the few names of PyTorch that verl's data set uses in its place, where it is not installed."""
    if importlib.util.find_spec("torch"):
        return []
    torch, utils, data = (types.ModuleType(n) for n in ("torch", "torch.utils", "torch.utils.data"))
    torch.Tensor, torch.uint8 = np.ndarray, np.uint8
    torch.tensor, torch.stack = (lambda v, dtype=None: np.array(v, dtype)), (lambda v, dim=0: np.stack(v, dim))
    data.Dataset = object
    for m in (torch, utils, data):
        m.__spec__ = importlib.machinery.ModuleSpec(m.__name__, None)
        sys.modules[m.__name__] = m
    return [m.__name__ for m in (torch, utils, data)]


def trl_takes_exports(want):
    trl = load_alone("trl", "data_utils")
    for form in ([], ["--plain"]):
        path = os.path.join(WORK, "trl.parquet")
        gradus("data", "export", "theirs", "--format", "trl", *form, "-o", path)
        train = datasets.load_dataset("parquet", data_files=path, split="train")
        if trl.is_conversational(train[0]) != (form == []):
            sys.exit(f"TRL takes the export {form} for {'a chat' if form else 'plain text'}: {train[0]}")
        for row, problem in zip(train, want, strict=True):
            text = trl.maybe_apply_chat_template({"prompt": row["prompt"]}, tokenizer())["prompt"] if form == [] else row["prompt"]
            if text != (problem["prompt"] if form else f"<user>{problem['prompt']}<assistant>"):
                sys.exit(f"TRL poses {text!r} for {problem['prompt']!r}")
            reward_kwargs = {k: v for k, v in row.items() if k not in ("prompt", "completion", "completion_ids")}  # as GRPOTrainer hands them on
            if reward_kwargs["answer"] != problem["answer"]:
                sys.exit(f"TRL's reward functions get {reward_kwargs}")
    print("TRL takes", len(want), "problems as chats and as texts")


def verl_takes_exports(want):
    standing_in = stand_in_for_torch()
    verl = load_alone("verl", "utils.dataset.rl_dataset")
    for name in standing_in:  # the other libraries do without
        del sys.modules[name]
    from omegaconf import OmegaConf

    path = os.path.join(WORK, "verl.parquet")
    gradus("data", "export", "theirs", "--format", "verl", "-o", path, "--split", "train", "--ability", "math")
    config = OmegaConf.create({"cache_dir": os.path.join(WORK, "verl"), "max_prompt_length": 64, "filter_overlong_prompts_workers": 1})
    train = verl.RLHFDataset(path, tokenizer(), config)
    if len(train) != len(want):
        sys.exit(f"verl has {len(train)} of {len(want)} problems")
    for i, problem in enumerate(want):
        row = train[i]
        got = (row["raw_prompt"][-1]["content"], row["reward_model"]["ground_truth"], row["reward_model"]["style"], row["data_source"], row["index"], row["ability"])
        if got != (problem["prompt"], problem["answer"], "rule", problem["source"], i, "math"):
            sys.exit(f"verl reads {got} for {problem}")
    batch = verl.collate_fn([train[i] for i in range(8)])
    print("verl takes", len(train), "problems; a batch has", ", ".join(sorted(batch)))


def main():
    we_read_theirs()
    want = ours("theirs")
    trl_takes_exports(want)
    verl_takes_exports(want)
    gradus("run", "grpo", "steps=2", "problems_per_level=16", "levels=[1,2]", "warmup.levels=[1]",
           "warmup.max_steps=2", "warmup.min_steps=1", "prompts_per_step=8", "num_generations=4")
    others_read_ours()
    we_select_theirs()


if __name__ == "__main__":
    main()
