package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
)

// Version is what a step is drawn from: the run as it stands after a number of
// steps.
type Version struct {
	Policy datasets.Ref       `json:"policy"`
	State  datasets.Ref       `json:"state"`
	Known  []activities.Score `json:"known,omitempty"` // pass rates by level of the newest evaluation
}

// version is the run as it stands.
func (e *experiment) version() Version {
	v := Version{Policy: e.Policy, State: e.State}
	if e.Status.Current != nil {
		v.Known = e.Status.Current.Levels
	}
	return v
}

// drawing is what is drawn for a step: all until something is selected of it.
type drawing struct {
	step      int
	from      Version
	rounds    []activities.Round
	posed     int64 // cursor of the proposing stage
	nextGroup int32 // first free group number
	reused    Reused
	tally     *tally
}

// ahead is the steps that are drawn while earlier ones are learnt from, by the
// plan's max_staleness k. Step n, counted from 0, is drawn from the version after
// n−k steps, also where a newer one is there by then, and after step n−1 is drawn,
// so what it gets is a function of the plan and of what Carried holds. Nothing of
// it is carried on: whoever goes on draws the same, and finds by its key what is
// drawn already.
type ahead struct {
	drawn  []*drawing // of the step in hand and those to come, in order
	busy   bool       // a step is being drawn
	cancel workflow.CancelFunc
	err    error // why drawing ended
}

// passed is called where a step is done: the run as it stands is the newest
// version, and the step's drawing has had its use.
func (e *experiment) passed() {
	k := e.plan().MaxStaleness
	if k == 0 {
		e.Versions = nil
		return
	}
	e.Versions = append(e.Versions, e.version())
	e.Versions = e.Versions[max(0, len(e.Versions)-k-1):]
	e.ahead.drawn = e.ahead.drawn[1:]
}

// next is what is drawn for the step in hand.
func (e *experiment) next(ctx workflow.Context) (*drawing, error) {
	if e.plan().MaxStaleness == 0 {
		d := e.begin(ctx, e.Step, e.version())
		return d, e.draw(ctx, d)
	}
	begin := workflow.Now(ctx)
	if err := workflow.Await(ctx, func() bool { return len(e.ahead.drawn) > 0 || e.ahead.err != nil }); err != nil {
		return nil, err
	}
	if len(e.ahead.drawn) == 0 {
		return nil, e.ahead.err
	}
	d := e.ahead.drawn[0]
	// Of the step's time, the stages of drawing have what was waited for them.
	d.tally.begin, d.tally.work = begin, workflow.Now(ctx).Sub(begin).Seconds()-d.tally.curriculum
	return d, nil
}

// begin is the drawing of a step at its beginning.
func (e *experiment) begin(ctx workflow.Context, step int, from Version) *drawing {
	d := &drawing{step: step, from: from, posed: e.Posed, nextGroup: e.NextGroup, tally: &tally{begin: workflow.Now(ctx), metrics: map[string]float64{}}}
	if n := len(e.ahead.drawn); n > 0 {
		d.posed, d.nextGroup = e.ahead.drawn[n-1].posed, e.ahead.drawn[n-1].nextGroup
	}
	// Groups are numbered within an update, whose rounds may be those of several
	// steps. Of a step to come nobody knows yet.
	waits := step == e.Step && len(e.Pending) > 0 || e.plan().MaxStaleness > 0 && e.plan().ShortBatch == "wait"
	if !waits || d.nextGroup > 1<<30 {
		d.nextGroup = 0
	}
	return d
}

// drawAhead draws, beside what goes on, the step to come and those after it that
// the plan allows. It does nothing where it does so already.
func (e *experiment) drawAhead(ctx workflow.Context) {
	if e.ahead.busy || !e.mayDraw() {
		return
	}
	if len(e.Versions) == 0 {
		e.Versions = []Version{e.version()}
	}
	ctx, e.ahead.cancel = workflow.WithCancel(ctx)
	e.ahead.busy = true
	workflow.Go(ctx, func(ctx workflow.Context) {
		for e.mayDraw() {
			n := e.Step + len(e.ahead.drawn)
			newest := len(e.Versions) - 1 // is of the steps done
			d := e.begin(ctx, n, e.Versions[max(0, newest+n-e.Step-e.plan().MaxStaleness)])
			if e.ahead.err = e.draw(ctx, d); e.ahead.err == nil {
				e.ahead.drawn = append(e.ahead.drawn, d)
			}
		}
		e.ahead.busy = false
	})
}

