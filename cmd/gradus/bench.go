package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gradus-rl/gradus/chaos"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/reward"
	"github.com/gradus-rl/gradus/sampling"
	"github.com/gradus-rl/gradus/simulate"
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
	cmd := family("bench", "Measure, and compare with the goal")
	add := func(name, short string, measure func(context.Context, *cobra.Command) ([]figure, error)) *pflag.FlagSet {
		c := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.checkOutput(); err != nil {
				return err
			}
			figures, err := measure(cmd.Context(), cmd)
			for _, f := range figures {
				err = errors.Join(err, f.print(cmd.OutOrStdout(), t.output))
			}
			return err
		}}
		cmd.AddCommand(c)
		return c.Flags()
	}
	add("orchestration", "What the workflow costs beside the stages' own work", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return t.benchOrchestration(ctx, c.ErrOrStderr())
	})
	var backend string
	add("policy", "Update and sampling of the policy", func(ctx context.Context, _ *cobra.Command) ([]figure, error) {
		return benchPolicy(ctx, backend)
	}).StringVar(&backend, "backend", "go", "go, onnx or xla")
	cmd.AddCommand(modelBenchCommand())
	add("select", "The stages that select samples and tokens", func(ctx context.Context, _ *cobra.Command) ([]figure, error) {
		return benchSelect(ctx)
	})
	var cases string
	f := add("verifier", "The verifier of mathematical answers, on one core, or beside another one", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		if cases != "" {
			return benchAgreement(ctx, cases, c.ErrOrStderr())
		}
		return benchVerifier(ctx)
	})
	f.StringVar(&cases, "cases", "", "a file of another verifier's cases to agree with: JSON objects with gold, pred, expected (0 or 1) and perhaps precision (decimals)")

	var o claimsOptions
	f = add("claims", "Race the recipes against each other for what their papers claim", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		if o.Quick {
			o.Seeds, o.TuningSeeds = min(o.Seeds, 2), 0
		}
		return nil, t.benchClaims(ctx, o, c.ErrOrStderr())
	})
	f.StringSliceVar(&o.names, "claim", nil, claimNames()+" (default all)")
	f.IntVar(&o.Seeds, "seeds", 10, "paired seeds")
	f.IntVar(&o.TuningSeeds, "tuning-seeds", 2, "seeds that each setting is tuned on; 0 takes the first setting")
	f.IntVar(&o.Parallel, "parallel", 2, "runs at once, a core each")
	f.BoolVar(&o.Quick, "quick", false, "a smoke run of minutes")
	f.StringVar(&o.out, "out", ".", "folder for CLAIMS.md, claims.json, claims.arrow and the pictures")

	var seed uint64
	schedules, parallel := 0, 0
	f = add("simulate", "Experiments on a store and a fleet that fail in every way, in the test environment", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return benchSimulate(ctx, seed, schedules, parallel, c.ErrOrStderr())
	})
	f.IntVar(&schedules, "schedules", 1000, "schedules of faults, a run each")
	f.Uint64Var(&seed, "seed", 1, "of the first schedule; the next ones count up")
	f.IntVar(&parallel, "parallel", 1, "schedules at once, a core each")

	var fire chaos.Options
	f = add("chaos", "Experiments under real faults on real servers", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return benchChaos(ctx, fire, t.output == "text", c.OutOrStdout(), c.ErrOrStderr())
	})
	f.Float64Var(&fire.Minutes, "minutes", 3, "how long faults are thrown")
	f.DurationVar(&fire.Every, "every", 5*time.Second, "time between two faults")
	f.Uint64Var(&fire.Seed, "seed", 1, "of the experiments and the faults")
	f.StringSliceVar(&fire.Only, "fault", nil, strings.Join(chaos.Kinds(), ", ")+" (default all)")
	f.StringSliceVar(&fire.Plan, "set", nil, "key=value over the experiment's plan")

	steps := 0
	add("steps", "A long experiment of instant stages: history, memory, time to resume", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return benchSteps(ctx, steps, c.ErrOrStderr())
	}).IntVar(&steps, "steps", 10000, "training steps")

	var fleet fleetOptions
	f = add("fleet", "A fleet of simulated rollout workers with stragglers", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return benchFleet(ctx, fleet, c.ErrOrStderr())
	})
	f.IntVar(&fleet.workers, "workers", 200, "simulated rollout workers")
	f.IntVar(&fleet.shards, "shards", 400, "shards of a step")
	f.IntVar(&fleet.steps, "steps", 3, "steps, with and without a second issue each")
	f.DurationVar(&fleet.median, "shard", 10*time.Second, "time that the median shard takes")
	f.Float64Var(&fleet.factor, "speculate", 2, "times the median after which a shard is issued again")

	add("overlap", "What drawing ahead gains and costs", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return t.benchOverlap(ctx, c.ErrOrStderr())
	})

	rows, rollouts, problems := 0, 0, 0
	var against others
	f = add("data", "Import of problems, JSON lines to Arrow, and the near-duplicate pass of a preparation", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		figures, err := benchData(ctx, rows, rollouts, against, c.ErrOrStderr())
		if err != nil {
			return figures, err
		}
		pass, err := benchDeduplicate(problems)
		return append(figures, pass...), err
	})
	f.StringSliceVar(&against.names, "against", []string{"polars", "duckdb"}, "libraries of Python that read the same JSON lines; what is not installed is left out")
	f.StringVar(&against.python, "python", "python3", "the Python that has them")
	f.IntVar(&problems, "duplicates", 100_000, "problems of the near-duplicate pass; 1000000 is the full size")
	f.IntVar(&rows, "rows", 200_000, "problems to import; 5000000 is the full size")
	f.IntVar(&rollouts, "rollouts", 20_000, "rollouts to read; 230000 is the full size")
	add("store", "Rollouts through the S3 store, against raw objects", func(ctx context.Context, c *cobra.Command) ([]figure, error) {
		return benchStore(ctx, rollouts, c.ErrOrStderr())
	}).IntVar(&rollouts, "rollouts", 20_000, "rollouts of a table")
	return cmd
}

