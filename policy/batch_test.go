package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBucket(t *testing.T) {
	sizes := map[int]bool{}
	for n := 1; n <= 4096; n++ {
		b := bucket(n)
		if b < n || b > n+n/8 || bucket(b) != b {
			t.Errorf("bucket(%d) is %d, of which the bucket is %d", n, b, bucket(b))
		}
		sizes[b] = true
	}
	if len(sizes) != 16+8*8 {
		t.Errorf("%d sizes up to 4096, want 16 up to 16 and 8 per octave", len(sizes))
	}
}

// Every row must be in one batch and one place, whatever the sizes.
func TestBatchesHoldEveryRowOnce(t *testing.T) {
	c := tinyModels["grouped"]
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		prompts := make([][]int32, 1+rng.IntN(6))
		for i := range prompts {
			prompts[i] = randomIDs(rng, c, 1+rng.IntN(40))
		}
		rows := make([]Row, 1+rng.IntN(60))
		for i := range rows {
			rows[i] = Row{prompts[rng.IntN(len(prompts))], randomIDs(rng, c, rng.IntN(30))}
		}
		shards := 1 + rng.IntN(3)
		all := groups(len(rows), func(i int) ([]int32, int) { return rows[i].Prompt, len(rows[i].Completion) })
		samples := width(all, shards)
		limit := c.fits(20000)
		var seen []int
		for _, part := range deal(split(all, samples), shards) {
			for _, b := range batches(part, samples, limit) {
				if len(b.groups) > 1 {
					exact := b
					exact.prompts = len(b.groups)
					if !limit(exact) {
						t.Errorf("seed %d: batch of %d prompts is too large", seed, len(b.groups))
					}
				}
				places := map[int]bool{}
				b.each(func(row, place int) {
					seen = append(seen, row)
					if places[place] || place >= b.prompts*b.samples {
						t.Errorf("seed %d: place %d of %d×%d", seed, place, b.prompts, b.samples)
					}
					places[place] = true
					if own := b.groups[place/b.samples].prompt; !slices.Equal(own, rows[row].Prompt) || len(own)-1 > b.prefix || len(rows[row].Completion) > b.completion {
						t.Errorf("seed %d: row %d does not fit its batch", seed, row)
					}
				})
			}
		}
		slices.Sort(seen)
		want := make([]int, len(rows))
		for i := range want {
			want[i] = i
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("seed %d (-rows +batched):\n%s", seed, diff)
		}
	}
}

func TestWidth(t *testing.T) {
	with := func(prompt, rows, longest int) group {
		return group{make([]int32, prompt), make([]int, rows), longest}
	}
	for name, test := range map[string]struct {
		all    []group
		shards int
		want   int
	}{
		"equal groups share their prompts":          {[]group{with(10, 8, 10), with(10, 8, 10)}, 2, 8},
		"one group is cut for two shards":           {[]group{with(10, 8, 10)}, 2, 4},
		"a group of one does not pad to eight":      {[]group{with(2, 8, 10), with(2, 1, 10), with(2, 1, 10)}, 1, 1},
		"long prompts are worth padded places":      {[]group{with(100, 8, 10), with(100, 7, 10)}, 1, 8},
		"more shards than rows ask for no more":     {[]group{with(10, 2, 10)}, 5, 1},
		"supervised rows have prompts of their own": {[]group{with(10, 1, 5), with(10, 1, 5)}, 2, 1},
	} {
		if got := width(test.all, test.shards); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestDealBalances(t *testing.T) {
	var all []group
	for n := range 20 {
		all = append(all, group{make([]int32, n+1), []int{n}, n})
	}
	work := [2]int{}
	for i, part := range deal(all, 2) {
		for _, g := range part {
			work[i] += len(g.prompt) + max(1, g.longest)
		}
	}
	if work[0] > work[1]+40 || work[1] > work[0]+40 {
		t.Errorf("work %v", work)
	}
}
