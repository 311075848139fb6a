package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/curriculum"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// witness sees what a calm run computes, and says whether that is right: a mistake
// that every run makes shows in no comparison of runs.
type witness struct {
	mu    sync.Mutex
	calls []Call
}

func (w *witness) see(c Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
}

// check says what is wrong in itself with the run in a store.
func (w *witness) check(d *disk, s Schedule, result *workflows.Result) error {
	plan, err := recipes.Resolve([]byte(s.Plan))
	if err != nil {
		return err
	}
	r := &recorded{disk: d, plan: plan}
	if err := r.read(); err != nil {
		return err
	}
	if err := w.updates(r, s.deeds == nil); err != nil {
		return err
	}
	return r.check(result)
}

// streams wants every completion to be drawn by randomness of its own, and returns
// the streams.
func (w *witness) streams() (map[uint64]bool, error) {
	seen := map[uint64]bool{}
	for _, c := range w.calls {
		if c.Sampling.Temperature == 0 {
			continue
		}
		for _, p := range c.Prompts {
			if seen[p.Stream] {
				return nil, fmt.Errorf("two completions are drawn by the same stream %x", p.Stream)
			}
			seen[p.Stream] = true
		}
	}
	return seen, nil
}

// updates wants each update to go on from the policy of the step before, the first
// one with a fresh optimizer, and to learn from what was selected.
func (w *witness) updates(r *recorded, untuned bool) error {
	reference := r.before[0]
	n := 0
	for _, c := range w.calls {
		if !slices.ContainsFunc(c.Samples, func(s policy.Sample) bool { return s.OldLogProbs != nil }) {
			continue // no update, or one of the warm-up
		}
		for n < len(r.steps) && !r.changed(n) {
			n++
		}
		if n == len(r.steps) {
			return fmt.Errorf("an update more than the %d recorded", n)
		}
		step := r.steps[n]
		if c.Weights != r.before[n] {
			return fmt.Errorf("step %d updates another policy than that of the step before", step.Step)
		}
		if done := r.updatesBefore(n) * int64(r.plan.Learning.NumIterations); c.Step != done || c.Fresh != (done == 0) {
			return fmt.Errorf("step %d begins after %d optimizer steps, want %d; all moments 0: %v", step.Step, c.Step, done, c.Fresh)
		}
		var active float64
		for _, s := range c.Samples {
			for t := range s.Completion {
				if s.Mask == nil {
					active++
				} else {
					active += float64(s.Mask[t])
				}
			}
			row := policy.Row{Prompt: s.Prompt, Completion: s.Completion}
			if untuned && s.OldLogProbs != nil && !slices.Equal(s.OldLogProbs, scoreOf(c.Weights, row, r.plan.Sampling.Temperature).LogProbs) {
				return fmt.Errorf("step %d: old log-probs are not those of the policy that drew", step.Step)
			}
			if untuned && s.RefLogProbs != nil && !slices.Equal(s.RefLogProbs, scoreOf(reference, row, r.plan.Sampling.Temperature).LogProbs) {
				return fmt.Errorf("step %d: reference log-probs are not those of the first policy", step.Step)
			}
		}
		if want := r.kept[n]; active != want {
			return fmt.Errorf("step %d learns from %v tokens, and %v are selected", step.Step, active, want)
		}
		n++
	}
	for ; n < len(r.steps); n++ {
		if r.changed(n) {
			return fmt.Errorf("step %d has another policy without an update", r.steps[n].Step)
		}
	}
	return nil
}

// recorded is what a run has recorded.
type recorded struct {
	disk   *disk
	plan   recipes.Plan
	steps  []activities.StepRecord
	before []uint64  // digest of the policy's weights before each step, and after the last
	refs   []string  // hashes of these policies
	kept   []float64 // tokens selected in each step
	setup  activities.SetupRecord
}

func (r *recorded) changed(n int) bool { return r.refs[n] != r.refs[n+1] }

// waits reports whether a step's rounds wait for a full batch.
func (r *recorded) waits(n int) bool { return r.steps[n].Metrics.IsZero() }

func (r *recorded) updatesBefore(n int) (updates int64) {
	for i := range n {
		if r.changed(i) {
			updates++
		}
	}
	return updates
}

