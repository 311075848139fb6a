package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/workflows"
)

// small is a plan of two steps, with the least model that there is.
const small = `{"steps":2,"levels":[1,3],"problems_per_level":5,"prompts_per_step":3,"num_generations":3,"max_completion_length":4,
	"model":{"hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1},
	"warmup":{"max_steps":0,"min_steps":1,"every":1,"batch_size":2,"target":1,"levels":[1]},
	"evaluation":{"problems_per_level":1,"num_generations":2},"measure_every":2,"mask_top_k":4}`

// plans are what is laid over small: every recipe, and what else changes the order
// of things.
var plans = []string{
	`{"recipe":"grpo","steps":3}`,
	`{"recipe":"grpo","beta":0.01,"num_iterations":2,"mini_batch_size":3,"answer_noise":0.3,"warmup":{"max_steps":2}}`,
	`{"recipe":"grpo","rollout_shards":3,"reuse":false}`,
	`{"recipe":"grpo","warmup":{"max_steps":1},"evaluation":{"every":1}}`,
	`{"recipe":"grpo","propose":{"stage":"revisit"},"max_generated_tokens":40,"steps":5}`,
	`{"recipe":"grpo","problems":"graded","eval_problems":"graded","max_completion_length":4,"verifier":"exact"}`,
	`{"recipe":"grpo","max_staleness":1,"steps":4}`,
	`{"recipe":"dapo"}`,
	`{"recipe":"dapo","short_batch":"wait","max_rollout_rounds":2,"num_generations":2,"steps":4}`,
	`{"recipe":"dr-grpo","propose":{"stage":"oracle"},"evaluation":{"every":1}}`,
	`{"recipe":"lite-ppo","top_k":5,"reuse":false,"warmup":{"max_steps":2}}`,
	`{"recipe":"clpo","families":["running_maxima"]}`,
	`{"recipe":"clpo","families":["sorting"],"rewriter":"policy"}`,
	`{"recipe":"scaf-grpo","exemption":0}`,
	`{"recipe":"scaf-grpo","exemption":0,"search":"sequential","num_generations":2}`,
	`{"recipe":"scaf-grpo","exemption":0,"hint_prompt":"replaced","steps":3}`,
	`{"recipe":"d3s","steps":3}`,
	`{"recipe":"capo","fisher":0.0001,"hessian":0.01,"warmup":{"max_steps":1}}`,
	`{"recipe":"gradus","families":["running_maxima"],"exemption":0,"fisher":0.0001}`,
	`{"recipe":"gradus","exemption":0,"short_batch":"wait","max_rollout_rounds":2,"rollout_shards":1}`,
	`{"recipe":"gradus","exemption":0,"max_staleness":2,"steps":4,"rollout_shards":1}`,
}

// neighbours are changes to a plan, for another experiment in the same store: each
// is a thing that some stage's result depends on, so that none may be mistaken for
// another's.
var neighbours = []string{
	`{}`, `{"seed":77}`, `{"temperature":0.7}`, `{"top_p":0.9}`, `{"learning_rate":0.01}`, `{"beta":0.02}`, `{"num_iterations":3}`,
	`{"num_generations":4}`, `{"prompts_per_step":2}`, `{"verifier":"countdown"}`, `{"answer_noise":0.6}`, `{"steps":6}`, `{"max_completion_length":3}`,
	`{"problems_per_level":4}`, `{"levels":[1,2]}`, `{"train_levels":[1]}`, `{"warmup.learning_rate":0.1}`, `{"warmup.batch_size":3}`,
	`{"evaluation.num_generations":3}`, `{"evaluation.problems_per_level":2}`, `{"measure_every":1}`, `{"mask_top_k":2}`, `{"scale_rewards":"none"}`,
	`{"select":[{"stage":"grpo.advantage"}]}`, `{"mask":[{"stage":"capo.mask"}]}`, `{"assess":{"stage":"posterior"}}`, `{"propose":{"stage":"revisit"}}`,
	`{"rollout_shards":1}`, `{"rollout_shards":4}`, `{"reuse":false}`, `{"reuse":true}`, `{"model.hidden_size":8}`, `{"respond":[]}`,
	`{"exemption":1}`, `{"mode":"hard_only"}`, `{"fisher":0.1}`, `{"families":["running_minima"]}`, `{"short_batch":"wait"}`, `{"epsilon":0.4}`,
}

