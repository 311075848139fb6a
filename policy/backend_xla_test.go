//go:build xla

package policy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
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

// Supports of any size are those of the pure Go backend, where logits are equal, too, and
// where the sampled token is not among the likeliest; and one policy does not diverge
// from itself.
func TestXLAInspectsAsGo(t *testing.T) {
	defer func(n int) { readFloats = n }(readFloats)
	readFloats = 100 // several pieces
	ctx, c := context.Background(), tinyModels["untied"]
	w, rows := tinyWeights(c, 7), raggedRows(c, 3)
	for head := w[len(w)-1]; len(head.Data) > 0; head.Data = head.Data[min(len(head.Data), 2*c.HiddenSize):] {
		clear(head.Data[:c.HiddenSize]) // every other logit is 0
	}
	reference, e := newTestEngine(t, c, w), newEngineOn(t, pluginOfCPU(t), c, w)
	for _, o := range []InspectOptions{{TopK: 1}, {TopK: 3, Hidden: true}, {TopK: 8}, {TopK: 1000}} {
		want, got := must(reference.Inspect(ctx, rows, 0.8, o)), must(e.Inspect(ctx, rows, 0.8, o))
		approximately := cmpopts.EquateApprox(1e-4, 1e-5)
		if diff := cmp.Diff(want, got, approximately); diff != "" {
			t.Errorf("top %d (-go +xla):\n%s", o.TopK, diff)
		}
		for i, same := range must(e.Divergence(ctx, rows, got, 0.8)) {
			closeTo(t, fmt.Sprintf("top %d, row %d divergence", o.TopK, i), same, make([]float64, len(same)), 1e-13)
		}
		uneven := append(got[:1:1], must(e.Inspect(ctx, rows[1:], 0.8, InspectOptions{TopK: 2}))...)
		wantKL, gotKL := must(reference.Divergence(ctx, rows, uneven, 1.1)), must(e.Divergence(ctx, rows, uneven, 1.1))
		if diff := cmp.Diff(wantKL, gotKL, approximately); diff != "" {
			t.Errorf("top %d and 2, diverged (-go +xla):\n%s", o.TopK, diff)
		}
	}
}

func TestXLADivergenceByHand(t *testing.T) {
	spec := pluginOfCPU(t)
	divergenceByHand(t, func(t testing.TB, c Config, w Weights) *Engine { return newEngineOn(t, spec, c, w) })
}

// The device chooses as the host does, from vocabularies of one block and of many.
func TestXLASupport(t *testing.T) {
	b, device := openDevice(t, pluginOfCPU(t))
	for _, size := range []struct{ vocabulary, k int }{{1, 1}, {2, 1}, {7, 7}, {100, 1}, {100, 3}, {1000, 16}, {1000, 400}} {
		const n = 40
		rng := rand.New(rand.NewPCG(uint64(size.vocabulary), uint64(size.k)))
		logits, sampled := make([]float32, size.vocabulary*n), make([]int32, n)
		for i := range logits { // column by column more of one size
			logits[i] = float32(rng.IntN(2+i%n)) - float32(i%n/2)
			if logits[i] == 0 && rng.IntN(2) == 0 {
				logits[i] = float32(math.Copysign(0, -1))
			}
		}
		for i := range sampled {
			sampled[i] = int32(rng.IntN(size.vocabulary))
		}
		d := b.decoder(Config{VocabSize: size.vocabulary}, false)
		p, err := newProgram(device, "support", func(in []*graph.Node) []*graph.Node {
			return []*graph.Node{d.support(in[0], in[1], size.k)}
		})
		if err != nil {
			t.Fatal(err)
		}
		u := &uploads{device: device}
		put(u, logits, size.vocabulary, n)
		put(u, sampled, 1, n)
		out, err := p.call(u.list)
		if err != nil || u.err != nil {
			t.Fatal(err, u.err)
		}
		got, ids := must(tensors.CopyFlatData[int32](out[0])), make([]int32, size.k)
		heap, all := make([]int32, size.vocabulary), make([]float64, size.vocabulary)
		for i := range n {
			column(ids, got, i)
			column(all, logits, i)
			if want := likeliest(heap, all, size.k, sampled[i]); !slices.Equal(ids, want) {
				t.Errorf("top %d of %d with %d: %v, want %v", size.k, size.vocabulary, sampled[i], ids, want)
			}
		}
		release(append(out, u.list...)...)
	}
}

func TestXLAInspectErrors(t *testing.T) {
	c := tinyModels["untied"]
	w := tinyWeights(c, 5)
	for head, j := w[len(w)-1].Data, 0; j < len(head); j++ {
		head[j] = math.MaxFloat32
	}
	e := newEngineOn(t, pluginOfCPU(t), c, w)
	_, err := e.Inspect(context.Background(), []Row{{[]int32{1}, []int32{2, 3}}}, 1, InspectOptions{TopK: 2})
	if want := "row 0, token 0: the logits are no distribution"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// What is no number in one piece of the columns stays there.
func TestXLAReadsPiecesApart(t *testing.T) {
	defer func(n int) { readFloats = n }(readFloats)
	readFloats = 1 // as many pieces as columns
	b, device := openDevice(t, pluginOfCPU(t))
	d := b.decoder(Config{VocabSize: 3}, false)
	p, err := newProgram(device, "read", func(in []*graph.Node) []*graph.Node {
		logprob, entropy := d.read(in[0], in[1], in[2], nil)
		return []*graph.Node{logprob, entropy}
	})
	if err != nil {
		t.Fatal(err)
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	u := &uploads{device: device}
	put(u, []float32{1, 2, 3}, 3, 1)
	put(u, []float32{nan, 0, inf, 0}, 1, 4)
	put(u, []int32{0, 1, 2, 0}, 4)
	out, err := p.call(u.list)
	if err != nil || u.err != nil {
		t.Fatal(err, u.err)
	}
	for _, x := range out {
		for i, got := range must(read(x)) {
			if finite(float64(got)) != (i%2 == 1) {
				t.Errorf("column %d: %v", i, got)
			}
		}
	}
	release(append(out, u.list...)...)
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
