// Package activities holds the Temporal activities: each opens Refs, runs one
// stage and stores its result once. Errors get their retry class here and
// nowhere else.
package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/rs/zerolog"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/reward"
)

// Activities are the activities of a worker process and what they share.
type Activities struct {
	Store    datasets.Store
	Policies *Policies // loaded policies, engines and the trainer; nil on a worker that runs no model
	Scorer   *reward.Scorer
	Remote   Remote // how rollouts are drawn elsewhere
	Log      zerolog.Logger

	// Stall is how long a stage may make no progress before it is given up; 0 =
	// DefaultStall. Progress is what datasets.Progress tells of.
	Stall time.Duration
	// Hung is called when maxStalled stages hang: only the end of the process can
	// free what they hold. nil = nothing is done.
	Hung func(error)

	stalled atomic.Int32 // stages given up that have not returned

	mu    sync.Mutex
	plans map[string]recipes.Plan
	sets  map[string]*problemSet
}

// Run is the experiment that an activity belongs to.
type Run struct {
	ID   string       `json:"id"`             // workflow ID
	Plan datasets.Ref `json:"plan"`           // its Plan, as a blob
	Anew bool         `json:"anew,omitempty"` // compute what is recorded already: its tables are damaged
}

// Output is what an activity returns: Refs and small numbers.
type Output struct {
	Tables  map[string]datasets.Ref `json:"tables,omitempty"`
	Metrics map[string]float64      `json:"metrics,omitempty"`
	Seconds float64                 `json:"seconds"`          // wall time of the activity's own work
	Reused  bool                    `json:"reused,omitempty"` // the result was there, made by this run or by another
	Saved   float64                 `json:"saved,omitempty"`  // seconds that another run worked for the result; 0 when it is this run's own
}

// Error types that are not retried.
const (
	ErrorInvalid = "Invalid" // the plan or the data is wrong; the message names where
	ErrorCorrupt = "Corrupt" // a stored object does not have its checksum
	ErrorDenied  = "Denied"  // the store refuses the credentials
	ErrorPanic   = "Panic"   // a stage panics, time and again
	ErrorFinite  = "Finite"  // the policy's figures are not finite
)

// invalid marks an error as the user's to mend.
type invalid struct{ error }

func (e invalid) Unwrap() error { return e.error }

// classify gives an error its retry class: what another try cannot mend is
// not retried.
func classify(ctx context.Context, err error) error {
	var app *temporal.ApplicationError
	var bad invalid
	var damaged *datasets.DamagedError
	switch {
	case err == nil, errors.As(err, &app):
		return err
	case errors.As(err, &bad):
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorInvalid, nil)
	case errors.As(err, &damaged) && (errors.Is(err, datasets.ErrCorrupt) || attempt(ctx) >= maxTries):
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorCorrupt, nil, damaged.Ref)
	case errors.Is(err, datasets.ErrCorrupt):
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorCorrupt, nil)
	case errors.Is(err, errPanic) && attempt(ctx) >= maxTries:
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorPanic, nil)
	case errors.Is(err, policy.ErrNotFinite):
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorFinite, nil)
	case errors.Is(err, datasets.ErrDenied):
		return temporal.NewNonRetryableApplicationError(err.Error(), ErrorDenied, nil)
	}
	return err
}

// stage runs one activity's work under its key: looked up first, stored once,
// logged in one line. in is the activity's input, by which [Activities.Repair] has
// it done again.
func (a *Activities) stage(ctx context.Context, run Run, in any, l datasets.Lineage, work func(context.Context, datasets.Lineage) (datasets.Result, error)) (Output, error) {
	defer beat(ctx)()
	begin := time.Now()
	plan, err := a.plan(ctx, run)
	if err != nil {
		return Output{}, classify(ctx, err)
	}
	l.Seed = plan.Seed
	scoped := l
	if !plan.Reuse {
		scoped.Scope = run.ID
	}
	compute := func(ctx context.Context) (datasets.Result, error) {
		r, err := a.guard(ctx, l.Stage, func(ctx context.Context) (datasets.Result, error) { return work(ctx, l) })
		r.Run, r.Work = run.ID, params(remake{name(l.Stage), params(in)})
		return r, err
	}
	var r datasets.Result
	reused := false
	if run.Anew {
		r, err = datasets.Redo(ctx, a.Store, scoped, compute)
	} else {
		r, reused, err = datasets.Do(ctx, a.Store, scoped, compute)
	}
	seconds := time.Since(begin).Seconds()
	event := a.Log.Debug()
	if err != nil {
		event = a.Log.Error().Err(err)
	}
	event.Str("run", run.ID).Int("step", l.Step).Str("stage", l.Stage).Float64("seconds", seconds).Bool("reused", reused).Send()
	if err != nil {
		return Output{}, classify(ctx, fmt.Errorf("%s: %w", l.Stage, err))
	}
	out := Output{Tables: r.Tables, Metrics: r.Metrics, Seconds: seconds, Reused: reused}
	if reused && r.Run != run.ID {
		out.Saved = max(r.Seconds, 1e-9)
	}
	return out, nil
}

