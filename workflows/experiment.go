// Package workflows holds the Temporal workflows: order, loops, retries and
// what a run shows of itself. They are deterministic and thin: data stays in
// the store, and only Refs and small numbers pass through here.
package workflows

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
)

// Task queues, by the resource that their workers have. A run started on QueueAll
// stays there as a whole: its worker has every resource and gets activities with
// the answer to its own request, without a way over the other queues.
const (
	QueueAll     = "gradus"         // everything
	QueueCPU     = "gradus-cpu"     // workflows and short stages
	QueueRollout = "gradus-rollout" // generation
	QueueTrain   = "gradus-train"   // updates
)

// Queries of an experiment.
const (
	QueryStatus = "status"
	QueryPlan   = "plan"
)

// Search attributes of an experiment.
var (
	AttributeRecipe   = temporal.NewSearchAttributeKeyKeyword("GradusRecipe")
	AttributeProblems = temporal.NewSearchAttributeKeyKeyword("GradusProblems")
	AttributeState    = temporal.NewSearchAttributeKeyKeyword("GradusState")
	AttributeStep     = temporal.NewSearchAttributeKeyInt64("GradusStep")
	AttributePassRate = temporal.NewSearchAttributeKeyFloat64("GradusPassRate")
	AttributeFork     = temporal.NewSearchAttributeKeyKeyword("GradusFork") // ID of the run that it goes on from
)

// Attributes are the search attributes that a namespace must know.
func Attributes() []temporal.SearchAttributeKey {
	return []temporal.SearchAttributeKey{AttributeRecipe, AttributeProblems, AttributeState, AttributeStep, AttributePassRate, AttributeFork}
}

// acts names activities; it is never dereferenced.
var acts *activities.Activities

// Status is where an experiment stands; the answer to QueryStatus.
type Status struct {
	Phase   string                 `json:"phase"` // resolving, preparing, warming up, evaluating, training, paused, finished, stopped
	Recipe  string                 `json:"recipe"`
	Step    int                    `json:"step"` // steps done
	Steps   int                    `json:"steps"`
	Warm    int                    `json:"warm_steps"`     // optimizer steps of the warm-up
	Warmth  float64                `json:"warm_pass_rate"` // validation pass rate that the warm-up reached
	Recent  []StepSummary          `json:"recent"`         // newest last, a bounded number
	Before  *activities.Evaluation `json:"before,omitempty"`
	Current *activities.Evaluation `json:"current,omitempty"` // newest evaluation
	Policy  datasets.Ref           `json:"policy"`
	Paused  bool                   `json:"paused,omitempty"`  // paused, or about to be: the phase says which
	Reason  string                 `json:"reason,omitempty"`  // of the pause
	Stopped bool                   `json:"stopped,omitempty"` // told to stop
	Tuned   []Tuning               `json:"tuned,omitempty"`   // oldest first, of the newest
	Reused  Reused                 `json:"reused,omitzero"`
	Fork    *recipes.Origin        `json:"fork,omitempty"`        // where the run comes from
	Trouble string                 `json:"trouble,omitempty"`     // why what the run waits for has failed so far
	Mended  int                    `json:"mended,omitempty"`      // damaged objects that were made anew
	NaN     int                    `json:"nan_updates,omitempty"` // updates left out as not finite
	Error   string                 `json:"error,omitempty"`       // why a run has no result; set by who reads how it ended, with the phase failed, terminated, canceled or timed out
}

// StepSummary is the figures of one step that its live line shows.
type StepSummary struct {
	Step          int     `json:"step"`
	PassRate      float64 `json:"pass_rate"`
	Reward        float64 `json:"reward"`
	Kept          float64 `json:"kept"`
	Entropy       float64 `json:"entropy"`
	Loss          float64 `json:"loss"`
	GradNorm      float64 `json:"grad_norm"`
	Tokens        float64 `json:"tokens"`
	Trained       float64 `json:"tokens_trained"`
	Mismatch      float64 `json:"sampling_kl,omitempty"` // of what drew and what learnt, where it was measured
	Seconds       float64 `json:"seconds"`               // wall time of the step
	Orchestration float64 `json:"orchestration"`         // of it: seconds outside the stages' own work
}

