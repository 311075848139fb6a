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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// pluginOfCPU is the PJRT plugin for the CPU among Python's packages. Its memory is kept
// apart from the host's, as a GPU's is.
func pluginOfCPU(t *testing.T) string {
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
// also where the device had gone on from what the host has.
func TestResidentStateComesBack(t *testing.T) {
	ctx, c := context.Background(), tinyModels["one layer"]
	w := tinyWeights(c, 5)
	b, err := OpenBackend(pluginOfCPU(t))
	if err != nil {
		t.Fatal(err)
	}
	trainer, err := NewTrainer(b, &State{Config: c, Weights: w})
	if err != nil {
		t.Fatal(err)
	}
	defer trainer.Close()
	good := testSamples(t, c, w, 1)[4]
	bad := good
	bad.OldLogProbs, bad.Advantages = slices.Repeat([]float32{-300}, len(bad.Completion)), slices.Repeat([]float32{-1}, len(bad.Completion))
	l := DefaultLearning()
	l.LearningRate, l.MiniBatchSize = 1e-2, 1
	before := must(trainer.State())
	for range 2 {
		if _, err := trainer.Update(ctx, []Sample{good, bad}, l); !errors.Is(err, ErrNotFinite) {
			t.Errorf("error %v, want %v", err, ErrNotFinite)
		}
		if diff := cmp.Diff(before, must(trainer.State())); diff != "" {
			t.Errorf("the state changed:\n%s", diff)
		}
		if _, err := trainer.Update(ctx, []Sample{good}, l); err != nil {
			t.Fatal(err)
		}
		after := must(trainer.State())
		if after.Step != before.Step+1 || cmp.Equal(before.Weights, after.Weights) {
			t.Errorf("step %d after %d, with other weights: %v", after.Step, before.Step, !cmp.Equal(before.Weights, after.Weights))
		}
		before = after
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