func (r *recorded) read() error {
	ctx := context.Background()
	policies := []datasets.Ref{{}}
	for _, key := range slices.Sorted(maps.Keys(r.disk.objects)) {
		name, ok := strings.CutPrefix(key, "runs/"+runID+"/")
		if !ok {
			continue
		}
		raw := r.disk.objects[key]
		var err error
		switch folder, _, _ := strings.Cut(name, "/"); folder {
		case "setup.json":
			err = json.Unmarshal(raw, &r.setup)
			policies[0] = r.setup.Tables[activities.TablePolicy]
		case "steps":
			var s activities.StepRecord
			err = json.Unmarshal(raw, &s)
			r.steps = append(r.steps, s)
			policies = append(policies, s.Policy)
		case "warm": // the last one counts; it sorts after the steps
			var v activities.WarmRecord
			err = json.Unmarshal(raw, &v)
			policies[0] = v.Policy
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	for _, p := range policies {
		s, err := policy.LoadState(ctx, r.disk, p)
		if err != nil {
			return err
		}
		r.before, r.refs = append(r.before, digestOf(s.Weights)), append(r.refs, p.Hash)
	}
	for _, s := range r.steps {
		t, err := r.load(s.Selections)
		if err != nil {
			return err
		}
		kept := 0.0
		for _, n := range datasets.TokensKept.Get(t) {
			kept += float64(n)
		}
		r.kept = append(r.kept, kept)
		t.Release()
	}
	return nil
}

func (r *recorded) load(ref datasets.Ref) (*datasets.Table, error) {
	return datasets.Load(context.Background(), r.disk, memory.DefaultAllocator, ref)
}

// check wants every problem to be posed once before any is posed twice, no round to
// be learnt from twice, the state and the result to count what was done.
func (r *recorded) check(result *workflows.Result) error {
	learnt, seen := map[string]int{}, map[string]bool{}
	var posed []string
	var completions, original, trained, attempts int64
	for i, s := range r.steps {
		if !r.waits(i) {
			trained += int64(r.kept[i])
		}
		groups := map[int32]bool{}
		for _, round := range s.Rounds {
			hash := round.Proposals.Hash
			if before, ok := learnt[hash]; ok {
				return fmt.Errorf("steps %d and %d learn from the same round", before, s.Step)
			}
			if !r.waits(i) {
				learnt[hash] = s.Step
			}
			t, err := r.load(round.Proposals)
			if err != nil {
				return err
			}
			if round.Stage == "" {
				for _, g := range datasets.Group.Get(t) {
					if groups[g] {
						return fmt.Errorf("step %d has two groups of number %d", s.Step, g)
					}
					groups[g] = true
				}
				if !seen[hash] {
					posed = append(posed, datasets.ProblemID.Get(t)...)
				}
			}
			t.Release()
			if seen[hash] { // it waited in the step before
				continue
			}
			seen[hash] = true
			for _, ref := range round.Rollouts {
				completions += ref.Rows
				t, err := r.load(ref)
				if err != nil {
					return err
				}
				for _, o := range datasets.Origin.Get(t) {
					if o == curriculum.OriginOriginal {
						original++
					}
				}
				t.Release()
			}
		}
	}
	if n := int(r.setup.Tables[activities.TableTrain].Rows); r.plan.Propose.Stage == curriculum.Uniform.Name {
		for epoch := range slices.Chunk(posed, n) {
			if sorted := slices.Sorted(slices.Values(epoch)); len(slices.Compact(sorted)) != len(epoch) {
				return fmt.Errorf("of %d problems some is posed twice in an epoch: %q", n, epoch)
			}
		}
	}
	if result.Trained != trained {
		return fmt.Errorf("the result counts %d tokens trained on, and %d are selected", result.Trained, trained)
	}
	if point := result.Curve[len(result.Curve)-1]; point.Trained != result.Trained || math.Abs(point.PassAt1-result.After.All.PassAt1) > 0 {
		return fmt.Errorf("the curve ends at %+v", point)
	}
	if len(r.plan.Mask) > 0 && result.Inspected-result.Masked != result.Trained {
		return fmt.Errorf("%d tokens are trained on; %d were looked at and %d of them left out", result.Trained, result.Inspected, result.Masked)
	}
	if len(r.steps) == 0 {
		return nil
	}
	if result.Completions != completions {
		return fmt.Errorf("the result counts %d completions, and %d are recorded", result.Completions, completions)
	}
	t, err := r.load(r.steps[len(r.steps)-1].State)
	if err != nil {
		return err
	}
	defer t.Release()
	for _, n := range datasets.Attempts.Get(t) {
		attempts += int64(n)
	}
	if attempts != original {
		return fmt.Errorf("the curriculum state counts %d attempts at the problems as they stand, and there were %d", attempts, original)
	}
	return nil
}