// Result is what a finished experiment returns.
type Result struct {
	Recipe        string                 `json:"recipe"`
	Steps         int                    `json:"steps"`
	Stopped       bool                   `json:"stopped,omitempty"` // by a user, before all steps were done
	Policy        datasets.Ref           `json:"policy"`
	Before        *activities.Evaluation `json:"before,omitempty"`
	After         *activities.Evaluation `json:"after,omitempty"`
	WarmSteps     int                    `json:"warm_steps"`
	TrainSeconds  float64                `json:"train_seconds"`         // wall time of all training steps
	Orchestration float64                `json:"orchestration_seconds"` // of it outside the stages' own work
	Curriculum    float64                `json:"curriculum_seconds"`    // of it in proposing, responding, assessing and selecting, their tables' way to and from the store counted in
	Completions   int64                  `json:"completions"`
	Tokens        int64                  `json:"tokens"`         // generated in training
	Trained       int64                  `json:"tokens_trained"` // kept for the update
	Verified      int64                  `json:"verifier_calls"`
	Masked        int64                  `json:"tokens_masked"`         // rejected by masking stages
	Inspected     int64                  `json:"tokens_inspected"`      // that masking stages looked at
	Reissued      int                    `json:"reissued"`              // rollout shards that were overdue, and issued a second time
	Curve         []Point                `json:"curve"`                 // an entry per evaluation on the held-out problems, of many every second, fourth, …
	Fork          *recipes.Origin        `json:"fork,omitempty"`        // whose figures until that step count as this run's
	Reused        Reused                 `json:"reused,omitzero"`       // of what earlier runs had done; the figures above count it as if done anew
	Mended        int                    `json:"mended,omitempty"`      // damaged objects that were made anew
	NaN           int                    `json:"nan_updates,omitempty"` // updates left out as not finite
}

// Point is the policy's held-out figures at some step, and what the training had
// cost until then.
type Point struct {
	Step        int     `json:"step"`
	PassAt1     float64 `json:"pass_at_1"`
	PassAt8     float64 `json:"pass_at_8"`
	Greedy      float64 `json:"greedy"`
	Completions int64   `json:"completions"`
	Tokens      int64   `json:"tokens"` // generated for the training: rewrites, hinted and dropped tries counted in
	Trained     int64   `json:"tokens_trained"`
	Verified    int64   `json:"verifier_calls"`
	Seconds     float64 `json:"seconds"` // of training steps
}

// Carried is what an experiment hands to itself when its history is renewed, and
// what its record of every step holds for whoever goes on from there.
type Carried struct {
	Resolved  activities.Resolved     `json:"resolved"`
	Next      *activities.Resolved    `json:"next,omitempty"` // tuned plan of the steps to come
	Setup     map[string]datasets.Ref `json:"setup"`
	Policy    datasets.Ref            `json:"policy"`
	Reference datasets.Ref            `json:"reference"`
	State     datasets.Ref            `json:"state"`
	Posed     int64                   `json:"posed"`      // cursor of the proposing stage
	NextGroup int32                   `json:"next_group"` // first free group number of the step
	Step      int                     `json:"step"`
	Pending   []activities.Round      `json:"pending,omitempty"`  // rounds that wait for a full batch
	Versions  []Version               `json:"versions,omitempty"` // the newest ones, newest last, where steps are drawn ahead
	Status    Status                  `json:"status"`
	Result    Result                  `json:"result"`
	Left      activities.StepRecord   `json:"left"`              // record of the last step that was done
	NaNRow    int                     `json:"nan_row,omitempty"` // updates in a row that were left out as not finite
}

// Experiment trains a policy by one recipe. given is a JSON object with any
// keys of a Plan, {"recipe": "grpo"} or nothing at all; it is checked first and
// refused as a whole. With {"fork": {"run": "ID", "step": 40}} it goes on from that
// step of a run, and the keys beside it change that run's plan; under the ID of
// that very run, ended by then, it rewinds or extends it. carried is for the
// workflow's own use.
func Experiment(ctx workflow.Context, given json.RawMessage, carried *Carried) (*Result, error) {
	e := &experiment{}
	if carried != nil {
		e.Carried = *carried
	}
	if err := e.setup(ctx, given, carried != nil); err != nil {
		return nil, err
	}
	return e.run(ctx)
}

type experiment struct {
	Carried
	id    activities.Run
	back  *opened   // where the run goes back to at the next boundary
	shown time.Time // when the search attributes of the step were last set
	busy  bool      // a step is in hand
	over  bool      // no step is to come
	ahead ahead
	tunes workflow.Mutex
}

