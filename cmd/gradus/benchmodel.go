package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/policy"
)

// modelBenchCommand measures one model shape on one backend and prints the
// figures as JSON; bench/gpu.sh sets them beside PyTorch's.
func modelBenchCommand() *cobra.Command {
	var backend string
	var rounds int
	l := policy.DefaultLearning()
	var w policy.Workload
	c := &cobra.Command{
		Use:   "model SHAPE",
		Short: "Update, generation and their agreement for a model shape with random weights, as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, ok := policy.Workloads()[args[0]]
			if !ok {
				return fmt.Errorf("model %q: want %s", args[0], strings.Join(slices.Sorted(maps.Keys(policy.Workloads())), ", "))
			}
			for _, f := range []struct{ given, known *int }{
				{&w.Prompts, &known.Prompts}, {&w.Samples, &known.Samples},
				{&w.PromptLength, &known.PromptLength}, {&w.CompletionLength, &known.CompletionLength},
			} {
				if *f.given > 0 {
					*f.known = *f.given
				}
			}
			b, err := policy.OpenBackend(backend)
			if err != nil {
				return err
			}
			m, err := policy.Measure(cmd.Context(), b, known, rounds, l)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(m)
		},
	}
	f := c.Flags()
	f.StringVar(&backend, "backend", "go", "go, onnx or xla")
	f.IntVar(&rounds, "rounds", 5, "of which the best counts")
	f.IntVar(&l.MaxTokensPerMicroBatch, "max-tokens-per-micro-batch", 0, "tokens of a micro-batch; 0 as small policies have it")
	f.BoolVar(&l.GradientCheckpointing, "gradient-checkpointing", false, "layers are computed again on the way back; xla alone")
	f.IntVar(&w.Prompts, "prompts", 0, "prompts; 0 as the shape has it, and so below")
	f.IntVar(&w.Samples, "num-generations", 0, "completions of a prompt")
	f.IntVar(&w.PromptLength, "prompt-length", 0, "tokens of a prompt")
	f.IntVar(&w.CompletionLength, "completion-length", 0, "tokens of a completion")
	return c
}