// near are the neighbours that differ in what only some recipes have; of a plan that
// has it, they are drawn more often.
var near = []struct {
	has     func(recipes.Plan) bool
	changes []string
}{
	{func(p recipes.Plan) bool { return p.Warmup.MaxSteps > 0 }, []string{`{"warmup.batch_size":3}`, `{"warmup.learning_rate":0.1}`}},
	{func(p recipes.Plan) bool { return p.Recipe == "clpo" }, []string{`{"mode":"hard_only"}`, `{"tau_hard":0.1}`}},
	{func(p recipes.Plan) bool { return p.Recipe == "scaf-grpo" }, []string{`{"parts":2}`, `{"search":"sequential"}`, `{"search":"parallel"}`}},
	{func(p recipes.Plan) bool { return p.Recipe == "capo" }, []string{`{"fisher":0.001}`, `{"mask_top_k":2}`}},
}

// neighbour draws a change of a plan.
func neighbour(rng *rand.Rand, p recipes.Plan) string {
	for _, n := range near {
		if n.has(p) && rng.IntN(2) == 0 {
			return n.changes[rng.IntN(len(n.changes))]
		}
	}
	return neighbours[rng.IntN(len(neighbours))]
}

// tunings are changes of a run's plan from some step on.
var tunings = []string{`{"learning_rate":0.02}`, `{"prompts_per_step":2,"temperature":0.8}`, `{"num_generations":4}`, `{"steps":6,"beta":0.05}`}

// Schedule is one experiment and all that goes wrong with it, a function of a seed.
type Schedule struct {
	Seed  uint64
	Plan  string // JSON
	Other string // plan of an experiment that ran in the same store before, "" = none
	Real  bool   // the language model itself computes

	deeds  []deed
	at     string // activity at whose beginning they are done, which makes no difference
	faults faults
	renew  float64
	pauses []deed
}

// String is the schedule in a line.
func (s Schedule) String() string {
	out := fmt.Sprintf("seed %d: plan %s", s.Seed, s.Plan)
	if s.deeds != nil {
		out += fmt.Sprintf(", %s %s in step %d", s.deeds[0].update, s.deeds[0].input, s.deeds[0].step+1)
	}
	if s.Other != "" {
		out += ", after one with " + s.Other
	}
	f := s.faults
	return out + fmt.Sprintf("; %d workers, store %v at %g, crash %g, freeze %g, race %g, orphan %g, renew %g, pauses %d, real %v",
		f.workers, f.kinds, f.rate, f.crash, f.freeze, f.race, f.orphan, s.renew, len(s.pauses), s.Real)
}

// overlay is a JSON object with the members of another laid over it, one level deep
// for sections that both have.
func overlay(base, over string) (string, error) {
	var b, o map[string]any
	if err := json.Unmarshal([]byte(base), &b); err != nil {
		return "", err
	}
	if err := json.Unmarshal([]byte(over), &o); err != nil {
		return "", err
	}
	for k, v := range o {
		if section, rest, dotted := strings.Cut(k, "."); dotted {
			inner, ok := b[section].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			inner[rest], b[section] = v, inner
			continue
		}
		inner, ok := v.(map[string]any)
		if base, both := b[k].(map[string]any); ok && both {
			for k, v := range inner {
				base[k] = v
			}
			continue
		}
		b[k] = v
	}
	raw, err := datasets.Canonical(b)
	return string(raw), err
}

// realEvery is of how many schedules one computes with the language model itself,
// which takes far longer.
const realEvery = 100

