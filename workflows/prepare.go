package workflows

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/prepare"
)

// PrepareStatus is where a preparation stands; the answer to QueryStatus.
type PrepareStatus struct {
	Phase    string              `json:"phase"` // opening, the name of the stage in hand, publishing, finished
	Prepared activities.Prepared `json:"prepared"`
	Calls    []datasets.Call     `json:"calls"`             // all stages
	Pieces   int                 `json:"pieces,omitempty"`  // of the difficulty map
	Done     int                 `json:"done,omitempty"`    // of them
	Tokens   int64               `json:"tokens,omitempty"`  // drawn for it
	Trouble  string              `json:"trouble,omitempty"` // why what it waits for has failed so far
}

// Prepare makes a problem set of another one, stage by stage, and publishes it.
// given is a JSON object as recipes.ResolvePreparation takes it. Every stage's
// result, and of a difficulty map every piece's, is stored under a key: what died on
// the way, or is asked for again, goes on from there.
func Prepare(ctx workflow.Context, given json.RawMessage) (*activities.Prepared, error) {
	p := &preparation{Status: PrepareStatus{Phase: "opening"}}
	p.id.ID = workflow.GetInfo(ctx).WorkflowExecution.ID
	if err := workflow.SetQueryHandlerWithOptions(ctx, QueryStatus, p.answer,
		workflow.QueryHandlerOptions{Description: "Where the preparation stands."}); err != nil {
		return nil, err
	}
	if err := p.brief(ctx, &p.opened, acts.OpenPreparation, given); err != nil {
		return nil, err
	}
	p.Resolved, p.id.Plan = p.opened.Resolved, p.opened.Resolved.Ref
	out := &p.Status.Prepared
	out.Name, out.From, out.Problems = p.opened.Preparation.Name, p.opened.Problems, p.opened.Problems
	p.Status.Calls = p.opened.Calls
	if err := workflow.UpsertTypedSearchAttributes(ctx, AttributeProblems.ValueSet(p.opened.Preparation.Problems), AttributeState.ValueSet("preparing")); err != nil {
		return nil, err
	}
	for _, call := range p.opened.Calls {
		if err := p.refine(ctx, call); err != nil {
			return nil, err
		}
	}
	p.phase(ctx, "publishing")
	if err := p.brief(ctx, nil, acts.Publish, activities.PublishInput{Run: p.id, Prepared: *out}); err != nil {
		return nil, err
	}
	p.phase(ctx, "finished")
	return out, workflow.UpsertTypedSearchAttributes(ctx, AttributeState.ValueSet("finished"))
}

// preparation borrows from an experiment how activities are run and mended.
type preparation struct {
	experiment
	Status PrepareStatus
	opened activities.Preparing
}

func (p *preparation) answer() (PrepareStatus, error) {
	s := p.Status
	s.Trouble = p.experiment.Status.Trouble
	return s, nil
}

func (p *preparation) phase(ctx workflow.Context, name string) {
	p.Status.Phase = name
	workflow.SetCurrentDetails(ctx, p.Status.Markdown())
}

// refine runs one stage on what the stages before it left.
func (p *preparation) refine(ctx workflow.Context, call datasets.Call) error {
	p.phase(ctx, call.Stage)
	out := &p.Status.Prepared
	in := activities.RefineInput{Run: p.id, Call: call, Problems: out.Problems}
	switch call.Stage {
	case prepare.DecontaminateStage.Name:
		in.HeldOut = p.opened.HeldOut
	case prepare.TokensStage.Name:
		in.Policy = p.opened.Policy
	case prepare.DifficultyStage.Name:
		if in.Map = p.opened.Map; p.opened.Preparation.Measures() {
			tallied, err := p.measure(ctx, out.Problems)
			if err != nil {
				return err
			}
			in.Map = tallied
		}
	}
	done := activities.PreparedStage{Stage: call.Stage}
	if err := p.do(ctx, QueueCPU, acts.Refine, in, &done.Output); err != nil {
		return err
	}
	if !in.Map.IsZero() {
		done.Tables[activities.TableDifficulty] = in.Map
	}
	out.Problems = done.Tables[activities.TableProblems]
	out.Stages = append(out.Stages, done)
	return nil
}

