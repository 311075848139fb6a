//go:build xla

package policy

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// deterministic are the XLA flags that make a program on a GPU give the same
// bits every time on the same card: no sums in the order in which threads come,
// and no choice of kernels by how fast they were this time.
const deterministic = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"

// openXLA opens a PJRT plugin. Options are a plugin and what GoMLX's xla
// backend takes, and "deterministic":
//
//	cpu, or nothing     pjrt_c_api_cpu_plugin.so of a Python package, else what GoMLX's
//	                    installer has put there
//	cuda                JAX's wheel (jax-cuda13-plugin, jax-cuda12-plugin), else GoMLX's
//	/path/plugin.so     that file
//
// Nothing is downloaded. Products of float32 are not rounded to TF32 unless
// "tf32" says so: sampler and trainer would not agree with anyone else.
func openXLA(options string) (compute.Backend, error) {
	xla.EnableAutoInstall(false)
	plugin, rest, _ := strings.Cut(options, ",")
	var given []string
	for option := range strings.SplitSeq(rest, ",") {
		switch flags := os.Getenv("XLA_FLAGS"); {
		case option == "":
		case option != "deterministic":
			given = append(given, option)
		case !strings.Contains(flags, deterministic): // XLA reads its flags once in a process
			if err := os.Setenv("XLA_FLAGS", strings.TrimSpace(flags+" "+deterministic)); err != nil {
				return nil, err
			}
		}
	}
	if plugin == "" {
		plugin = "cpu"
	}
	if find, ok := plugins[plugin]; ok {
		if found := find(sitePackages()); found != "" {
			plugin = found
		}
	}
	if filepath.IsAbs(plugin) {
		if err := checkPlugin(plugin); err != nil {
			return nil, err
		}
	}
	if strings.Contains(strings.ToLower(plugin), "cuda") {
		if err := checkDriver("/"); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(given, func(o string) bool { return strings.HasPrefix(o, "tf32") || o == "notf32" }) {
			given = append(given, "tf32=false")
		}
		if toolkit := cudaToolkit(plugin); toolkit != "" && !strings.Contains(os.Getenv("XLA_FLAGS"), "xla_gpu_cuda_data_dir") {
			if err := os.Setenv("XLA_FLAGS", strings.TrimSpace(os.Getenv("XLA_FLAGS")+" --xla_gpu_cuda_data_dir="+toolkit)); err != nil {
				return nil, err
			}
		}
	}
	b, err := compute.NewWithConfig("xla:" + strings.Join(append([]string{plugin}, given...), ","))
	if err != nil {
		return nil, fmt.Errorf("open PJRT plugin %s; want a path, jax-cuda13-plugin (or lammps-jax-pjrt-cpu, for the CPU) in a Python environment, or a plugin in PJRT_PLUGIN_LIBRARY_PATH or ~/.local/lib/go-xla: %w", plugin, err)
	}
	return b, nil
}

// sitePackages are the folders of Python packages that may hold JAX, the
// nearest first.
func sitePackages() []string {
	var found []string
	add := func(patterns ...string) {
		for _, p := range patterns {
			matches, _ := filepath.Glob(p) // the only error is a pattern that is none
			slices.Reverse(matches)        // the newest Python first
			found = append(found, matches...)
		}
	}
	found = append(found, filepath.SplitList(os.Getenv("PYTHONPATH"))...)
	for _, root := range []string{os.Getenv("VIRTUAL_ENV"), os.Getenv("CONDA_PREFIX")} {
		if root != "" {
			add(filepath.Join(root, "lib/python3*/site-packages"))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		add(filepath.Join(home, ".local/lib/python3*/site-packages"))
	}
	add("/usr/local/lib/python3*/site-packages", "/usr/local/lib/python3*/dist-packages", "/usr/lib/python3*/site-packages",
		"/usr/lib/python3/dist-packages", "/opt/*/lib/python3*/site-packages")
	return found
}

// plugins look for what a name stands for among Python's packages.
var plugins = map[string]func(folders []string) string{"cpu": cpuPlugin, "cuda": jaxPlugin}

// cpuPlugin is the CPU plugin of a package in one of the folders, such as
// lammps-jax-pjrt-cpu, or "".
func cpuPlugin(folders []string) string {
	for _, folder := range folders {
		if found, err := filepath.Glob(filepath.Join(folder, "*", "pjrt_c_api_cpu_plugin.so")); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// jaxPlugin is the CUDA plugin of JAX's wheel in one of the folders, or "".
func jaxPlugin(folders []string) string {
	for _, folder := range folders {
		for _, cuda := range []string{"xla_cuda13", "xla_cuda12"} {
			path := filepath.Join(folder, "jax_plugins", cuda, "xla_cuda_plugin.so")
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path
			}
		}
	}
	return ""
}

// cudaToolkit is the folder with ptxas and libdevice beside JAX's plugin, or "".
func cudaToolkit(plugin string) string {
	nvidia := filepath.Join(filepath.Dir(plugin), "..", "..", "nvidia")
	for _, folder := range []string{"cu13", "cuda_nvcc"} {
		if info, err := os.Stat(filepath.Join(nvidia, folder)); err == nil && info.IsDir() {
			return filepath.Join(nvidia, folder)
		}
	}
	return ""
}

// checkPlugin says why a file is no PJRT plugin.
func checkPlugin(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("PJRT plugin %s: want a shared library: %w", path, err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("PJRT plugin %s: %w", path, err)
	}
	if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == "GetPjrtApi" && s.Section != elf.SHN_UNDEF }) {
		return fmt.Errorf("PJRT plugin %s: the library has no GetPjrtApi; want a plugin such as xla_cuda_plugin.so of jax-cuda13-plugin", path)
	}
	return nil
}

// checkDriver says why CUDA cannot start, by what the driver puts under root.
func checkDriver(root string) error {
	devices, err := filepath.Glob(filepath.Join(root, "dev/nvidia[0-9]*"))
	if err != nil {
		return err
	}
	_, loaded := os.Stat(filepath.Join(root, "proc/driver/nvidia/version"))
	wsl, _ := filepath.Glob(filepath.Join(root, "dev/dxg")) // Windows' own driver
	switch {
	case len(devices) > 0 || len(wsl) > 0:
		return nil
	case loaded == nil:
		return errors.New("the NVIDIA driver is loaded, but there is no /dev/nvidia0: in a container, start it with its GPUs (--gpus all)")
	default:
		return errors.New("there is no NVIDIA driver: want /dev/nvidia0 and /proc/driver/nvidia/version, as nvidia-smi does")
	}
}