func (e *experiment) plan() *recipes.Plan { return &e.Resolved.Plan }

// setup answers queries and updates, freezes the plan and prepares problems and policy.
func (e *experiment) setup(ctx workflow.Context, given json.RawMessage, resumed bool) error {
	if err := workflow.SetQueryHandlerWithOptions(ctx, QueryStatus, func() (Status, error) { return e.Status, nil },
		workflow.QueryHandlerOptions{Description: "Where the experiment stands."}); err != nil {
		return err
	}
	if err := workflow.SetQueryHandlerWithOptions(ctx, QueryPlan, func() (recipes.Plan, error) { return e.Resolved.Plan, nil },
		workflow.QueryHandlerOptions{Description: "The frozen plan, with every default."}); err != nil {
		return err
	}
	if err := e.control(ctx); err != nil {
		return err
	}
	e.id.ID = workflow.GetInfo(ctx).WorkflowExecution.ID
	if resumed {
		e.id.Plan = e.Resolved.Ref
		return nil
	}
	e.Status.Phase = "resolving"
	var o opened
	if err := e.brief(ctx, &o, acts.Open, activities.OpenInput{Run: e.id.ID, Given: given}); err != nil {
		return err
	}
	e.open(o)
	problems := e.plan().Problems
	if problems == "" {
		problems = strings.Join(e.plan().Families, ",")
	}
	attributes := []temporal.SearchAttributeUpdate{AttributeRecipe.ValueSet(e.plan().Recipe), AttributeProblems.ValueSet(problems)}
	if e.plan().Fork != nil {
		attributes = append(attributes, AttributeFork.ValueSet(e.plan().Fork.Run))
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, attributes...); err != nil {
		return err
	}
	if o.Carried != nil {
		if f := e.plan().Fork; f != nil && *f.Step == e.Step {
			return e.record(ctx, activities.StepRecord{})
		}
		return nil
	}
	if err := e.phase(ctx, "preparing"); err != nil {
		return err
	}
	var out activities.Output
	if err := e.do(ctx, QueueCPU, acts.Prepare, e.id, &out); err != nil {
		return err
	}
	e.Result.Reused.count(out, &e.Result.Reused.Others)
	e.Setup = out.Tables
	e.Policy, e.State = out.Tables[activities.TablePolicy], out.Tables[activities.TableState]
	if e.plan().Policy == "" {
		if err := e.warm(ctx); err != nil {
			return err
		}
	}
	e.Reference = e.Policy
	var err error
	if e.Status.Before, err = e.evaluate(ctx, activities.TableTest, "test", 0, true); err != nil {
		return err
	}
	e.Result.Before = e.Status.Before
	e.point(e.Status.Before)
	return e.record(ctx, activities.StepRecord{})
}

// point notes an evaluation as the newest.
func (e *experiment) point(v *activities.Evaluation) {
	r := &e.Result
	e.Status.Current = v
	r.Curve = append(r.Curve, Point{
		Step: e.Step, PassAt1: v.All.PassAt1, PassAt8: v.All.PassAt8, Greedy: v.All.Greedy,
		Completions: r.Completions, Tokens: r.Tokens, Trained: r.Trained, Verified: r.Verified, Seconds: r.TrainSeconds,
	})
	if len(r.Curve) > maxCurve {
		kept := r.Curve[:0]
		for i := 0; i < len(r.Curve); i += 2 {
			kept = append(kept, r.Curve[i])
		}
		r.Curve = kept
	}
}

// maxCurve bounds the curve of a run, which its history carries along. It is even:
// where every other point goes, the first and the newest stay.
const maxCurve = 256