// Draw makes the schedule of a seed.
func Draw(seed uint64) (Schedule, error) {
	rng := rand.New(rand.NewPCG(datasets.Stream(seed, "schedule"), 0))
	s := Schedule{Seed: seed, Real: rng.IntN(realEvery) == 0}
	plan, err := overlay(small, plans[rng.IntN(len(plans))])
	if err != nil {
		return s, err
	}
	// Few seeds, as each plan needs a calm run; a second one shows what forgets it.
	if s.Plan, err = overlay(plan, fmt.Sprintf(`{"seed":%d}`, 1+rng.IntN(8)/7)); err != nil {
		return s, err
	}
	frozen, err := recipes.Resolve([]byte(s.Plan))
	if err != nil {
		return s, fmt.Errorf("plan %s: %w", s.Plan, err)
	}
	u := rng.Float64()
	if frozen.MaxStaleness > 0 { // how much is drawn in vain depends on when the user says so
		u = 1
	}
	if u < 0.15 && frozen.Steps > 1 {
		t := tunings[rng.IntN(len(tunings))]
		s.deeds = []deed{{update: workflows.UpdateTune, input: json.RawMessage(t), at: "Propose", step: rng.IntN(frozen.Steps - 1)}}
	} else if u < 0.18 {
		s.deeds = []deed{{update: workflows.UpdateStop, at: "Propose", step: rng.IntN(frozen.Steps)}}
	}
	s.at = []string{"Propose", "Score", "Select"}[rng.IntN(3)]
	if rng.IntN(4) == 0 {
		other, err := overlay(s.Plan, neighbour(rng, frozen))
		if err != nil {
			return s, err
		}
		if _, err := recipes.Resolve([]byte(other)); err == nil { // not every recipe has every option
			s.Other = other
		}
	}
	f := &s.faults
	f.seed, f.workers, f.reorder = datasets.Stream(seed, "faults"), 1+rng.IntN(3), rng.IntN(2) == 0
	f.rate = []float64{0, 0.005, 0.02, 0.08}[rng.IntN(4)]
	for k := Lost; k < Denied; k++ {
		if rng.IntN(2) == 0 {
			f.kinds = append(f.kinds, k)
		}
	}
	if rng.IntN(16) == 0 && !slices.ContainsFunc(s.deeds, func(d deed) bool { return d.update == workflows.UpdateStop }) {
		f.kinds = append(f.kinds, Denied) // a run that is being stopped does not wait for better ones
	}
	chance := func() float64 { return []float64{0, 0, 0.02, 0.1}[rng.IntN(4)] }
	f.crash, f.freeze, f.race, f.orphan = chance(), chance(), chance(), chance()
	s.renew = []float64{0, 0, 0.3, 1}[rng.IntN(4)]
	if rng.IntN(5) == 0 {
		at := []string{"Propose", "Rollout", "Score", "Select", "Update"}[rng.IntN(5)]
		s.pauses = []deed{{update: workflows.UpdatePause, at: at, step: rng.IntN(frozen.Steps)}}
	}
	return s, nil
}

// Simulator runs schedules. It serves several goroutines at once.
type Simulator struct {
	models models

	mu      sync.Mutex
	calms   map[string]*calm  // by plan and deeds
	streams map[uint64]uint64 // of calm runs: the seed of the plan that drew by each
}

// calm is how an experiment ends when nothing goes wrong.
type calm struct {
	once    sync.Once
	outcome *outcome
	err     error
}

// NewSimulator returns one that has run nothing.
func NewSimulator() *Simulator {
	return &Simulator{calms: map[string]*calm{}, streams: map[uint64]uint64{}}
}

// with is what a schedule's activities compute with.
func (s *Simulator) with(real bool, watch func(Call)) computing {
	if real {
		return computing{open: s.models.open}
	}
	return computing{open: (&Instant{Watch: watch}).Open, lookup: Lookup}
}

// Run runs a schedule and says what of its end is not as that of the calm run, ""
// if nothing is.
func (s *Simulator) Run(c Schedule) (difference string, counts Counts, err error) {
	want, err := s.calm(c)
	if err != nil {
		return "", counts, err
	}
	d, err := store()
	if err != nil {
		return "", counts, err
	}
	h := newFleet(d, s.with(c.Real, nil), c.faults)
	var others map[string]string
	if c.Other != "" { // served by the first worker, before anything goes wrong
		before := newFleet(d, h.with, faults{})
		before.processes = h.processes[:1]
		o, _, err := before.experiment("other", c.Other, nil)
		if err != nil {
			return "", counts, fmt.Errorf("the experiment before, %s: %w", c.Other, err)
		}
		others = o.results
		counts[Reused]++
	}
	deeds := slices.Clone(c.deeds)
	for i := range deeds {
		deeds[i].at = c.at
	}
	e := &experiment{fleet: h, id: runID, plan: json.RawMessage(c.Plan), deeds: append(deeds, c.pauses...), renew: func(step int) bool {
		return float64(datasets.Stream(c.Seed, "renew", step)>>11)/(1<<53) < c.renew
	}}
	result, err := e.execute()
	h.close()
	for f, n := range h.counts {
		counts[f] += n
	}
	if err != nil {
		return fmt.Sprintf("the run fails: %v", err), counts, nil
	}
	got, err := outcomeOf(d, runID, result)
	if err != nil {
		return fmt.Sprintf("the store is wrong: %v", err), counts, nil
	}
	if plan, err := recipes.Resolve([]byte(c.Plan)); err == nil && (!plan.Reuse || c.Other == "") && result.Reused != (workflows.Reused{}) {
		return fmt.Sprintf("with reuse off, or nothing to reuse, it %s", result.Reused), counts, nil
	}
	return got.differs(want, others), counts, nil
}

