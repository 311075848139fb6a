package simulate

import (
	"sync"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/policy"
)

// models is the language model itself, whose engines are compiled once for all
// schedules.
type models struct {
	mu   sync.Mutex
	idle map[string][]activities.Engine
}

func (m *models) open(spec string) (activities.Backend, error) {
	b, err := activities.OpenModels(spec)
	return pooled{b, m}, err
}

// pooled is a backend whose engines go back to the models when they are closed.
type pooled struct {
	activities.Backend
	*models
}

func (p pooled) NewEngine(c policy.Config) (activities.Engine, error) {
	key := string(c.JSON())
	p.mu.Lock()
	idle := p.idle[key]
	if n := len(idle); n > 0 {
		p.idle[key] = idle[:n-1]
		p.mu.Unlock()
		return borrowed{idle[n-1], p.models, key}, nil
	}
	p.mu.Unlock()
	e, err := p.Backend.NewEngine(c)
	return borrowed{e, p.models, key}, err
}

type borrowed struct {
	activities.Engine
	from *models
	key  string
}

func (b borrowed) Close() {
	b.from.mu.Lock()
	defer b.from.mu.Unlock()
	if b.from.idle == nil {
		b.from.idle = map[string][]activities.Engine{}
	}
	b.from.idle[b.key] = append(b.from.idle[b.key], b.Engine)
}