// run is the training loop.
func (e *experiment) run(ctx workflow.Context) (*Result, error) {
	for {
		if err := e.boundary(ctx); err != nil {
			return nil, err
		}
		if !e.more() {
			break
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			if e.ahead.busy {
				if err := e.settle(ctx); err != nil {
					return nil, err
				}
				continue // to the boundary: somebody may have asked for something meanwhile
			}
			// A history that begins anew needs no version of the past.
			return nil, workflow.NewContinueAsNewErrorWithOptions(ctx, workflow.ContinueAsNewErrorOptions{
				InitialVersioningBehavior: workflow.ContinueAsNewVersioningBehaviorAutoUpgrade,
			}, Experiment, json.RawMessage(nil), &e.Carried)
		}
		e.drawAhead(ctx)
		if every := e.plan().Evaluation.Every; every > 0 && e.Step%every == 0 && e.evaluated() < e.Step {
			evaluation, err := e.evaluate(ctx, activities.TableTest, "test", e.Step, true)
			if err != nil {
				return nil, err
			}
			e.point(evaluation)
			continue
		}
		if err := e.phase(ctx, "training"); err != nil {
			return nil, err
		}
		e.busy = true
		left, err := e.step(ctx)
		if err != nil {
			return nil, err
		}
		e.busy = false
		e.Step++
		e.passed()
		// What was asked for during the step holds from the next one on, and the step's
		// record, which is written once, says so.
		if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
			return nil, err
		}
		if _, err := e.adopt(ctx); err != nil {
			return nil, err
		}
		if err := e.record(ctx, left); err != nil {
			return nil, err
		}
	}
	e.over = true
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	// A run that was told to end while it evaluated has its last figures already.
	if e.Step == 0 || e.evaluated() < e.Step {
		evaluation, err := e.evaluate(ctx, activities.TableTest, "test", e.Step, true)
		if err != nil {
			return nil, err
		}
		e.point(evaluation)
	}
	e.Result.After, e.Result.Policy, e.Result.Steps, e.Result.WarmSteps = e.Status.Current, e.Policy, e.Step, e.Status.Warm
	end := "finished"
	if e.Result.Stopped = e.left(); e.Result.Stopped {
		end = "stopped"
	}
	if err := e.phase(ctx, end); err != nil {
		return nil, err
	}
	return &e.Result, nil
}

// evaluated is the step of the newest evaluation.
func (e *experiment) evaluated() int { return e.Result.Curve[len(e.Result.Curve)-1].Step }

// more reports whether there are steps to come.
func (e *experiment) more() bool { return e.left() && !e.Status.Stopped }

// left reports whether the plan has steps that are not done.
func (e *experiment) left() bool {
	budget := e.plan().MaxGeneratedTokens
	return e.Step < e.plan().Steps && (budget == 0 || e.Result.Tokens < budget)
}

// warm runs the supervised warm-up until the policy can do what it should on
// the validation problems.
func (e *experiment) warm(ctx workflow.Context) error {
	w := e.plan().Warmup
	var tokens float64
	for e.Status.Warm < w.MaxSteps && tokens < float64(w.MaxTokens) {
		if err := e.hold(ctx); err != nil {
			return err
		}
		if e.Status.Stopped {
			break
		}
		if err := e.phase(ctx, "warming up"); err != nil {
			return err
		}
		steps := w.Every
		if e.Status.Warm == 0 {
			steps = max(steps, w.MinSteps)
		}
		steps = min(steps, w.MaxSteps-e.Status.Warm)
		var out activities.Output
		in := activities.WarmInput{Run: e.id, Train: e.Setup[activities.TableWarm], Policy: e.Policy, From: e.Status.Warm, Steps: steps}
		if err := e.do(ctx, QueueTrain, acts.Warm, in, &out); err != nil {
			return err
		}
		e.Result.Reused.count(out, &e.Result.Reused.Updates)
		e.Policy = out.Tables[activities.TablePolicy]
		e.Status.Warm += steps
		tokens += out.Metrics["tokens"]
		evaluation, err := e.evaluate(ctx, activities.TableValidation, "validation", e.Status.Warm, false)
		if err != nil {
			return err
		}
		e.Status.Warmth = evaluation.All.PassAt1
		if e.Status.Warmth >= w.Target {
			break
		}
	}
	return nil
}