// record notes under runs/<run>/ what the run goes on with and leaves behind, so
// that the store itself knows what is in use.
func (a *Activities) record(ctx context.Context, run Run, name string, v any) error {
	raw, err := datasets.Canonical(v)
	if err == nil {
		err = a.Store.Put(ctx, "runs/"+run.ID+"/"+name+".json", raw)
	}
	if err != nil {
		return classify(ctx, fmt.Errorf("record %s: %w", name, err))
	}
	return nil
}

// remote reports whether ctx is that of an activity whose server waits for
// heartbeats.
func remote(ctx context.Context) bool {
	return activity.IsActivity(ctx) && !activity.GetInfo(ctx).IsLocalActivity
}

// pulse is the time between two signs of life: the server may miss two. The
// first comes after one, too: each is a transaction of the server, and most
// activities are over by then.
func pulse(ctx context.Context) time.Duration {
	return max(activity.GetInfo(ctx).HeartbeatTimeout/4, 100*time.Millisecond)
}

// beat reports to the server that the activity is alive until stop is called.
func beat(ctx context.Context) (stop func()) {
	if !remote(ctx) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(pulse(ctx))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// plan loads the run's plan, once per process.
func (a *Activities) plan(ctx context.Context, run Run) (recipes.Plan, error) {
	a.mu.Lock()
	p, ok := a.plans[run.Plan.Hash]
	a.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := loadPlan(ctx, a.Store, run.Plan)
	if err != nil {
		return p, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plans == nil || len(a.plans) > 100 {
		a.plans = map[string]recipes.Plan{}
	}
	a.plans[run.Plan.Hash] = p
	return p, nil
}

func loadPlan(ctx context.Context, store datasets.Store, ref datasets.Ref) (p recipes.Plan, err error) {
	raw, err := datasets.LoadBlob(ctx, store, ref)
	if err != nil {
		return p, fmt.Errorf("load plan: %w", err)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, invalid{fmt.Errorf("read plan: %w", err)}
	}
	return p, nil
}

// Resolved is a frozen plan and where the store keeps it.
type Resolved struct {
	Plan recipes.Plan `json:"plan"`
	Ref  datasets.Ref `json:"ref"`
}

// Resolve checks what the user gave and freezes it into a Plan.
func (a *Activities) Resolve(ctx context.Context, given json.RawMessage) (Resolved, error) {
	p, err := recipes.Resolve(given)
	if err != nil {
		return Resolved{}, classify(ctx, invalid{err})
	}
	return a.freeze(ctx, p)
}

// freeze stores a plan.
func (a *Activities) freeze(ctx context.Context, p recipes.Plan) (Resolved, error) {
	raw, err := datasets.Canonical(p)
	if err != nil {
		return Resolved{}, classify(ctx, invalid{err})
	}
	ref, err := datasets.SaveBlob(ctx, a.Store, raw)
	if err != nil {
		return Resolved{}, classify(ctx, fmt.Errorf("store plan: %w", err))
	}
	return Resolved{Plan: p, Ref: ref}, nil
}

// TuneInput is a change of a run's plan.
type TuneInput struct {
	Plan      datasets.Ref    `json:"plan"`
	Changes   json.RawMessage `json:"changes"`
	StepsDone int             `json:"steps_done"`
}

// Tuned is the changed plan, frozen, and the changes in their canonical form.
type Tuned struct {
	Resolved Resolved        `json:"resolved"`
	Changes  json.RawMessage `json:"changes"`
}

// Tune changes a plan and freezes the result, as Resolve does with a new one.
func (a *Activities) Tune(ctx context.Context, in TuneInput) (Tuned, error) {
	old, err := a.plan(ctx, Run{Plan: in.Plan})
	if err != nil {
		return Tuned{}, classify(ctx, err)
	}
	p, err := recipes.Tune(old, in.Changes, in.StepsDone)
	if err != nil {
		return Tuned{}, classify(ctx, invalid{err})
	}
	t := Tuned{}
	if t.Changes, err = datasets.Canonical(in.Changes); err != nil {
		return Tuned{}, classify(ctx, invalid{err})
	}
	t.Resolved, err = a.freeze(ctx, p)
	return t, err
}

// load opens a table; the caller releases it.
func (a *Activities) load(ctx context.Context, r datasets.Ref) (*datasets.Table, error) {
	return datasets.Load(ctx, a.Store, memory.DefaultAllocator, r)
}

// loadAll opens tables of one kind as one table.
func (a *Activities) loadAll(ctx context.Context, refs []datasets.Ref) (*datasets.Table, error) {
	tables := make([]*datasets.Table, 0, len(refs))
	defer func() {
		for _, t := range tables {
			t.Release()
		}
	}()
	for _, r := range refs {
		t, err := a.load(ctx, r)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return datasets.Concat(memory.DefaultAllocator, tables...)
}

// save stores a new table.
func (a *Activities) save(ctx context.Context, kind string, l datasets.Lineage, columns ...datasets.Data) (datasets.Ref, error) {
	t, err := datasets.NewTable(memory.DefaultAllocator, kind, l, columns...)
	if err != nil {
		return datasets.Ref{}, err
	}
	defer t.Release()
	return datasets.Save(ctx, a.Store, t)
}

// params is a stage's parameters for its key.
func params(v any) json.RawMessage {
	raw, err := datasets.Canonical(v)
	if err != nil {
		return json.RawMessage(`"unencodable"`) // Do refuses what is no key; plans are finite numbers and text
	}
	return raw
}

func hashes(refs ...datasets.Ref) []string {
	out := make([]string, len(refs))
	for i, r := range refs {
		out[i] = r.Hash
	}
	return out
}

// problemSet is a problems table as columns in memory. It is shared: nobody
// changes it.
type problemSet struct {
	curriculum.Problems
	rowOf map[string]int32 // by problem id
}

func (a *Activities) problems(ctx context.Context, r datasets.Ref) (*problemSet, error) {
	a.mu.Lock()
	s, ok := a.sets[r.Hash]
	a.mu.Unlock()
	if ok {
		return s, nil
	}
	t, err := a.load(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("load problems: %w", err)
	}
	defer t.Release()
	if t.Kind() != datasets.KindProblems {
		return nil, invalid{fmt.Errorf("%s is a table of kind %s, want %s", r, t.Kind(), datasets.KindProblems)}
	}
	s = newProblemSet(t)
	for i, v := range s.Verifier {
		// Settings can run programs and call services with a key: they are for who starts the run, not for data.
		if strings.HasPrefix(v, "{") {
			return nil, invalid{fmt.Errorf("problem %q: verifier %s has settings, which only the plan's may; want one of %s", s.ID[i], v, strings.Join(reward.Names(), ", "))}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sets == nil || len(a.sets) >= 8 {
		a.sets = map[string]*problemSet{}
	}
	a.sets[r.Hash] = s
	return s, nil
}

func newProblemSet(t *datasets.Table) *problemSet {
	s := &problemSet{rowOf: make(map[string]int32, t.Rows()), Problems: curriculum.Problems{
		ID: datasets.ProblemID.Get(t), Source: datasets.Source.Get(t), Prompt: datasets.Prompt.Get(t), Answer: datasets.Answer.Get(t),
		Solution: datasets.Solution.Get(t), Verifier: datasets.Verifier.Get(t),
		Level: slices.Clone(datasets.Level.Get(t)), // the table is released
		Steps: texts(t, datasets.Steps), Knowledge: texts(t, datasets.KnowledgeParts), Planning: texts(t, datasets.PlanningParts),
		Breakdown: texts(t, datasets.SolutionParts),
	}}
	if t.Has(datasets.Simplified.Name) {
		s.Simplified = datasets.Simplified.Get(t)
	}
	if t.Has(datasets.Diversified.Name) {
		s.Diversified = datasets.Diversified.Get(t)
	}
	for i, id := range s.ID {
		s.rowOf[id] = int32(i)
	}
	return s
}

// texts is a column of lists, nil where the table has none.
func texts(t *datasets.Table, c datasets.ListColumn[string]) [][]string {
	if !t.Has(c.Name) {
		return nil
	}
	lists := c.Get(t)
	out := make([][]string, lists.Len())
	for i := range out {
		out[i] = lists.Row(i)
	}
	return out
}
