// Package prepare holds the stages that turn a problem set into another one: they
// normalise texts, leave out what repeats, cut the set, add columns and choose rows.
// Each is a pure function; [Stages] lists them in the order in which a preparation
// runs those that it asks for.
package prepare

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/datasets"
)

// Stage is one step of a preparation.
type Stage = datasets.Stage[*Set]

// Stages are all stages.
func Stages() []Stage {
	return []Stage{NormaliseStage, DeduplicateStage, DecontaminateStage, SplitStage, TokensStage, DifficultyStage, HintsStage, RewritesStage, FilterStage}
}

// Set is a problem set in a stage's hands, with what the stage may need besides and
// what it leaves.
type Set struct {
	Problems *datasets.Table // of kind problems/1; a stage that changes it puts another in its place
	HeldOut  []HeldOut       // sets to compare with
	Measured *Measured       // how a policy did on some of the problems
	Count    func(text string) (tokens int, err error)

	Dropped map[string]int     // rows left out, by reason
	Figures map[string]float64 // what else there is to count
	Matches []Match            // rows that repeat others, by row
}

// HeldOut is a problem set that is kept for evaluations.
type HeldOut struct {
	Name       string
	ID, Prompt []string
}

// Match is a problem that repeats another one.
type Match struct {
	ID, Prompt         string
	Reason             string // exact, near or contaminated
	Set                string // held-out set of the other one, "" = its own set
	Other, OtherPrompt string
	Similarity         float64 // Jaccard's index of the shingles, or the share of the other's n-grams
	Shared             string  // the first n-gram that both have; "" of duplicates
	row                int32
}

// NewSet is a set of t's rows. It holds a reference of its own.
func NewSet(t *datasets.Table) *Set {
	t.Retain()
	return &Set{Problems: t, Dropped: map[string]int{}, Figures: map[string]float64{}}
}

// Release drops the reference to the problems.
func (s *Set) Release() { s.Problems.Release() }

// Run runs one stage and makes sure that every row is there or was dropped for a
// reason.
func (s *Set) Run(call datasets.Call) error {
	before, dropped := s.Problems.Rows(), 0
	if err := datasets.Run(Stages(), []datasets.Call{call}, s, datasets.Env{}); err != nil {
		return err
	}
	for _, n := range s.Dropped {
		dropped += n
	}
	if s.Problems.Rows()+dropped != before {
		return fmt.Errorf("%s: %d rows came out and %d were dropped of %d", call.Stage, s.Problems.Rows(), dropped, before)
	}
	return nil
}

// Check runs the calls on none of the set's rows, so that what they cannot do is
// known before any of them works.
func Check(t *datasets.Table, calls []datasets.Call) error {
	none, err := datasets.Take(memory.DefaultAllocator, t, nil)
	if err != nil {
		return err
	}
	defer none.Release()
	s := NewSet(none)
	defer func() { s.Release() }()
	s.Measured, s.Count = &Measured{}, func(string) (int, error) { return 0, errors.New("no policy") }
	for _, c := range calls {
		if err := s.Run(c); err != nil {
			return err
		}
	}
	return nil
}

// keep leaves the rows given.
func (s *Set) keep(rows []int32) error {
	return s.swap(datasets.Take(memory.DefaultAllocator, s.Problems, rows))
}

// with puts columns in their place.
func (s *Set) with(columns ...datasets.Data) error {
	return s.swap(datasets.With(memory.DefaultAllocator, s.Problems, columns...))
}

func (s *Set) swap(t *datasets.Table, err error) error {
	if err != nil {
		return err
	}
	s.Problems.Release()
	s.Problems = t
	return nil
}

// drop leaves out the rows that matched.
func (s *Set) drop() error {
	var rows []int32
	at := 0
	for i := range int32(s.Problems.Rows()) {
		if at < len(s.Matches) && s.Matches[at].row == i {
			for s.Dropped[s.Matches[at].Reason]++; at < len(s.Matches) && s.Matches[at].row == i; at++ {
			}
			continue
		}
		rows = append(rows, i)
	}
	return s.keep(rows)
}

// flag notes the rows that matched in a column.
func (s *Set) flag(c datasets.Column[string]) error {
	flags := make([]string, s.Problems.Rows())
	for _, m := range s.Matches {
		if flags[m.row] == "" {
			flags[m.row] = m.Other
			s.Figures[m.Reason]++
		}
	}
	return s.with(c.Of(flags))
}

// parallel has f work on the rows [lo, hi) of n, in pieces as there are cores.
func parallel(n int, f func(lo, hi int)) {
	pieces := min(n, 4*runtime.GOMAXPROCS(0))
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range pieces {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			f(n*i/pieces, n*(i+1)/pieces)
		})
	}
	group.Wait()
}
