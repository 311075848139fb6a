//go:build xla

package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// pluginOfCPU is the PJRT plugin for the CPU among Python's packages. Its memory is kept
// apart from the host's, as a GPU's is.
func pluginOfCPU(t testing.TB) string {
	t.Helper()
	plugin := cpuPlugin(sitePackages())
	if plugin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no PJRT plugin for the CPU: want interop/requirements-xla.txt installed and its folder in PYTHONPATH")
		}
		t.Skip("no PJRT plugin for the CPU")
	}
	return "xla:" + plugin + ",shared_buffers=false"
}

func TestXLAAsTransformers(t *testing.T) {
	spec := pluginOfCPU(t)
	asTransformers(t, func(t testing.TB, c Config, w Weights) *Engine { return newEngineOn(t, spec, c, w) })
}

// Compiling takes most of the time: two models show all that differs.
func TestXLAAgreesWithGo(t *testing.T) {
	defer func(n, m int) { readFloats, attentionLength = n, m }(readFloats, attentionLength)
	readFloats, attentionLength = 100, 8 // several pieces
	agreesWithGo(t, pluginOfCPU(t), DefaultLearning(), "grouped", "qwen3")
}

func TestCheckpointingAgreesWithGo(t *testing.T) {
	l := DefaultLearning()
	l.GradientCheckpointing = true
	agreesWithGo(t, pluginOfCPU(t), l, "tied")
}

// A failure at the second optimizer step leaves the policy as it was before the update,
// also where a device had gone on from what the host has.
func TestResidentStateComesBack(t *testing.T) {
	for _, devices := range []int{1, 2} {
		t.Run(fmt.Sprint(devices), func(t *testing.T) { comesBack(t, devices) })
	}
}

func comesBack(t *testing.T, devices int) {
	ctx, c := context.Background(), tinyModels["one layer"]
	w := tinyWeights(c, 5)
	b, err := OpenBackend(fmt.Sprintf("%s,devices=%d", pluginOfCPU(t), devices))
	if err != nil {
		t.Fatal(err)
	}
	trainer, err := NewTrainer(b, &State{Config: c, Weights: w})
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	good := slices.Repeat(testSamples(t, c, w, 1)[4:5], 4*devices)
	bad := slices.Clone(good)
	last := &bad[len(bad)-1]
	last.OldLogProbs, last.Advantages = slices.Repeat([]float32{-300}, len(last.Completion)), slices.Repeat([]float32{-1}, len(last.Completion))
	l := DefaultLearning()
	l.LearningRate, l.MiniBatchSize, l.MaxTokensPerMicroBatch = 1e-2, len(good), 32
	if parts := newDivided(c, bad, l, devices).parts; slices.ContainsFunc(parts, func(p []batch) bool { return len(p) == 0 }) {
		t.Fatalf("%d samples are not enough for %d devices", len(bad), devices)
	}
	before := must(trainer.State())
	for range 2 {
		if _, err := trainer.Update(ctx, slices.Concat(good, bad), l); !errors.Is(err, ErrNotFinite) {
			t.Errorf("error %v, want %v", err, ErrNotFinite)
		}
		if diff := cmp.Diff(before, must(trainer.State())); diff != "" {
			t.Errorf("the state changed:\n%s", diff)
		}
		if _, err := trainer.Update(ctx, good, l); err != nil {
			t.Fatal(err)
		}
		after := must(trainer.State())
		if after.Step != before.Step+1 || cmp.Equal(before.Weights, after.Weights) {
			t.Errorf("step %d after %d, with other weights: %v", after.Step, before.Step, !cmp.Equal(before.Weights, after.Weights))
		}
		before = after
	}
}

