package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/ledger"
)

func whyCommand(t *target) *cobra.Command {
	var run string
	cmd := &cobra.Command{
		Use:   "why PROBLEM --run RUN",
		Short: "Print a problem's history in a run: when and how it was posed, what was learnt from, what not and why",
		Args:  cobra.ExactArgs(1),
		RunE: t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, args []string) error {
			r, err := ledger.Open(ctx, s, run)
			if err != nil {
				return err
			}
			h, err := ledger.Why(ctx, r, args[0])
			if err != nil {
				return err
			}
			if t.output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetEscapeHTML(false)
				return e.Encode(h)
			}
			printHistory(cmd.OutOrStdout(), h)
			return nil
		}),
	}
	cmd.Flags().StringVar(&run, "run", "", "the run")
	if err := cmd.MarkFlagRequired("run"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func printHistory(out io.Writer, h *ledger.History) {
	fmt.Fprintf(out, "problem %s (%s, level %d) in run %s\n", h.Problem, h.Source, h.Level, h.Run)
	fmt.Fprintf(out, "  prompt  %s\n  answer  %s\n", oneLine(h.Prompt), oneLine(h.Answer))
	if len(h.Visits) == 0 {
		fmt.Fprintf(out, "never posed in %d steps\n", h.Steps)
		return
	}
	fmt.Fprintf(out, "posed in %d of %d steps; now %s\n", len(h.Visits), h.Steps, h.State)
	for _, v := range h.Visits {
		fmt.Fprintf(out, "\nstep %d: %s → %s\n", v.Step, v.Before, v.After)
		for _, p := range v.Posed {
			form := p.Origin
			if p.HintLevel > 0 {
				form += fmt.Sprintf(", hint level %d", p.HintLevel)
			}
			fmt.Fprintf(out, "  %s, group %d: %s\n", form, p.Group, oneLine(p.Prompt))
			for _, c := range p.Completions {
				fate := "trained on"
				switch {
				case !c.Kept:
					fate = c.Reason
				case c.TokensKept < int32(c.Tokens):
					fate = fmt.Sprintf("trained on, %d of %d tokens", c.TokensKept, c.Tokens)
				}
				fmt.Fprintf(out, "    #%d %s, reward %.3g, advantage %+.3g, %s: %s\n", c.Sample, c.Verdict, c.Reward, c.Advantage, fate, oneLine(c.Text))
			}
			fmt.Fprintf(out, "    %d of %d completions and %d of %d tokens kept%s%s\n", p.Kept, len(p.Completions), p.TokensKept, p.Tokens,
				counts("; completions left out", p.Reasons), counts("; tokens left out", p.TokenReasons))
		}
		switch {
		case v.LeftOut != "":
			fmt.Fprintf(out, "  not learnt from: %s\n", v.LeftOut)
		case v.Trained == 0:
			fmt.Fprintln(out, "  nothing of it was learnt from")
		case v.Trained != v.Step:
			fmt.Fprintf(out, "  learnt from in step %d, with the batch that was full then\n", v.Trained)
		}
	}
}

// counts lists reasons with their numbers.
func counts(title string, m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
	}
	if parts == nil {
		return ""
	}
	return title + ": " + strings.Join(parts, ", ")
}

// oneLine is a text as one line of at most 100 characters.
func oneLine(text string) string {
	return cut(strings.Join(strings.Fields(text), " "), 100)
}