// calm is the outcome of a schedule's experiment when nothing goes wrong, and it is
// right in itself.
func (s *Simulator) calm(c Schedule) (*outcome, error) {
	key := fmt.Sprint(c.Plan, c.deeds, c.Real)
	s.mu.Lock()
	r, ok := s.calms[key]
	if !ok {
		r = &calm{}
		s.calms[key] = r
	}
	s.mu.Unlock()
	r.once.Do(func() {
		d, err := store()
		if err != nil {
			r.err = err
			return
		}
		w := &witness{}
		var result *workflows.Result
		if r.outcome, result, r.err = s.plain(d, runID, c.Plan, c.deeds, c.Real, w.see); r.err == nil && !c.Real {
			r.err = errors.Join(w.check(d, c, result), s.drawn(w, c))
			if r.err == nil && c.deeds == nil {
				r.err = s.recut(c, d, result.Policy)
			}
		}
	})
	if r.err != nil {
		return nil, fmt.Errorf("a calm run of %s: %w", c.Plan, r.err)
	}
	return r.outcome, nil
}

// plain runs an experiment that nothing happens to but what the user does.
func (s *Simulator) plain(d *disk, id, plan string, deeds []deed, real bool, watch func(Call)) (*outcome, *workflows.Result, error) {
	h := newFleet(d, s.with(real, watch), faults{})
	defer h.close()
	return h.experiment(id, plan, deeds)
}

// experiment runs one to its end, and reads its outcome.
func (h *fleet) experiment(id, plan string, deeds []deed) (*outcome, *workflows.Result, error) {
	e := &experiment{fleet: h, id: id, plan: json.RawMessage(plan), deeds: slices.Clone(deeds)}
	result, err := e.execute()
	if err != nil {
		return nil, nil, err
	}
	o, err := outcomeOf(h.disk, id, result)
	return o, result, err
}

// drawn wants each completion to be drawn by randomness of its own, that no plan of
// another seed has.
func (s *Simulator) drawn(w *witness, c Schedule) error {
	streams, err := w.streams()
	if err != nil {
		return err
	}
	plan, err := recipes.Resolve([]byte(c.Plan))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for stream := range streams {
		if seed, ok := s.streams[stream]; ok && seed != plan.Seed {
			return fmt.Errorf("plans of seeds %d and %d draw by the same stream %x", seed, plan.Seed, stream)
		}
		s.streams[stream] = plan.Seed
	}
	return nil
}

// recut runs the experiment with its rollouts cut into another number of shards,
// which must learn the same.
func (s *Simulator) recut(c Schedule, d *disk, want datasets.Ref) error {
	other := `{"rollout_shards":1,"reuse":false}`
	if p, err := recipes.Resolve([]byte(c.Plan)); err == nil && p.RolloutShards == 1 {
		other = `{"rollout_shards":3,"reuse":false}`
	}
	plan, err := overlay(c.Plan, other)
	if err != nil {
		return err
	}
	_, result, err := s.plain(d, "recut", plan, c.deeds, c.Real, nil)
	if err != nil {
		return err
	}
	weights := func(r datasets.Ref) (uint64, error) {
		s, err := policy.LoadModel(context.Background(), d, r)
		if err != nil {
			return 0, err
		}
		return digestOf(s.Weights), nil
	}
	before, err := weights(want)
	if err != nil {
		return err
	}
	after, err := weights(result.Policy)
	if err == nil && before != after {
		err = errors.New("with its rollouts cut into other shards it learns something else")
	}
	return err
}

// store is a simulated one with a problem set of the user's own.
func store() (*disk, error) {
	d := newDisk()
	p, err := published()
	if err == nil {
		maps.Copy(d.objects, p.objects)
	}
	return d, err
}

var published = sync.OnceValues(func() (*disk, error) {
	d := newDisk()
	t, err := families.Make(memory.DefaultAllocator, families.Options{Families: []string{"running_sums"}, Levels: []int{1, 2}, PerLevel: 40, Seed: 5})
	if err != nil {
		return nil, err
	}
	defer t.Release()
	ref, err := datasets.Save(context.Background(), d, t)
	if err != nil {
		return nil, err
	}
	return d, datasets.Publish(context.Background(), d, "graded", ref)
})
