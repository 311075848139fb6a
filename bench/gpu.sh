#!/usr/bin/env bash
# All that is measured of policies on a GPU, beside PyTorch on the same card, as
# one table, in under ten minutes. Nothing is downloaded.
#
#   GRADUS=./gradus PYTHON=python3 bench/gpu.sh              on a machine with a GPU
#   GRADUS=./gradus PYTHON=python3 bench/gpu.sh --cpu --small   the same on two cores
#
# gradus is built with -tags xla (or onnx for BACKENDS='go onnx'); Python has
# torch and transformers, and jax-cuda13-plugin for xla:cuda. For the learning
# curve, GRADUS_DEVSTACK names a built program of the local stack where there is
# no Go to build it; SVAMP names SVAMP's 1,000 problems, for a second curve. LIMIT
# bounds one measurement, in seconds, and LIMIT_DEMO each curve.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gradus=${GRADUS:-gradus} python=${PYTHON:-python3} limit=${LIMIT:-100}
device=cuda shapes='qwen2.5-0.5b qwen2.5-1.5b' backends=${BACKENDS:-'xla:cuda xla:cuda,deterministic xla:cuda,bf16'} micro=8192 rounds=3 peak=${PEAK_TFLOPS:-67} half=${PEAK_TFLOPS_BF16:-989} dtypes='float32 bfloat16'
for option; do
  case $option in
    --cpu) device=cpu backends=${BACKENDS:-go} dtypes=float32 peak=${PEAK_TFLOPS:-0} half=${PEAK_TFLOPS_BF16:-0} ;;
    --small) shapes='small demo' micro=0 rounds=2 ;;
    *) echo "unknown option $option: want --cpu or --small" >&2; exit 2 ;;
  esac
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# memory follows the card's use while a command runs; its peak is printed at the end.
memory() {
  [ $device = cuda ] || return 0
  nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 > "$out/memory" 2>/dev/null &
  watcher=$!
}
peak_memory() {
  [ $device = cuda ] || { echo 0; return; }
  kill "$watcher" 2>/dev/null; wait "$watcher" 2>/dev/null
  sort -n "$out/memory" | tail -1
}
# measure NAME command...: its last line, JSON, goes to NAME; a failure is a line of the table too.
measure() {
  local name=$1 got from=$SECONDS; shift
  echo "== $* (${SECONDS}s)" >&2
  memory
  if got=$(timeout "$limit" "$@" 2> "$out/error" | tail -1) && [ -n "$got" ]; then
    printf '{"name":"%s","card_mib":%s,"got":%s}\n' "$name" "$(peak_memory)" "$got" >> "$out/lines"
  else
    peak_memory > /dev/null
    printf '%s\tfailed after %ss of %ss: %s\n' "$name" $((SECONDS - from)) "$limit" "$(tail -1 "$out/error" | cut -c1-160)" >> "$out/failed"
  fi
}

for shape in $shapes; do
  for backend in $backends; do
    # What determinism costs is told by the first shape.
    case $shape-$backend in "${shapes%% *}"-*) ;; *,deterministic) continue ;; esac
    measure "$shape gradus $backend" "$gradus" bench model "$shape" --backend "$backend" --rounds $rounds --max-tokens-per-micro-batch $micro
  done
  for dtype in $dtypes; do
    for mode in eager compile generate; do
      measure "$shape torch $mode $dtype" "$python" "$here/gpu.py" "$shape" --mode $mode --device $device --dtype $dtype --rounds $rounds --micro $((micro > 0 ? micro : 1 << 20))
    done
  done
done

"$python" - "$out/lines" "$peak" "$half" <<'PY'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
peaks = {"float32": float(sys.argv[2]) * 1e12, "bfloat16": float(sys.argv[3]) * 1e12}
torch = {}
for l in lines:
    g = l["got"]
    if "mode" in g:
        torch[(g["shape"], g["mode"], g["dtype"])] = g["tokens_per_second"]
