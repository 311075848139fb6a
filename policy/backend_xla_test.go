//go:build xla

package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pluginOfCPU is the PJRT plugin that GRADUS_PJRT_PLUGIN names. Its memory is kept apart
// from the host's, as a GPU's is.
func pluginOfCPU(t *testing.T) string {
	plugin := os.Getenv("GRADUS_PJRT_PLUGIN")
	if plugin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("GRADUS_PJRT_PLUGIN is not set, want the path of a PJRT plugin for the CPU")
		}
		t.Skip("GRADUS_PJRT_PLUGIN is not set")
	}
	return "xla:" + plugin + ",shared_buffers=false"
}

// Compiling takes most of the time: two models show all that differs.
func TestXLAAgreesWithGo(t *testing.T) {
	defer func(n int) { readFloats = n }(readFloats)
	readFloats = 100 // several pieces
	agreesWithGo(t, pluginOfCPU(t), DefaultLearning(), "grouped", "qwen3")
}

func TestCheckpointingAgreesWithGo(t *testing.T) {
	l := DefaultLearning()
	l.GradientCheckpointing = true
	agreesWithGo(t, pluginOfCPU(t), l, "one layer", "tied")
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