// BenchmarkExchange is what an optimizer step on two devices has beside that on one: the
// weights go to the second device, and its sum of gradients comes back and is added.
func BenchmarkExchange(b *testing.B) {
	backend, err := OpenBackend(pluginOfCPU(b) + ",devices=2")
	if err != nil {
		b.Fatal(err)
	}
	c := Workloads()["small"].Config
	trainer, err := NewTrainer(backend, &State{Config: c, Weights: tinyWeights(c, 5)})
	if err != nil {
		b.Fatal(err)
	}
	defer trainer.Close()
	if err := errors.Join(trainer.settle(DefaultLearning()), trainer.inhabit()); err != nil {
		b.Fatal(err)
	}
	r, second := trainer.resident, trainer.shards[1].device
	b.SetBytes(2 * 4 * c.Parameters())
	for b.Loop() {
		learnt := must(second.copied(r.learnt))
		sum, other := must(r.zeros.call(r.learnt)), must(r.zeros.on(second).call(learnt))
		release(learnt...)
		release(must(r.add.consume(slices.Concat(sum, other), nil))...)
	}
}

// Engines take turns over the devices, and compute the same on each.
func TestXLAEnginesTakeTurns(t *testing.T) {
	ctx, c := context.Background(), tinyModels["one layer"]
	w, rows := tinyWeights(c, 5), raggedRows(c, 3)
	b, err := OpenBackend(pluginOfCPU(t) + ",devices=2")
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		scored []Scored
		drawn  []Completion
	}
	var first result
	for _, number := range []compute.DeviceNum{1, 0} {
		e, err := NewEngine(b, c)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if err := e.Load(w); err != nil {
			t.Fatal(err)
		}
		if at, err := e.weights[0].Device(); err != nil || at != number || e.device.number != number {
			t.Errorf("weights on device %d of engine's device %d, want %d; error %v", at, e.device.number, number, err)
		}
		s := Sampling{Temperature: 0.8, TopP: 1, MaxCompletionLength: 12}
		got := result{must(e.Score(ctx, rows, 1)), must(e.Generate(ctx, repeatedPrompts(rows, 2), s, nil))}
		if first.scored == nil {
			first = got
		} else if diff := cmp.Diff(first, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("device %d:\n%s", number, diff)
		}
	}
}

// Products of bfloat16 are right to two digits or so.
func TestHalfIsNear(t *testing.T) {
	c := tinyModels["grouped"]
	w, rows := tinyWeights(c, 5), raggedRows(c, 3)
	score := func(spec string) []Scored {
		e := newEngineOn(t, spec, c, w)
		return must(e.Score(context.Background(), rows, 1))
	}
	same := true
	want, got := score("go"), score(pluginOfCPU(t)+",bf16")
	for i := range want {
		closeTo(t, fmt.Sprintf("row %d", i), got[i].LogProbs, widen(want[i].LogProbs), 0.1)
		same = same && cmp.Equal(want[i], got[i], cmpopts.EquateApprox(0, 1e-4))
	}
	if same {
		t.Error("bf16 changes nothing")
	}
}