// step is one training step: rounds of posing and answers to failures, drawn for
// it or ahead of it, selection, update. It returns what it left behind.
func (e *experiment) step(ctx workflow.Context) (left activities.StepRecord, err error) {
	d, err := e.next(ctx)
	if err != nil {
		return left, err
	}
	p, t := e.plan(), d.tally
	e.Posed, e.NextGroup = d.posed, d.nextGroup
	e.Result.Reused.add(d.reused)
	carried := len(e.Pending)
	rounds := slices.Concat(e.Pending, d.rounds)
	var selected, masked, updated activities.Output
	if err := e.brief(ctx, &selected, acts.Select, activities.SelectInput{
		Run: e.id, Step: e.Step, Problems: e.Setup[activities.TableTrain], State: e.State, Rounds: rounds, Carried: carried,
	}); err != nil {
		return left, err
	}
	e.State = selected.Tables[activities.TableState]
	e.Result.Reused.count(selected, &e.Result.Reused.Assessments)
	t.curriculum += selected.Seconds
	t.keep(selected.Metrics)
	left.Rounds, left.Selections = rounds, selected.Tables[activities.TableSelections]
	e.Pending = nil
	if p.ShortBatch == "wait" && int(selected.Metrics["kept_groups"]) < p.PromptsPerStep {
		e.Pending = rounds
	} else {
		if len(p.Mask) > 0 {
			if err := e.do(ctx, QueueTrain, acts.Mask, activities.MaskInput{
				Run: e.id, Step: e.Step, Rounds: rounds, Selections: left.Selections, Policy: e.Policy, Reference: e.Reference,
			}, &masked); err != nil {
				return left, err
			}
			left.Selections = masked.Tables[activities.TableSelections]
			e.Result.Reused.count(masked, &e.Result.Reused.Others)
			t.work += masked.Seconds
			t.keep(masked.Metrics)
			e.Result.Masked += int64(masked.Metrics[activities.MetricMasked])
			e.Result.Inspected += int64(masked.Metrics[activities.MetricInspected])
		}
		if err := e.do(ctx, QueueTrain, acts.Update, activities.UpdateInput{
			Run: e.id, Step: e.Step, Rounds: rounds, Selections: left.Selections,
			Policy: e.Policy, Reference: e.Reference, Metrics: t.metrics,
		}, &updated); err != nil {
			return left, err
		}
		e.Policy = updated.Tables[activities.TablePolicy]
		e.Result.Reused.count(updated, &e.Result.Reused.Updates)
		e.finite(updated)
		t.work += updated.Seconds
	}
	left.Metrics = updated.Tables[activities.TableMetrics]
	return left, e.report(ctx, t, updated.Metrics)
}

// tally is what a step adds up.
type tally struct {
	begin       time.Time
	work        float64            // seconds of the stages' own work, but for the next
	curriculum  float64            // seconds of proposing, responding, assessing and selecting
	completions int64              // drawn in this step, texts on request counted in
	tokens      int64              // of them
	verified    int64              // verifier calls
	metrics     map[string]float64 // figures that are kept with the step
}

// keep takes figures over, all but what steers the workflow. The order in which
// keys are copied makes no difference.
func (t *tally) keep(metrics map[string]float64) {
	maps.Copy(t.metrics, metrics)
	delete(t.metrics, activities.MetricNextGroup)
	delete(t.metrics, activities.MetricRequest)
}

// report notes the step's figures where users look.
func (e *experiment) report(ctx workflow.Context, t *tally, updated map[string]float64) error {
	m := t.metrics
	seconds := workflow.Now(ctx).Sub(t.begin).Seconds()
	orchestration := max(0, seconds-t.work-t.curriculum)
	summary := StepSummary{
		Step: e.Step + 1, PassRate: m["pass_rate"], Reward: m["reward"], Kept: m["kept"], Entropy: m["entropy"], Tokens: float64(t.tokens),
		Loss: updated["loss"], GradNorm: updated["grad_norm"], Trained: updated["trained"], Mismatch: updated["sampling/kl"],
		Seconds: seconds, Orchestration: orchestration,
	}
	if e.Status.Recent = append(e.Status.Recent, summary); len(e.Status.Recent) > maxRecent {
		e.Status.Recent = e.Status.Recent[len(e.Status.Recent)-maxRecent:]
	}
	e.Status.Step, e.Status.Policy, e.Status.Reused = e.Step+1, e.Policy, e.Result.Reused
	e.Result.TrainSeconds += seconds
	e.Result.Orchestration += orchestration
	e.Result.Curriculum += t.curriculum
	e.Result.Completions += t.completions
	e.Result.Tokens += t.tokens
	e.Result.Verified += t.verified
	e.Result.Trained += int64(updated["trained"])
	// The visibility store is no log: short steps share an entry.
	now := workflow.Now(ctx)
	if now.Sub(e.shown) < 5*time.Second && e.Step+1 < e.plan().Steps {
		return nil
	}
	e.shown = now
	return workflow.UpsertTypedSearchAttributes(ctx, AttributeStep.ValueSet(int64(e.Step+1)), AttributePassRate.ValueSet(m["pass_rate"]))
}