print(f"\n{'':44} {'tokens/s':>10} {'of eager':>9} {'compiled':>9} {'first, s':>9} {'MFU':>6} {'card MiB':>9}")
def row(name, rate, other, compiled, first, mfu, l):
    ratio = lambda x: f"{rate / x:9.2f}" if x else f"{'':9}"
    share = f"{mfu:6.1%}" if mfu else f"{'':6}"
    print(f"{name:44} {rate:10.0f} {ratio(other)} {ratio(compiled)} {first:9.2f} {share} {l['card_mib']:9}")
for l in lines:
    g, name = l["got"], l["name"]
    shape = name.split()[0]
    if "mode" in g:
        row(name, g["tokens_per_second"], None, None, g["first_seconds"], None, l)
        continue
    dtype = "bfloat16" if ",bf16" in name else "float32"
    peak = peaks[dtype]
    t = lambda mode: torch.get((shape, mode, dtype))
    mfu = 6 * g["parameters"] * g["update_tokens_per_second"] / peak if peak else None
    row(name + " update", g["update_tokens_per_second"], t("eager"), t("compile"), g["first_step_seconds"], mfu, l)
    row(name + " generate", g["generate_tokens_per_second"], t("generate"), None, g["first_generation_seconds"], None, l)
    print(f"{'':4}sampler against trainer: KL {g['kl']:.3g} nats/token, greatest gap {g['max_logprob_gap']:.3g}; the same bits twice: {g['repeatable']}; padding {g['padding']:.1%}")
by = {l["name"]: l["got"] for l in lines}
for name, g in by.items():
    other = by.get(name.removesuffix(",deterministic"))
    if name.endswith(",deterministic") and other:
        print(f"{name}: determinism costs {1 - g['update_tokens_per_second'] / other['update_tokens_per_second']:.1%} of the update, "
              f"{1 - g['generate_tokens_per_second'] / other['generate_tokens_per_second']:.1%} of generation")
PY
[ -f "$out/failed" ] && cat "$out/failed"

# A small policy from scratch: supervised warm-up, then RL.
first=${backends%% *}
echo "== gradus demo backend=$first (${SECONDS}s)" >&2
if timeout "${LIMIT_DEMO:-240}" "$gradus" demo --dir "$out/demo" --steps 40 "backend=$first" --output json > "$out/curve" 2> "$out/error"; then
  tail -1 "$out/curve"
else
  echo "learning curve: failed: $(tail -1 "$out/error" | cut -c1-200)"
fi

# The same on word problems: the warm-up shows the form of a solution, RL the rest.
if [ -n "${SVAMP:-}" ]; then
  echo "== gradus run on $SVAMP (${SECONDS}s)" >&2
  head -700 "$SVAMP" > "$out/train.jsonl"
  tail -300 "$SVAMP" > "$out/test.jsonl"
  g=("$gradus" --dir "$out/svamp")
  "${g[@]}" dev > "$out/dev" 2>&1 &
  stack=$!
  until grep -q '^try:' "$out/dev" || ! kill -0 $stack 2> /dev/null; do sleep 1; done
  if "${g[@]}" data import "$out/train.jsonl" 2> "$out/error" && "${g[@]}" data import "$out/test.jsonl" 2> "$out/error" &&
    timeout "${LIMIT_DEMO:-240}" "${g[@]}" run grpo --problems train eval_problems=test "backend=$first" --steps "${STEPS:-150}" \
      model.hidden_size=128 model.intermediate_size=384 model.num_hidden_layers=3 model.rope_theta=10000 \
      'warmup.levels=[]' warmup.max_steps=220 warmup.min_steps=220 warmup.max_tokens=40000000 warmup.batch_size=32 warmup.learning_rate=2e-3 warmup.every=100 \
      prompts_per_step=64 num_generations=16 max_completion_length=40 learning_rate=3e-4 max_tokens_per_micro_batch=16384 \
      evaluation.problems_per_level=300 evaluation.num_generations=4 > "$out/curve" 2> "$out/error"; then
    cat "$out/curve"
  else
    echo "learning curve on $SVAMP: failed: $(tail -1 "$out/error" | cut -c1-200)"
  fi
  kill -INT $stack 2> /dev/null && wait $stack
fi
echo "all in ${SECONDS}s"
[ ! -f "$out/failed" ]
