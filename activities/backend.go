package activities

import (
	"context"

	"github.com/gradus-rl/gradus/policy"
)

// Backend makes what computes with policies.
type Backend interface {
	NewEngine(policy.Config) (Engine, error)
	NewTrainer(*policy.State) (Trainer, error)
}

// Engine generates and scores with one policy at a time, as [policy.Engine] does.
type Engine interface {
	Load(policy.Weights) error
	Generate(ctx context.Context, prompts []policy.Prompt, s policy.Sampling, progress func(done, total int)) ([]policy.Completion, error)
	Score(ctx context.Context, rows []policy.Row, temperature float64) ([]policy.Scored, error)
	Inspect(ctx context.Context, rows []policy.Row, temperature float64, o policy.InspectOptions) ([]policy.Inspected, error)
	Divergence(ctx context.Context, rows []policy.Row, before []policy.Inspected, temperature float64) ([][]float32, error)
	Close()
}

// Trainer improves one policy, as [policy.Trainer] does.
type Trainer interface {
	Update(ctx context.Context, samples []policy.Sample, l policy.Learning) (policy.UpdateMetrics, error)
	Model() (policy.Config, *policy.Tokenizer)
	State() (*policy.State, error)
	Close()
}

// models is the Backend that computes with the language model itself.
type models struct{ *policy.Backend }

func (m models) NewEngine(c policy.Config) (Engine, error)   { return policy.NewEngine(m.Backend, c) }
func (m models) NewTrainer(s *policy.State) (Trainer, error) { return policy.NewTrainer(m.Backend, s) }

// OpenModels opens the backend of [policy.OpenBackend].
func OpenModels(spec string) (Backend, error) {
	b, err := policy.OpenBackend(spec)
	if err != nil {
		return nil, err
	}
	return models{b}, nil
}