// maxRecent bounds the steps that a status tells of.
const maxRecent = 32

// drawn is what a rollout cost.
type drawn struct {
	seconds             float64 // of the slowest shard
	completions, tokens int64
	rescored            float64 // completions whose log-probabilities are not from what drew them
}

// rollout has a policy draw a round's completions, shard by shard.
func (e *experiment) rollout(ctx workflow.Context, r *activities.Round, policy datasets.Ref, purpose string, step int, greedy bool, reused *Reused) (d drawn, err error) {
	shards, err := e.shards(ctx, activities.RolloutInput{
		Run: e.id, Purpose: purpose, Greedy: greedy, Step: step, Proposals: r.Proposals, Policy: policy,
		Shards: min(e.plan().RolloutShards, max(1, int(r.Proposals.Rows))), // none is empty
	})
	if err != nil {
		return d, err
	}
	for _, s := range shards {
		shard := s.out.Tables[activities.TableRollouts]
		r.Rollouts = append(r.Rollouts, shard)
		reused.count(s.out, &reused.Rollouts)
		if s.out.Saved > 0 {
			reused.Completions += shard.Rows
			reused.Tokens += int64(s.out.Metrics["tokens"])
		}
		d.seconds = max(d.seconds, s.took.Seconds())
		d.completions += shard.Rows
		d.tokens += int64(s.out.Metrics["tokens"])
		d.rescored += s.out.Metrics[activities.MetricRescored]
	}
	return d, nil
}

// evaluate measures the policy on one of the problem sets.
func (e *experiment) evaluate(ctx workflow.Context, set, purpose string, step int, greedy bool) (*activities.Evaluation, error) {
	if greedy {
		if err := e.phase(ctx, "evaluating"); err != nil {
			return nil, err
		}
	}
	in := activities.SummariseInput{Run: e.id, Purpose: purpose, Step: step}
	tries := e.plan().Evaluation.NumGenerations
	if !greedy {
		tries = min(tries, 2) // the warm-up looks often and coarsely
	}
	var posed activities.Output
	if err := e.brief(ctx, &posed, acts.Pose, activities.PoseInput{Run: e.id, Problems: e.Setup[set], NumGenerations: tries}); err != nil {
		return nil, err
	}
	e.Result.Reused.count(posed, &e.Result.Reused.Others)
	in.Sampled.Proposals = posed.Tables[activities.TableProposals]
	if _, err := e.rollout(ctx, &in.Sampled, e.Policy, purpose, step, false, &e.Result.Reused); err != nil {
		return nil, err
	}
	if greedy {
		var once activities.Output
		if err := e.brief(ctx, &once, acts.Pose, activities.PoseInput{Run: e.id, Problems: e.Setup[set], NumGenerations: 1}); err != nil {
			return nil, err
		}
		e.Result.Reused.count(once, &e.Result.Reused.Others)
		in.Greedy = &activities.Round{Proposals: once.Tables[activities.TableProposals]}
		if _, err := e.rollout(ctx, in.Greedy, e.Policy, purpose, step, true, &e.Result.Reused); err != nil {
			return nil, err
		}
	}
	var out activities.Evaluation
	if err := e.brief(ctx, &out, acts.Summarise, in); err != nil {
		return nil, err
	}
	e.Result.Reused.count(activities.Output{Saved: out.Saved}, &e.Result.Reused.Others)
	return &out, nil
}

// phase notes where the run stands, for queries, search and the UI's own page.
func (e *experiment) phase(ctx workflow.Context, name string) error {
	changed := e.Status.Phase != name
	e.Status.Phase, e.Status.Policy, e.Status.Reused = name, e.Policy, e.Result.Reused
	workflow.SetCurrentDetails(ctx, e.Status.Markdown())
	if !changed {
		return nil
	}
	return workflow.UpsertTypedSearchAttributes(ctx, AttributeState.ValueSet(name))
}

