package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
)

// StepRecord is what runs/<id>/steps/<step>.json holds: where to find all
// that a step left behind. One that is amended has a key of its own, so that
// whoever was given up while writing an earlier one cannot write over it. Of the step that a fork starts from, only what the
// fork goes on with is there.
type StepRecord struct {
	Step       int          `json:"step"`
	Amended    int          `json:"amended,omitempty"` // how often it was recorded again, when a plan was tuned between two steps
	Plan       datasets.Ref `json:"plan"`              // that the steps to come follow
	Rounds     []Round      `json:"rounds"`
	Selections datasets.Ref `json:"selections"`
	State      datasets.Ref `json:"state"`
	Policy     datasets.Ref `json:"policy"`  // after the step
	Metrics    datasets.Ref `json:"metrics"` // zero where the step waits for a full batch
}

// Checkpoint is a StepRecord with all that the run goes on from there with. It
// belongs to the workflow; the store takes it as it is.
type Checkpoint struct {
	StepRecord
	Carried any `json:"carried"`
}

// StepKey is where the store keeps a run's Checkpoint after a step, counted
// from 0; that of step -1 is before the first.
func StepKey(run string, step int) string {
	if step < 0 {
		return "runs/" + run + "/start.json"
	}
	return fmt.Sprintf("%s%06d.json", stepFolder(run), step)
}

// key is where the store keeps the record.
func (s StepRecord) key(run string) string {
	key := StepKey(run, s.Step)
	if s.Amended > 0 {
		key = fmt.Sprintf("%s_%06d.json", strings.TrimSuffix(key, ".json"), s.Amended)
	}
	return key
}

