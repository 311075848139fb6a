package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/policy"
)

// memoryOptions are the flags of plan-memory.
type memoryOptions struct {
	demand                policy.Demand
	dtype, backend, limit string
}

// memoryReport is what plan-memory says, in bytes.
type memoryReport struct {
	Parameters int64 `json:"parameters"`
	policy.MemoryPlan
	Limit  int64 `json:"limit,omitempty"`
	Tokens int   `json:"max_tokens_per_micro_batch,omitempty"` // the largest that fits the limit
}

func memoryCommand(t *target) *cobra.Command {
	o := memoryOptions{demand: policy.Demand{Learning: policy.DefaultLearning()}}
	c := &cobra.Command{
		Use:   "plan-memory MODEL",
		Short: "Say how much memory a model and a batch need",
		Long: "Say how much memory a model and a batch need, for the update and for generating apart.\n" +
			"MODEL is a Hugging Face folder (its config.json is enough), or one of " + strings.Join(slices.Sorted(maps.Keys(policy.Workloads())), ", ") + ".\n" +
			"Where the device is the CPU, what the host holds comes on top of it.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.checkOutput(); err != nil {
				return err
			}
			return o.report(args[0], t.output, cmd.OutOrStdout())
		},
	}
	f := c.Flags()
	d := &o.demand
	f.IntVar(&d.Prompts, "prompts", 32, "prompts of a step")
	f.IntVar(&d.Samples, "num-generations", 8, "completions of a prompt")
	f.IntVar(&d.PromptLength, "prompt-length", 0, "tokens of a prompt (default: 256, or half of a shorter context)")
	f.IntVar(&d.CompletionLength, "completion-length", 0, "tokens of a completion (default: the same)")
	f.IntVar(&d.Learning.Shards, "shards", 1, "gradient shards of a worker")
	f.IntVar(&d.Engines, "engines", 1, "engines that generate side by side")
	f.IntVar(&d.Learning.MaxTokensPerMicroBatch, "max-tokens-per-micro-batch", 0, "tokens of a micro-batch; 0 as small policies have it")
	f.BoolVar(&d.Learning.GradientCheckpointing, "gradient-checkpointing", false, "layers are computed again on the way back; xla alone")
	f.IntVar(&d.Learning.LoRARank, "lora-r", 0, "rank of the LoRA adapters; 0 updates all weights")
	f.StringVar(&o.dtype, "dtype", "float32", "of activations: float32, or bfloat16 as a lower estimate for xla:cuda,bf16, which keeps float32 between layers")
	f.StringVar(&o.backend, "backend", "go", "go, onnx or xla, with devices=4 after a comma for several: the plan is of the one that holds most")
	f.StringVar(&o.limit, "memory", "", "what the device has, such as 80GiB: says the largest micro-batch that fits, and fails where the plan does not")
	return c
}

func (o memoryOptions) report(model, output string, w io.Writer) error {
	d := o.demand
	switch o.dtype {
	case "float32":
		d.ActivationBytes = 4
	case "bfloat16":
		d.ActivationBytes = 2
	default:
		return fmt.Errorf("--dtype %q: want float32 or bfloat16", o.dtype)
	}
	if known, ok := policy.Workloads()[model]; ok {
		d.Config = known.Config
	} else {
		data, err := os.ReadFile(filepath.Join(model, policy.ConfigFile))
		if err != nil {
			return fmt.Errorf("model %q is no shape that is known, and no folder with a %s: %w", model, policy.ConfigFile, err)
		}
		if d.Config, err = policy.ReadConfig(data); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(model, policy.ConfigFile), err)
		}
	}
	for _, n := range []*int{&d.PromptLength, &d.CompletionLength} {
		if *n == 0 {
			*n = min(256, d.Config.MaxPositionEmbeddings/2)
		}
	}
	if err := d.Validate(); err != nil {
		return err
	}
	// What one place holds: the device, with the host's part where that is the same.
	total := func(p policy.Places) int64 { return p.Device.Total() }
	name, options, _ := strings.Cut(o.backend, ":")
	plugin, _, _ := strings.Cut(options, ",")
	d.Compiled = name == "xla"
	if err := policy.CheckBackend(o.backend); err != nil {
		return fmt.Errorf("--backend: %w", err)
	}
	d.Devices, _ = policy.Devices(o.backend) // checked
	switch {
	case d.Learning.GradientCheckpointing && !d.Compiled:
		return fmt.Errorf("--gradient-checkpointing: the backend %s does not do it; want xla", name)
	case name != "xla", plugin == "", plugin == "cpu":
		total = func(p policy.Places) int64 { return p.Device.Add(p.Host).Total() }
	}
	r := memoryReport{Parameters: d.Config.Parameters(), MemoryPlan: d.Plan()}
	var short error
	if o.limit != "" {
		limit, err := parseBytes(o.limit)
		if err != nil {
			return fmt.Errorf("--memory: %w", err)
		}
		r.Limit, r.Tokens = limit, d.Fit(limit, total)
		if need := max(total(r.Update), total(r.Generate)); need > limit {
			short = fmt.Errorf("the plan needs %s of %s; the largest max_tokens_per_micro_batch whose update fits is %d", gibibytes(need), gibibytes(limit), r.Tokens)
		}
	}
	if output == "json" {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
		return short
	}
	fmt.Fprintf(w, "%d parameters\n\n", r.Parameters)
	columns := []policy.Memory{r.Update.Device, r.Update.Host, r.Generate.Device, r.Generate.Host}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tupdate: device\thost\tgenerate: device\thost\t")
	for _, row := range []struct {
		name string
		get  func(policy.Memory) int64
	}{
		{"weights", func(m policy.Memory) int64 { return m.Weights }},
		{"gradients", func(m policy.Memory) int64 { return m.Gradients }},
		{"moments", func(m policy.Memory) int64 { return m.Moments }},
		{"activations", func(m policy.Memory) int64 { return m.Activations }},
		{"logits", func(m policy.Memory) int64 { return m.Logits }},
		{"KV cache", func(m policy.Memory) int64 { return m.Cache }},
		{"sum", policy.Memory.Total},
	} {
		fmt.Fprintf(tw, "%s\t", row.name)
		for _, m := range columns {
			fmt.Fprintf(tw, "%s\t", gibibytes(row.get(m)))
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.Limit > 0 && short == nil {
		fmt.Fprintf(w, "\nfits %s; the largest max_tokens_per_micro_batch whose update does is %d\n", gibibytes(r.Limit), r.Tokens)
	}
	return short
}

func gibibytes(n int64) string { return fmt.Sprintf("%.3f GiB", float64(n)/(1<<30)) }

// parseBytes reads a size such as 80GiB, 24GB or 512MiB.
func parseBytes(s string) (int64, error) {
	for _, u := range []struct {
		suffix string
		bytes  float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"GB", 1e9}, {"MB", 1e6}} {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n > 0 && n <= 1e9) {
			break
		}
		return int64(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q: want a size such as 80GiB, 24GB or 512MiB", s)
}