// mayDraw reports whether the next step may be drawn: it will come, as far as
// one knows, and what it is drawn from is there.
func (e *experiment) mayDraw() bool {
	p, n := e.plan(), len(e.ahead.drawn)
	if p.MaxStaleness == 0 || e.ahead.err != nil || n > p.MaxStaleness || e.Step+n >= p.Steps {
		return false
	}
	tokens := e.Result.Tokens
	for _, d := range e.ahead.drawn {
		tokens += d.tally.tokens
	}
	if p.MaxGeneratedTokens > 0 && tokens >= p.MaxGeneratedTokens {
		return false
	}
	changes := e.Status.Paused || e.Status.Stopped || e.Next != nil || e.back != nil
	return !changes || n == 0 && e.busy // which the step in hand waits for
}

// settle waits until nothing is being drawn.
func (e *experiment) settle(ctx workflow.Context) error {
	if !e.ahead.busy {
		return nil
	}
	return workflow.Await(ctx, func() bool { return !e.ahead.busy })
}

// drop forgets what is drawn ahead.
func (e *experiment) drop(ctx workflow.Context) error {
	err := e.settle(ctx)
	e.ahead = ahead{}
	return err
}

// draw poses a step's problems round by round, tries them, and answers what
// failed.
func (e *experiment) draw(ctx workflow.Context, d *drawing) error {
	p := e.plan()
	kept := 0
	for round := 0; round < p.MaxRolloutRounds && (round == 0 || kept < p.PromptsPerStep); round++ {
		groups := p.PromptsPerStep - kept
		var proposed activities.Output
		if err := e.brief(ctx, &proposed, acts.Propose, activities.ProposeInput{
			Run: e.id, Problems: e.Setup[activities.TableTrain], State: d.from.State, Step: d.step, Posed: d.posed, FirstGroup: d.nextGroup, Groups: groups, Known: d.from.Known,
		}); err != nil {
			return err
		}
		d.reused.count(proposed, &d.reused.Others)
		d.tally.curriculum += proposed.Seconds
		d.posed = int64(proposed.Metrics[activities.MetricPosed])
		d.nextGroup += int32(groups)
		r := activities.Round{Proposals: proposed.Tables[activities.TableProposals]}
		mixed, err := e.try(ctx, &r, d)
		if err != nil {
			return err
		}
		d.rounds = append(d.rounds, r)
		kept += mixed
	}
	return e.respond(ctx, d)
}

// try rolls a round out and has it verified. It returns how many groups got
// rewards that are not all equal.
func (e *experiment) try(ctx workflow.Context, r *activities.Round, d *drawing) (mixed int, err error) {
	t := d.tally
	drawn, err := e.rollout(ctx, r, d.from.Policy, "train", d.step, false, &d.reused)
	if err != nil {
		return 0, err
	}
	t.work += drawn.seconds
	t.completions += drawn.completions
	t.tokens += drawn.tokens
	if e.plan().Rollout.Engine != "" {
		t.metrics[activities.MetricRescored] += drawn.rescored
	}
	if r.Request {
		t.metrics["num_tokens/request"] += float64(drawn.tokens)
		return 0, nil
	}
	var scored activities.Output
	if err := e.brief(ctx, &scored, acts.Score, activities.ScoreInput{Run: e.id, Step: d.step, Round: *r}); err != nil {
		return 0, err
	}
	r.Scores = scored.Tables[activities.TableScores]
	d.reused.count(scored, &d.reused.Others)
	t.work += scored.Seconds
	t.verified += int64(scored.Metrics["verifier/calls"])
	for _, name := range []string{"verifier/calls", "verifier/timeout", "verifier/error", "verifier/no_answer"} {
		t.metrics[name] += scored.Metrics[name]
	}
	return int(scored.Metrics[activities.MetricMixed]), nil
}

// respond asks the plan's responding stages, each until it has nothing more to
// propose, and tries what they propose.
func (e *experiment) respond(ctx workflow.Context, d *drawing) error {
	for i, call := range e.plan().Respond {
		for turn := range maxTurns {
			var out activities.Output
			if err := e.brief(ctx, &out, acts.Respond, activities.RespondInput{
				Run: e.id, Step: d.step, Stage: i, Turn: turn, Problems: e.Setup[activities.TableTrain], State: d.from.State, Policy: d.from.Policy,
				Rounds: d.rounds, NextGroup: d.nextGroup,
			}); err != nil {
				return err
			}
			d.reused.count(out, &d.reused.Responses)
			d.tally.curriculum += out.Seconds
			d.tally.keep(out.Metrics)
			d.nextGroup = int32(out.Metrics[activities.MetricNextGroup])
			proposals, ok := out.Tables[activities.TableProposals]
			if !ok {
				break
			}
			r := activities.Round{Proposals: proposals, Stage: call.Stage, Request: out.Metrics[activities.MetricRequest] == 1}
			if _, err := e.try(ctx, &r, d); err != nil {
				return err
			}
			d.rounds = append(d.rounds, r)
		}
	}
	return nil
}

// maxTurns bounds how often a responding stage is asked in one step.
const maxTurns = 64
