package curriculum

import (
	"errors"
	"math/bits"

	"github.com/gradus-rl/gradus/datasets"
)

// Uniform poses every problem once per epoch, in an order of its own for each
// epoch: sampling without replacement, as a shuffled data loader does. The
// order is a function of (seed, epoch, position), so the cursor is the number
// of groups posed and nothing else needs to be kept; a run that resumes skips
// and repeats nothing.
var Uniform = Proposer{
	Name: "uniform", Paper: "-", Version: 1,
	Reads: []string{"posed"}, Writes: []string{"proposals"},
	Defaults: struct{}{},
	Bind:     datasets.Bind(struct{}{}, uniform),
}

var errNoProblems = errors.New("the problem set is empty")

func uniform(_ struct{}, p *Pose, env datasets.Env) error {
	if p.Problems <= 0 {
		return errNoProblems
	}
	for range p.Groups {
		p.Rows = append(p.Rows, p.next(env))
	}
	return nil
}

// next is the problem at the cursor in the order of Uniform, and moves the
// cursor on.
func (p *Pose) next(env datasets.Env) int32 {
	n := uint64(p.Problems)
	epoch, position := uint64(p.Posed)/n, uint64(p.Posed)%n
	p.Posed++
	return int32(permute(datasets.Stream(env.Seed, "uniform", epoch), position, n))
}

// permute is the image of i under a pseudo-random permutation of [0, n) given
// by key: a four-round Feistel network on the next even power of two, walked
// until it falls below n (Black and Rogaway 2002, "Ciphers with arbitrary
// finite domains", cycle-walking). It costs O(1) and no memory for any n.
func permute(key, i, n uint64) uint64 {
	half := (bits.Len64(max(n, 2)-1) + 1) / 2
	mask := uint64(1)<<half - 1
	for {
		l, r := i>>half, i&mask
		for round := range 4 {
			l, r = r, l^(datasets.Stream(key, round, r)&mask)
		}
		if i = l<<half | r; i < n {
			return i
		}
	}
}