// benchSimulate runs experiments that fail in every way by a seed, and says how many
// of them end otherwise than a calm one; that is an error. What fails is told on
// progress, a schedule each, with the seed that replays it.
func benchSimulate(ctx context.Context, seed uint64, schedules, parallel int, progress io.Writer) ([]figure, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what a schedule leaves is garbage
	r, err := simulate.Run(ctx, seed, schedules, parallel, func(d simulate.Divergence) {
		fmt.Fprintf(progress, "%s\n  faults: %s\n  %s\n  replay: gradus bench simulate --schedules 1 --seed %d\n", d.Schedule, d.Faults, d.Difference, d.Schedule.Seed)
	})
	fmt.Fprintf(progress, "%d schedules, %d faults: %s\n", r.Schedules, r.Faults.Total(), r.Faults)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && r.Divergences > 0 {
		err = fmt.Errorf("%d of %d schedules diverge from their calm runs", r.Divergences, r.Schedules)
	}
	return []figure{
		atMost("simulate/divergences", float64(r.Divergences), "schedules", 0),
		atLeast("simulate/schedules-per-second", float64(r.Schedules)/max(r.Seconds, 1e-9), "1/s", 100*float64(parallel)),
	}, err
}

// selectGoals are items a second on one core.
var selectGoals = map[string]float64{
	"select/max-variance-group": 100e6, "select/max-variance-batch": 30e6, "select/token-topk": 200e6,
	"select/group-advantage": 300e6, "select/capo-sgd": 10e6,
}

// benchSelect measures the selecting stages.
func benchSelect(ctx context.Context) ([]figure, error) {
	measured, err := sampling.Bench(ctx)
	if err != nil {
		return nil, err
	}
	var out []figure
	for _, m := range measured {
		out = append(out, atLeast(m.Name, m.PerSecond, "items/s", selectGoals[m.Name]))
	}
	return out, nil
}

// benchVerifier measures the verifier of mathematical answers on one core.
func benchVerifier(ctx context.Context) ([]figure, error) {
	measured, err := reward.Bench(ctx)
	if err != nil {
		return nil, err
	}
	return []figure{
		atLeast("verifier/numeric", measured.Numeric, "answers/s", 200_000),
		atLeast("verifier/symbolic", measured.Symbolic, "answers/s", 20_000),
	}, nil
}

// benchAgreement judges another verifier's cases and tells of those that it judges
// otherwise.
func benchAgreement(ctx context.Context, path string, progress io.Writer) ([]figure, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	agreed, total, err := reward.Agreement(ctx, file, func(c reward.Case, v reward.Verdict) {
		fmt.Fprintf(progress, "%q for %q is %s, expected %d\n", c.Pred, c.Gold, v.Outcome, c.Expected)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if total == 0 {
		return nil, fmt.Errorf("%s: no cases, want JSON objects with gold, pred and expected (0 or 1)", path)
	}
	return []figure{
		atLeast("verifier/agreement", float64(agreed)/float64(total), fmt.Sprintf("of %d cases", total), 0.97),
	}, nil
}

// benchOrchestration runs the demo in a short form and says what the workflow
// costs beside the stages' own work.
func (t *target) benchOrchestration(ctx context.Context, progress io.Writer) ([]figure, error) {
	given, err := planInput("grpo", []string{"steps=60", "seed=1"})
	if err != nil {
		return nil, err
	}
	d, err := t.demo(ctx, given, progress, io.Discard)
	if err != nil {
		return nil, err
	}
	return []figure{
		atMost("orchestration/share", d.OrchestrationShare, "of step time", 0.05),
		atMost("orchestration/per-step", d.OrchestrationMS, "ms", 60),
		atMost("orchestration/history-bytes", d.HistoryBytesPerStep, "bytes/step", 10240),
		atMost("orchestration/history-events", d.HistoryEventsPerStep, "events/step", 60),
		atMost("orchestration/curriculum", d.CurriculumShare, "of step time", 0.03),
	}, nil
}

// benchPolicy measures update and sampling of the two models that the project
// keeps figures of.
func benchPolicy(ctx context.Context, backend string) ([]figure, error) {
	b, err := policy.OpenBackend(backend)
	if err != nil {
		return nil, err
	}
	suffix, update, sample := "", 3000.0, 2500.0
	if name, _, _ := strings.Cut(backend, ":"); name != "go" {
		suffix, update, sample = "-"+name, 18000, 8000
	}
	small, err := policy.Bench(ctx, b, policy.Workloads()["small"], 5)
	if err != nil {
		return nil, err
	}
	demo, err := policy.Bench(ctx, b, policy.Workloads()["demo"], 20)
	if err != nil {
		return nil, err
	}
	return []figure{
		atLeast("policy/update"+suffix, small.Update, "tokens/s", update),
		atLeast("policy/sample"+suffix, small.Sample, "tokens/s", sample),
		atLeast("policy/update-demo"+suffix, demo.Update, "tokens/s", 20000),
		atLeast("policy/sample-demo"+suffix, demo.Sample, "tokens/s", 30000),
	}, nil
}

func atLeast(name string, value float64, unit string, goal float64) figure {
	return figure{name, value, unit, goal, value >= goal}
}

func atMost(name string, value float64, unit string, goal float64) figure {
	return figure{name, value, unit, goal, value <= goal}
}
