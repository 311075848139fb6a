package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// figure is one line of `gradus bench --output json`.
type figure struct {
	Bench string  `json:"bench"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  float64 `json:"goal"`
	OK    bool    `json:"ok"`
}

func (f figure) print(w io.Writer, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(f)
	}
	mark := "ok"
	if !f.OK {
		mark = "short of"
	}
	_, err := fmt.Fprintf(w, "%-28s %12.2f %-14s %s goal %g\n", f.Bench, f.Value, f.Unit, mark, f.Goal)
	return err
}

func benchCommand(t *target) *cobra.Command {
	return &cobra.Command{
		Use:       "bench NAME",
		Short:     "Measure: orchestration",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"orchestration"},
		RunE: func(cmd *cobra.Command, args []string) error {
			given, err := planInput("grpo", []string{"steps=40"})
			if err != nil {
				return err
			}
			given["seed"] = []byte("1")
			d, err := t.demo(cmd.Context(), given, cmd.ErrOrStderr(), io.Discard)
			if err != nil {
				return err
			}
			for _, f := range []figure{
				{"orchestration/share", d.OrchestrationShare, "of step time", 0.05, d.OrchestrationShare <= 0.05},
				{"orchestration/per-step", d.OrchestrationMS, "ms", 60, d.OrchestrationMS <= 60},
				{"orchestration/history-bytes", d.HistoryBytesPerStep, "bytes/step", 10240, d.HistoryBytesPerStep <= 10240},
				{"orchestration/history-events", d.HistoryEventsPerStep, "events/step", 60, d.HistoryEventsPerStep <= 60},
			} {
				if err := f.print(cmd.OutOrStdout(), t.output); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