func TestJAXPluginIsFound(t *testing.T) {
	root := t.TempDir()
	var folders []string
	for _, name := range []string{"none", "cuda12", "both"} {
		folder := filepath.Join(root, name)
		folders = append(folders, folder)
		for _, cuda := range map[string][]string{"cuda12": {"xla_cuda12"}, "both": {"xla_cuda12", "xla_cuda13"}}[name] {
			path := filepath.Join(folder, "jax_plugins", cuda)
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, "xla_cuda_plugin.so"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for want, got := range map[string]string{
		"":                               jaxPlugin(folders[:1]),
		"cuda12/jax_plugins/xla_cuda12/": jaxPlugin(folders),
		"both/jax_plugins/xla_cuda13/":   jaxPlugin(folders[2:]),
	} {
		if want != "" {
			want = filepath.Join(root, want, "xla_cuda_plugin.so")
		}
		if got != want {
			t.Errorf("found %q, want %q", got, want)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "both/nvidia/cu13"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := cudaToolkit(jaxPlugin(folders[2:])); got != filepath.Join(root, "both/nvidia/cu13") {
		t.Errorf("toolkit %q", got)
	}
}

func TestXLAErrorsAreClear(t *testing.T) {
	text := filepath.Join(t.TempDir(), "cuda_plugin.so")
	if err := os.WriteFile(text, []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"xla:/no/such/plugin.so": "want a shared library: open /no/such/plugin.so",
		"xla:" + text:            "want a shared library",
		"xla:" + program:         "the library has no GetPjrtApi",
		"xla:tpu":                "open PJRT plugin tpu; want a path",
		"xla:cpu,devices=0":      "devices=0: want a number of at least 1",
	} {
		if _, err := OpenBackend(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", spec, err, want)
		}
	}
	root := t.TempDir()
	for want, make := range map[string]string{"there is no NVIDIA driver": "dev", "no /dev/nvidia0": "proc/driver/nvidia/version", "": "dev/nvidia0"} {
		fake := filepath.Join(root, "for"+make)
		if err := os.MkdirAll(filepath.Join(fake, make), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := checkDriver(fake); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", make, err, want)
		}
	}
}

// An update on several devices is that of one but for rounding, and has the same bits
// every time; the state comes back from them. So it is where there are fewer micro-batches
// than devices.
func TestResidentOnSeveralDevices(t *testing.T) {
	ctx, c := context.Background(), tinyModels["one layer"]
	w := tinyWeights(c, 5)
	samples := testSamples(t, c, w, 1)
	if _, err := OpenBackend(pluginOfCPU(t) + ",devices=1000"); err == nil || !strings.Contains(err.Error(), "1000 devices are asked for, and the plugin has ") {
		t.Errorf("error %v, want both numbers of devices", err)
	}
	type result struct {
		batches  []int // of devices
		gradient Weights
		state    *State // after two updates
		metrics  UpdateMetrics
	}
	updated := func(spec string, l Learning, samples []Sample) (r result) {
		b, err := OpenBackend(spec)
		if err != nil {
			t.Fatal(err)
		}
		start := &State{Config: c, Weights: w}
		if l.LoRARank > 0 {
			start.Adapter = tinyAdapter(c, l)
		}
		trainer, err := NewTrainer(b, start)
		if err != nil {
			t.Fatal(err)
		}
		defer trainer.Close()
		if err := trainer.settle(l); err != nil {
			t.Fatal(err)
		}
		for _, part := range newDivided(c, samples, l, len(trainer.shards)).parts {
			r.batches = append(r.batches, len(part))
		}
		r.gradient = gradientOf(t, trainer, samples, l)
		for range 2 {
			if r.metrics, err = trainer.Update(ctx, samples, l); err != nil {
				t.Fatal(err)
			}
		}
		r.state = must(trainer.State())
		return r
	}
	plain := DefaultLearning()
	plain.LearningRate, plain.MaxTokensPerMicroBatch = 1e-3, 32
	lora := plain
	lora.LoRARank, lora.LoRAAlpha, lora.GradientCheckpointing = 2, 3, true
	for _, test := range []struct {
		name    string
		l       Learning
		samples []Sample
		devices int
		batches []int
	}{
		{"all weights", plain, samples, 2, nil},
		{"adapters, layers computed again", lora, samples, 2, nil},
		{"fewer micro-batches", plain, samples[4:5], 3, []int{1, 0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := fmt.Sprintf("%s,devices=%d", pluginOfCPU(t), test.devices)
			want, got := updated(pluginOfCPU(t), test.l, test.samples), updated(spec, test.l, test.samples)
			if test.batches == nil && slices.Min(got.batches) == 0 || test.batches != nil && !slices.Equal(got.batches, test.batches) {
				t.Errorf("micro-batches of the devices: %v", got.batches)
			}
			for i, g := range want.gradient {
				closeTo(t, g.Name, got.gradient[i].Data, widen(g.Data), 1e-5)
			}
			for i, u := range want.state.trained() {
				closeTo(t, u.Name+" updated", got.state.trained()[i].Data, widen(u.Data), 2e-3)
			}
			if diff := cmp.Diff(want.metrics, got.metrics, cmpopts.EquateApprox(1e-3, 1e-4), cmpopts.IgnoreFields(UpdateMetrics{}, "Padding")); diff != "" {
				t.Errorf("metrics (-one +several):\n%s", diff)
			}
			if test.batches != nil {
				return
			}
			if diff := cmp.Diff(got, updated(spec, test.l, test.samples), cmp.AllowUnexported(result{})); diff != "" {
				t.Errorf("a second time:\n%s", diff)
			}
		})
	}
}
