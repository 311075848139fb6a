package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// demoFigures is the last line of `gradus demo --output json`.
type demoFigures struct {
	Seed                 uint64  `json:"seed"`
	PassAt1Before        float64 `json:"pass_at_1_before"`
	PassAt1After         float64 `json:"pass_at_1_after"`
	PassAt8After         float64 `json:"pass_at_8_after"`
	GreedyBefore         float64 `json:"greedy_before"`
	GreedyAfter          float64 `json:"greedy_after"`
	WarmSteps            int     `json:"warm_steps"`
	RunSeconds           float64 `json:"run_seconds"` // everything after the build: stack, problems, warm-up, evaluations, training
	TrainSeconds         float64 `json:"train_seconds"`
	Steps                int     `json:"steps"`
	Completions          int64   `json:"completions"`
	Tokens               int64   `json:"tokens"`
	TokensTrained        int64   `json:"tokens_trained"`
	CurriculumShare      float64 `json:"curriculum_share"` // of the training time: proposing, assessing, responding and selecting, with their tables' way to and from the store
	OrchestrationShare   float64 `json:"orchestration_share"`
	OrchestrationMS      float64 `json:"orchestration_ms_per_step"`
	HistoryBytesPerStep  float64 `json:"history_bytes_per_step"`
	HistoryEventsPerStep float64 `json:"history_events_per_step"`
	PeakRSSMB            float64 `json:"peak_rss_mb"`
	WeightsSHA256        string  `json:"weights_sha256"`
}

func demoCommand(t *target) *cobra.Command {
	var seed uint64
	var steps int
	cmd := &cobra.Command{
		Use:   "demo [key=value …]",
		Short: "Train a small policy end to end on this machine",
		RunE: func(cmd *cobra.Command, args []string) error {
			given, err := planInput("grpo", args)
			if err != nil {
				return err
			}
			given["seed"] = fmt.Appendf(nil, "%d", seed)
			if steps > 0 {
				given["steps"] = fmt.Appendf(nil, "%d", steps)
			}
			figures, err := t.demo(cmd.Context(), given, cmd.ErrOrStderr(), cmd.OutOrStdout())
			if err != nil {
				return err
			}
			if t.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(figures)
			}
			return nil
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 1, "seed of all randomness")
	cmd.Flags().IntVar(&steps, "steps", 0, "training steps (default: the recipe's)")
	return cmd
}

// demo runs one experiment on a worker of its own. Its figures are those of real
// work: nothing is reused unless the user says so.
func (t *target) demo(ctx context.Context, given map[string]json.RawMessage, progress, out io.Writer) (f demoFigures, err error) {
	if _, ok := given["reuse"]; !ok {
		given["reuse"] = json.RawMessage("false")
	}
	log, file, err := t.fileLog()
	if err != nil {
		return f, err
	}
	defer file.Close()
	c, err := t.connect(ctx, true, progress, log)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.checkSpace(); err != nil {
		return f, err
	}
	begin := time.Now()
	w, err := worker.Start(c.client, c.store, worker.Options{Namespace: t.namespace, Log: log})
	if err != nil {
		return f, err
	}
	defer w.Stop()
	run, err := launch(ctx, c.client, workflows.QueueAll, "demo-"+stamp(), given)
	if err != nil {
		return f, err
	}
	result, err := follow(ctx, c, run.GetID(), progress)
	if errors.Is(err, context.Canceled) {
		return f, fmt.Errorf("interrupted; `gradus dev` lets run %s go on", run.GetID())
	}
	if err != nil {
		return f, err
	}
	f = demoFigures{
		PassAt1Before: result.Before.All.PassAt1, PassAt1After: result.After.All.PassAt1, PassAt8After: result.After.All.PassAt8,
		GreedyBefore: result.Before.All.Greedy, GreedyAfter: result.After.All.Greedy,
		WarmSteps: result.WarmSteps, RunSeconds: time.Since(begin).Seconds(), TrainSeconds: result.TrainSeconds, Steps: result.Steps,
		Completions: result.Completions, Tokens: result.Tokens, TokensTrained: result.Trained,
		CurriculumShare:    result.Curriculum / max(result.TrainSeconds, 1e-9),
		OrchestrationShare: result.Orchestration / max(result.TrainSeconds, 1e-9), OrchestrationMS: 1000 * result.Orchestration / float64(max(1, result.Steps)),
	}
	if f.Seed, err = strconv.ParseUint(string(given["seed"]), 10, 64); err != nil {
		return f, err
	}
	h, err := history(ctx, c.client, run.GetID(), "")
	if err != nil {
		return f, err
	}
	f.HistoryEventsPerStep, f.HistoryBytesPerStep = h.events/h.steps, h.bytes/h.steps
	f.PeakRSSMB = memoryMB(os.Getpid(), "VmHWM")
	if c.stack != nil {
		f.PeakRSSMB += memoryMB(c.stack.PID, "VmHWM")
	}
	manifest, err := policy.LoadManifest(ctx, c.store, result.Policy)
	if err != nil {
		return f, err
	}
	f.WeightsSHA256 = manifest.Files["model.safetensors"].Hash
	if t.output != "json" {
		fmt.Fprintln(out)
		table(out, result.Before, result.After)
		fmt.Fprintf(out, "\n%d completions, %d tokens generated, %d trained on, in %.0f s of training (%.1f %% of it orchestration, %.1f %% choosing problems, completions and tokens)\n",
			f.Completions, f.Tokens, f.TokensTrained, f.TrainSeconds, 100*f.OrchestrationShare, 100*f.CurriculumShare)
		if line := result.Reused.String(); line != "" {
			fmt.Fprintln(out, line)
		}
		fmt.Fprintf(out, "policy  %s\nevery completion, with the reason why it was trained on or not: %s\n", result.Policy, filepath.Join(t.dir, "s3"))
		fmt.Fprintf(out, "look around: `go run ./cmd/gradus dev`, then the Temporal UI it names, run %s\n", run.GetID())
	}
	return f, nil
}

// history is what one execution of a run has left in its history; part is its
// run ID, "" the latest.
func history(ctx context.Context, c client.Client, id, part string) (stretch, error) {
	var e stretch
	d, err := c.DescribeWorkflowExecution(ctx, id, part)
	if err != nil {
		return e, fmt.Errorf("describe run: %w", err)
	}
	e.bytes = float64(d.WorkflowExecutionInfo.HistorySizeBytes)
	for i := c.GetWorkflowHistory(ctx, id, part, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
		event, err := i.Next()
		if err != nil {
			return e, fmt.Errorf("read history: %w", err)
		}
		e.events++
		if event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "Update" {
			e.steps++
		}
	}
	e.steps = max(1, e.steps)
	return e, nil
}

// memoryMB is a process's resident memory in MB, where Linux tells it: VmRSS for
// what it is, VmHWM for the most it was.
func memoryMB(pid int, which string) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), which+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err == nil {
				return kb / 1024
			}
		}
	}
	return 0
}