// stepKeys are the keys of a step's record and of its amended ones, the newest last.
func stepKeys(ctx context.Context, store datasets.Store, run string, step int) ([]string, error) {
	base := strings.TrimSuffix(StepKey(run, step), ".json")
	found, err := store.List(ctx, base)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, o := range found { // "_" comes after "."
		if rest := strings.TrimPrefix(o.Key, base); rest == ".json" || strings.HasPrefix(rest, "_") {
			keys = append(keys, o.Key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func stepFolder(run string) string { return "runs/" + run + "/steps/" }

// Record stores a run's Checkpoint: once its step is done, and before its first.
func (a *Activities) Record(ctx context.Context, run Run, c Checkpoint) error {
	raw, err := datasets.Canonical(c)
	if err == nil {
		err = a.Store.Put(ctx, c.key(run.ID), raw)
	}
	if err != nil {
		return classify(ctx, fmt.Errorf("record step %d: %w", c.Step+1, err))
	}
	return nil
}

// OpenInput is what an experiment was given.
type OpenInput struct {
	Run   string          `json:"run"` // ID of the experiment itself
	Given json.RawMessage `json:"given"`
}

// Opened is an experiment's frozen plan and, where it goes on from a step that
// is done, what it goes on with.
type Opened struct {
	Resolved
	Carried json.RawMessage `json:"carried,omitempty"`
	Changes json.RawMessage `json:"changes,omitempty"` // of the plan, in their canonical form
}

// Open checks what the user gave and freezes it into a Plan. It is an
// experiment's first activity; what it refuses never starts. With "fork" the
// experiment goes on from a recorded step, of another run or of an earlier
// execution of its own, whose later records are then discarded.
func (a *Activities) Open(ctx context.Context, in OpenInput) (Opened, error) {
	opened, kept, err := Resolve(ctx, a.Store, in)
	if err == nil {
		opened.Resolved, err = a.freeze(ctx, opened.Plan)
	}
	if err == nil {
		err = a.discard(ctx, in.Run, kept)
	}
	return opened, classify(ctx, err)
}

// RewindInput says where a run that is going on goes back to.
type RewindInput struct {
	Run     string          `json:"run"`
	Changes json.RawMessage `json:"changes"` // "step" and any changes of the plan
}

// Rewind looks up where a run goes back to. Nothing is discarded yet.
func (a *Activities) Rewind(ctx context.Context, in RewindInput) (Opened, error) {
	given, err := rewinding(in)
	if err != nil {
		return Opened{}, classify(ctx, invalid{err})
	}
	opened, _, err := Resolve(ctx, a.Store, OpenInput{Run: in.Run, Given: given})
	if err == nil {
		opened.Resolved, err = a.freeze(ctx, opened.Plan)
	}
	return opened, classify(ctx, err)
}

// rewinding is a rewind in the form of a fork of oneself.
func rewinding(in RewindInput) (json.RawMessage, error) {
	var given map[string]json.RawMessage
	var step int
	if json.Unmarshal(in.Changes, &given) != nil || json.Unmarshal(given["step"], &step) != nil {
		return nil, fmt.Errorf(`rewind to %s: want an object such as {"step":40}`, in.Changes)
	}
	delete(given, "step")
	origin, err := json.Marshal(recipes.Origin{Run: in.Run, Step: &step})
	if err != nil {
		return nil, err
	}
	given["fork"] = origin
	return json.Marshal(given)
}

// Discard removes a run's records of the steps after the first done ones. What
// they name stays until the garbage is collected.
func (a *Activities) Discard(ctx context.Context, run Run, done int) error {
	return classify(ctx, a.discard(ctx, run.ID, done))
}

func (a *Activities) discard(ctx context.Context, run string, done int) error {
	steps, err := RecordedSteps(ctx, a.Store, run)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s < done {
			continue
		}
		keys, err := stepKeys(ctx, a.Store, run, s)
		if err != nil {
			return err
		}
		for _, key := range slices.Backward(keys) { // the first last: without it the others are of no step
			if err := a.Store.Delete(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// RecordedSteps are the steps of a run that the store has records of, ascending.
func RecordedSteps(ctx context.Context, store datasets.Store, run string) ([]int, error) {
	var steps []int
	switch _, err := store.Stat(ctx, StepKey(run, -1)); {
	case err == nil:
		steps = append(steps, -1)
	case !errors.Is(err, datasets.ErrNotFound):
		return nil, err
	}
	found, err := store.List(ctx, stepFolder(run))
	if err != nil {
		return nil, err
	}
	for _, o := range found {
		name := strings.TrimSuffix(strings.TrimPrefix(o.Key, stepFolder(run)), ".json")
		if s, err := strconv.Atoi(name); err == nil {
			steps = append(steps, s)
		}
	}
	return steps, nil
}

// Resolve is the plan of an experiment that is given in.Given, not yet frozen,
// with what it goes on with, and how many steps of its own it keeps: those done
// by then, or -1 where all that is recorded under its name is of another run.
func Resolve(ctx context.Context, store datasets.Store, in OpenInput) (Opened, int, error) {
	origin, changes, err := recipes.SplitFork(in.Given)
	if err != nil {
		return Opened{}, 0, invalid{err}
	}
	var opened Opened
	if origin == nil {
		if opened.Plan, err = recipes.Resolve(in.Given); err != nil {
			return Opened{}, 0, invalid{err}
		}
		return opened, -1, nil
	}
	_, plan, carried, err := LoadStep(ctx, store, *origin)
	if err != nil {
		return Opened{}, 0, err
	}
	var so struct {
		Step   int `json:"step"`
		Result struct {
			Tokens int64 `json:"tokens"`
		} `json:"result"`
	}
	if err := json.Unmarshal(carried, &so); err != nil {
		return Opened{}, 0, fmt.Errorf("read the record of %s: %w: %v", origin, datasets.ErrCorrupt, err)
	}
	if plan, err = recipes.Continue(plan, changes, so.Step); err != nil {
		return Opened{}, 0, invalid{err}
	}
	if plan.MaxGeneratedTokens > 0 && so.Result.Tokens >= plan.MaxGeneratedTokens {
		return Opened{}, 0, invalid{fmt.Errorf("max_generated_tokens is %d, and %d are generated: there is nothing to go on with; give more, or an earlier step to go on from",
			plan.MaxGeneratedTokens, so.Result.Tokens)}
	}
	kept := so.Step
	if origin.Run != in.Run {
		kept = -1
		plan.Fork = &recipes.Origin{Run: origin.Run, Step: &so.Step}
	}
	opened.Resolved.Plan, opened.Carried = plan, carried
	if changes != nil {
		if opened.Changes, err = datasets.Canonical(changes); err != nil {
			return Opened{}, 0, invalid{err}
		}
	}
	return opened, kept, nil
}

// LoadStep reads the record of a run's step, its newest where origin names none,
// with the plan that the steps to come follow and what the run goes on with.
func LoadStep(ctx context.Context, store datasets.Store, origin recipes.Origin) (StepRecord, recipes.Plan, json.RawMessage, error) {
	none := func(err error) (StepRecord, recipes.Plan, json.RawMessage, error) {
		return StepRecord{}, recipes.Plan{}, nil, err
	}
	steps, err := RecordedSteps(ctx, store, origin.Run)
	if err != nil {
		return none(err)
	}
	if len(steps) == 0 {
		return none(invalid{fmt.Errorf("the store has no record of a run %q: it never began its training, or its records were deleted", origin.Run)})
	}
	first, last := steps[0]+1, steps[len(steps)-1]+1
	done := last
	if origin.Step != nil {
		done = *origin.Step
	}
	keys, err := stepKeys(ctx, store, origin.Run, done-1)
	if err != nil {
		return none(err)
	}
	if len(keys) == 0 {
		return none(invalid{fmt.Errorf("run %s has no record of step %d; it has those of %d to %d", origin.Run, done, first, last)})
	}
	key := keys[len(keys)-1]
	raw, err := store.Get(ctx, key)
	if err != nil {
		return none(err)
	}
	var record StepRecord
	var carried json.RawMessage
	if err := json.Unmarshal(raw, &struct {
		*StepRecord
		Carried *json.RawMessage `json:"carried"`
	}{&record, &carried}); err != nil || carried == nil {
		return none(fmt.Errorf("%s: %w: %v", key, datasets.ErrCorrupt, err))
	}
	plan, err := loadPlan(ctx, store, record.Plan)
	return record, plan, carried, err
}