// Markdown is the status as the Temporal UI shows it.
func (s Status) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**: %s, step %d of %d\n\n", cmp.Or(s.Recipe, "experiment"), s.Phase, s.Step, s.Steps)
	if s.Error != "" {
		fmt.Fprintf(&b, "Why: %s\n\n", s.Error)
	}
	if s.Fork != nil {
		fmt.Fprintf(&b, "Fork of %s.\n\n", s.Fork)
	}
	if s.Paused && s.Phase != "paused" {
		b.WriteString("Told to pause.\n\n")
	}
	if s.Reason != "" {
		fmt.Fprintf(&b, "Reason of the pause: %s\n\n", s.Reason)
	}
	if s.Trouble != "" {
		fmt.Fprintf(&b, "Trouble: %s\n\n", s.Trouble)
	}
	if s.NaN > 0 {
		fmt.Fprintf(&b, "Updates left out as not finite: %d.\n\n", s.NaN)
	}
	if s.Mended > 0 {
		fmt.Fprintf(&b, "Damaged objects made anew: %d.\n\n", s.Mended)
	}
	if s.Stopped && s.Phase != "stopped" {
		b.WriteString("Told to stop.\n\n")
	}
	for _, t := range s.Tuned[max(0, len(s.Tuned)-maxTuned):] {
		fmt.Fprintf(&b, "Tuned from step %d on: `%s`\n\n", t.Step, t.Changes)
	}
	if s.Warm > 0 {
		fmt.Fprintf(&b, "Warm-up: %d steps, pass rate %.2f on validation problems.\n\n", s.Warm, s.Warmth)
	}
	if r := s.Reused.String(); r != "" {
		b.WriteString(strings.ToUpper(r[:1]) + r[1:] + ".\n\n")
	}
	if len(s.Recent) > 0 {
		l := s.Recent[len(s.Recent)-1]
		fmt.Fprintf(&b, "| step | pass rate | reward | kept | entropy | loss | seconds |\n|---|---|---|---|---|---|---|\n| %d | %.3f | %.3f | %.0f%% | %.3f | %.4f | %.2f |\n\n",
			l.Step, l.PassRate, l.Reward, 100*l.Kept, l.Entropy, l.Loss, l.Seconds)
	}
	if s.Before != nil {
		b.WriteString("| held out | problems | pass@1 before | pass@1 now | pass@8 now | greedy now |\n|---|---|---|---|---|---|\n")
		for i, l := range s.Current.Levels {
			fmt.Fprintf(&b, "| level %d | %d | %.2f | %.2f | %.2f | %.2f |\n", l.Level, l.Problems, s.Before.Levels[i].PassAt1, l.PassAt1, l.PassAt8, l.Greedy)
		}
		a := s.Current.All
		fmt.Fprintf(&b, "| all | %d | %.2f | %.2f | %.2f | %.2f |\n", a.Problems, s.Before.All.PassAt1, a.PassAt1, a.PassAt8, a.Greedy)
	}
	return b.String()
}

// maxTuned bounds the tunings that a run's page tells of.
const maxTuned = 8

// retries of every activity: what another try may mend is tried again, with
// growing pauses, until the run is ended by hand.
var retries = &temporal.RetryPolicy{InitialInterval: 500 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second}

// on is for activities on a queue of workers.
func (e *experiment) on(ctx workflow.Context, queue string) workflow.Context {
	info := workflow.GetInfo(ctx)
	if info.TaskQueueName == QueueAll {
		queue = QueueAll
	}
	options := workflow.ActivityOptions{
		TaskQueue: queue, StartToCloseTimeout: 24 * time.Hour, RetryPolicy: retries,
		HeartbeatTimeout: time.Duration(e.plan().HeartbeatTimeout * float64(time.Second)),
	}
	if info.Priority.FairnessKey == "" { // started without one, as from the Temporal UI
		options.Priority.FairnessKey = FairnessKey(info.WorkflowExecution.ID)
	}
	return workflow.WithActivityOptions(ctx, options)
}

// FairnessKey is the key under which a run has its share of the workers, unless
// it was given another one: its ID, as much of it as the server takes.
func FairnessKey(id string) string {
	return strings.ToValidUTF8(id[:min(len(id), 64)], "")
}

// TaskTimeout is how long a worker may be at a workflow task, or silent in the
// midst of a long one, before another worker takes it.
const TaskTimeout = 5 * time.Second

// short is for stages of milliseconds, run beside the workflow itself.
func short(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		StartToCloseTimeout: 10 * time.Minute, RetryPolicy: retries,
	})
}