// maxPieces bounds the pieces that are in hand at once.
const maxPieces = 200

// measure tries the policy on the problems, piece by piece, and returns the
// difficulty map.
func (p *preparation) measure(ctx workflow.Context, problems datasets.Ref) (datasets.Ref, error) {
	d := p.opened.Preparation.Difficulty
	p.Status.Pieces = min(d.Shards, int(problems.Rows))
	rounds := make([]activities.Round, p.Status.Pieces)
	var failed error
	next := 0
	slots := workflow.NewWaitGroup(ctx)
	for range min(maxPieces, len(rounds)) {
		slots.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer slots.Done()
			for failed == nil && next < len(rounds) {
				i := next
				next++
				r, err := p.piece(ctx, problems, i)
				if err != nil {
					failed = err
					return
				}
				rounds[i] = r
				p.Status.Done++
				p.phase(ctx, p.Status.Phase)
			}
		})
	}
	slots.Wait(ctx)
	if failed != nil {
		return datasets.Ref{}, failed
	}
	in := activities.TallyInput{Run: p.id, Problems: problems, Policy: p.opened.Policy}
	for _, r := range rounds {
		if !r.Proposals.IsZero() {
			in.Rounds = append(in.Rounds, activities.Round{Proposals: r.Proposals, Scores: r.Scores})
		}
	}
	var out activities.Output
	err := p.do(ctx, QueueCPU, acts.Tally, in, &out)
	return out.Tables[activities.TableDifficulty], err
}

// piece poses one piece of the problems, has it drawn, and judges the completions.
func (p *preparation) piece(ctx workflow.Context, problems datasets.Ref, i int) (r activities.Round, err error) {
	d := p.opened.Preparation.Difficulty
	var posed, scored activities.Output
	if err := p.brief(ctx, &posed, acts.PosePiece, activities.PosePieceInput{
		Run: p.id, Problems: problems, Policy: p.opened.Policy, NumGenerations: d.NumGenerations, Piece: i, Pieces: p.Status.Pieces,
	}); err != nil {
		return r, err
	}
	r.Proposals = posed.Tables[activities.TableProposals]
	if r.Proposals.IsZero() { // nothing in it fits the policy
		return r, nil
	}
	shards, err := p.shards(ctx, activities.RolloutInput{
		Run: p.id, Purpose: "difficulty", Proposals: r.Proposals, Policy: p.opened.Policy, Shards: 1,
	})
	if err != nil {
		return r, err
	}
	r.Rollouts = append(r.Rollouts, shards[0].out.Tables[activities.TableRollouts])
	p.Status.Tokens += int64(shards[0].out.Metrics["tokens"])
	if err := p.do(ctx, QueueCPU, acts.Score, activities.ScoreInput{Run: p.id, Round: r}, &scored); err != nil {
		return r, err
	}
	r.Scores = scored.Tables[activities.TableScores]
	return r, nil
}

// Markdown is the status as the Temporal UI shows it.
func (s PrepareStatus) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "**prepare %s**: %s\n\n", s.Prepared.Name, s.Phase)
	if s.Pieces > 0 {
		fmt.Fprintf(&b, "Difficulty map: %d of %d pieces, %d tokens.\n\n", s.Done, s.Pieces, s.Tokens)
	}
	if s.Trouble != "" {
		fmt.Fprintf(&b, "Trouble: %s\n\n", s.Trouble)
	}
	b.WriteString("| stage | rows | kept |\n|---|---|---|\n")
	for _, r := range s.Prepared.Stages {
		fmt.Fprintf(&b, "| %s | %.0f | %.0f |\n", r.Stage, r.Metrics[activities.MetricRowsIn], r.Metrics[activities.MetricRowsOut])
	}
	return b.String()
}
