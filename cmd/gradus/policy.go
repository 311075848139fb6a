package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
)

func policyCommand(t *target) *cobra.Command {
	cmd := family("policy", "Bring policies into the store and out of it")
	var format policy.Format
	adapter, optimizer := false, false
	export := &cobra.Command{
		Use:   "export REF|RUN FOLDER",
		Short: "Write a policy, or the newest of a run, as a Hugging Face folder, LoRA adapters merged",
		Args:  cobra.ExactArgs(2),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			ref, err := datasets.ParseRef(args[0])
			if err != nil {
				last, _, _, failed := activities.LoadStep(ctx, s, recipes.Origin{Run: args[0]})
				if failed != nil {
					return fmt.Errorf("policy %q is neither a Ref, as the last line of a run and of gradus status RUN has it, nor a run: %w", args[0], failed)
				}
				ref = last.Policy
				fmt.Fprintf(cmd.ErrOrStderr(), "policy %s, after %d steps of run %s\n", ref, last.Step+1, args[0])
			}
			load := policy.LoadModel
			if adapter || optimizer {
				load = policy.LoadState
			}
			state, err := load(ctx, s, ref)
			switch {
			case err != nil:
				return fmt.Errorf("policy %s: %w", ref, err)
			case adapter:
				return policy.WriteAdapter(args[1], state)
			case optimizer:
				state.Merge()
			default:
				state = state.ForInference()
			}
			return policy.WriteDirAs(args[1], state, format)
		}),
	}
	export.Flags().StringVar((*string)(&format.DType), "dtype", string(policy.Float32), "of the weights: float32 or bfloat16")
	export.Flags().BoolVar(&adapter, "adapter", false, "write the LoRA adapter alone, in PEFT's layout")
	export.Flags().BoolVar(&optimizer, "optimizer", false, "with the optimizer's state, which an import goes on with (vLLM and SGLang cannot load such a folder)")
	export.MarkFlagsMutuallyExclusive("adapter", "optimizer")
	cmd.AddCommand(export, &cobra.Command{
		Use:   "import FOLDER",
		Short: "Read a Hugging Face folder into the store and print its Ref",
		Args:  cobra.ExactArgs(1),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			ref, err := importPolicy(ctx, s, args[0])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), ref)
			}
			return err
		}),
	})
	return cmd
}

func importPolicy(ctx context.Context, s datasets.Store, folder string) (datasets.Ref, error) {
	state, err := policy.ReadDir(folder)
	if err != nil {
		return datasets.Ref{}, err
	}
	ref, err := policy.SaveState(ctx, s, state, datasets.Lineage{Stage: "policy.import", Version: 1})
	if err != nil {
		return datasets.Ref{}, err
	}
	record, err := datasets.Canonical(ref) // as nothing else may name the policy for a long time
	if err != nil {
		return datasets.Ref{}, err
	}
	return ref, s.Put(ctx, "policies/"+ref.Hash+".json", record)
}

// storePolicy replaces a folder given as "policy" by the Ref of its import.
func storePolicy(ctx context.Context, s datasets.Store, given map[string]json.RawMessage) error {
	var folder string
	if json.Unmarshal(given["policy"], &folder) != nil {
		return nil // absent or no text: for Resolve to judge
	}
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		if folder == "" {
			return nil
		}
		_, err := policy.ParseRef(folder)
		return err
	}
	ref, err := importPolicy(ctx, s, folder)
	if err != nil {
		return err
	}
	given["policy"] = quote(ref.String())
	return nil
}
