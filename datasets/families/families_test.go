package families_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/families"
	"github.com/gradus-rl/gradus/reward"
)

func ExampleFamily() {
	for _, f := range families.All() {
		p := f.Generate(rand.New(rand.NewPCG(1, 2)), 2)
		fmt.Println(f.Name, p.Prompt, p.Solution)
	}
	// Output:
	// base_conversion base(4,2)= 4=2*2+0;2=1*2+0;1=0*2+1;100
	// chain_sum 7-6-7= 1;-6
	// countdown 405:15,12,15= 12+15=27;27*15=405;(12+15)*15
	// fractions 2/3-2/3= 2/3-2/3=2/3-2/3=0/3=0
	// gcd gcd(456,144)= 456%144=24;144%24=0;24
	// linear_equation 3x-8=10;x= 3x=18;x=6
	// modular_power 20^4%26= 20^2=10;20^4=22
	// multiplication 79*6= 79*6=474
	// reverse reverse(hghh)= hhgh
	// running_counts 767//////= 112
	// running_differences 767------= 798
	// running_maxima 767^^^^^^= 777
	// running_minima 767______= 766
	// running_products 545******= 562
	// running_sums 767......= 730
	// sequence_next 18,41,64,87,?= 23,23,23;110
	// sorting sort(7,6,7,7)= 6,7,7,7
}

func ExampleMake() {
	problems, err := families.Make(memory.DefaultAllocator, families.Options{
		Families: []string{"running_sums"}, Levels: []int{2, 8}, PerLevel: 2, Seed: 1,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer problems.Release()
	prompts, answers := datasets.Prompt.Get(problems), datasets.Answer.Get(problems)
	for i, id := range datasets.ProblemID.Get(problems) {
		fmt.Println(id, prompts[i], answers[i])
	}
	// Output:
	// running_sums-2-a14e955e 999......= 987
	// running_sums-2-eb06a0ab 473......= 414
	// running_sums-8-55123915 104369189= 115843421
	// running_sums-8-dee2c85e 855572336= 838302584
}

// draw calls f with problems of every family and level.
func draw(t *testing.T, perLevel int, f func(t *testing.T, family families.Family, level int, p families.Problem)) {
	for _, family := range families.All() {
		t.Run(family.Name, func(t *testing.T) {
			for level := 1; level <= families.Levels; level++ {
				rng := rand.New(rand.NewPCG(7, uint64(level)))
				for range perLevel {
					f(t, family, level, family.Generate(rng, level))
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}

// The digits stand at the left of a padded field, and each result is that of its digit and the result before it.
func TestRunning(t *testing.T) {
	for name, c := range map[string]struct {
		pad  string
		next func(result, digit int) int
	}{
		"running_sums":        {".", func(result, digit int) int { return (result + digit) % 10 }},
		"running_counts":      {"/", func(result, digit int) int { return (result + digit%2) % 10 }},
		"running_differences": {"-", func(result, digit int) int { return (10 + digit - result) % 10 }},
		"running_maxima":      {"^", func(result, digit int) int { return max(result, digit) }},
		"running_minima":      {"_", func(result, digit int) int { return min(result, digit) }},
		"running_products":    {"*", func(result, digit int) int { return result * digit % 7 }},
	} {
		family, err := families.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for level := 1; level <= families.Levels; level++ {
			for seed := range uint64(20) {
				p := family.Generate(rand.New(rand.NewPCG(seed, 0)), level)
				if want := max(10, level+2); len(p.Prompt) != want {
					t.Errorf("level %d: prompt %q has %d characters, want %d", level, p.Prompt, len(p.Prompt), want)
				}
				digits := strings.TrimRight(p.Prompt, c.pad+"=")
				if len(digits) != level+1 || len(p.Answer) != level+1 || p.Solution != p.Answer || len(p.Steps) != level+1 {
					t.Errorf("level %d: %q answered by %q, want %d digits", level, p.Prompt, p.Answer, level+1)
				}
				result := int(digits[0] - '0')
				if name == "running_counts" {
					result %= 2
				}
				for i := range digits {
					if i > 0 {
						result = c.next(result, int(digits[i]-'0'))
					}
					if got := int(p.Answer[i] - '0'); got != result {
						t.Errorf("%q answered by %q: digit %d is %d, want %d", p.Prompt, p.Answer, i, got, result)
					}
				}
			}
		}
	}
}

// By hand: 3, 5−3, 7−2 modulo 10, and 3, 3·5, 1·4 modulo 7.
func TestRunningByHand(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"running_differences": {"35-------=": "32", "09-------=": "09", "90-------=": "91", "357------=": "325"},
		"running_products":    {"35*******=": "31", "66*******=": "61", "16*******=": "16", "354******=": "314"},
	} {
		family, err := families.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for range 20000 {
			for level := 1; level <= 2; level++ {
				p := family.Generate(rng, level)
				if answer, ok := want[p.Prompt]; ok {
					if p.Answer != answer {
						t.Errorf("%s: %q answered by %q, want %q", name, p.Prompt, p.Answer, answer)
					}
					delete(want, p.Prompt)
				}
			}
		}
		if len(want) > 0 {
			t.Errorf("%s: %v were not drawn", name, want)
		}
	}
}

func TestFamilies(t *testing.T) {
	all := families.All()
	if len(all) < 10 {
		t.Errorf("%d families", len(all))
	}
	for i, f := range all {
		if i > 0 && all[i-1].Name >= f.Name {
			t.Errorf("%q is not in order", f.Name)
		}
		if _, err := reward.ByName(f.Verifier); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
		if !strings.Contains(f.Doc, "level k") {
			t.Errorf("%s: its doc does not say what a level is: %q", f.Name, f.Doc)
		}
		if got, err := families.Lookup(f.Name); err != nil || got.Name != f.Name {
			t.Errorf("Lookup(%q) = %q, %v", f.Name, got.Name, err)
		}
	}
	if _, err := families.Lookup("riddles"); err == nil || !strings.Contains(err.Error(), "running_sums") {
		t.Errorf("Lookup of an unknown family: %v", err)
	}
}

// The solution is right and says so at its end; what differs from it in the answer is wrong.
func TestSolutions(t *testing.T) {
	draw(t, 200, func(t *testing.T, family families.Family, level int, p families.Problem) {
		verifier, err := reward.ByName(family.Verifier)
		if err != nil {
			t.Fatal(err)
		}
		check := func(completion string, want reward.Outcome) {
			t.Helper()
			if got, err := verifier.Verify(t.Context(), completion, p.Answer); err != nil || got.Outcome != want {
				t.Errorf("level %d, %q answered by %q: %+v, %v; want %s", level, p.Prompt, completion, got, err, want)
			}
		}
		if joined := strings.Join(p.Steps, ""); joined != p.Solution || slices.Contains(p.Steps, "") {
			t.Errorf("level %d, %q: steps %q are not the solution %q", level, p.Prompt, p.Steps, p.Solution)
		}
		check(p.Solution, reward.Correct)
		check("", reward.NoAnswer)
		check(p.Solution+"1", reward.Wrong) // one character too many
		if family.Verifier != "countdown" {
			check(p.Answer, reward.Correct)
			check("9"+strings.TrimPrefix(p.Answer, "-"), reward.Wrong)
		} else {
			target, _, _ := strings.Cut(p.Answer, ":")
			check(target, reward.Wrong) // the target itself is not given
		}
	})
}

// The declared alphabet is what prompts and solutions are made of: no more and no less.
func TestAlphabet(t *testing.T) {
	used := map[string]map[rune]bool{}
	draw(t, 400, func(t *testing.T, family families.Family, level int, p families.Problem) {
		set := used[family.Name]
		if set == nil {
			set = map[rune]bool{}
			used[family.Name] = set
		}
		for _, r := range p.Prompt + p.Solution {
			set[r] = true
		}
	})
	everything := map[rune]bool{}
	for _, f := range families.All() {
		var got []rune
		for r := range used[f.Name] {
			got, everything[r] = append(got, r), true
		}
		slices.Sort(got)
		if f.Alphabet != string(got) {
			t.Errorf("%s: alphabet %q, used %q", f.Name, f.Alphabet, string(got))
		}
		if one := families.Alphabet([]string{f.Name, "riddles"}); one != f.Alphabet {
			t.Errorf("Alphabet(%s) = %q, want %q", f.Name, one, f.Alphabet)
		}
	}
	all := families.Alphabet(nil)
	if len(all) != len(everything) || !slices.IsSorted([]byte(all)) {
		t.Errorf("Alphabet(nil) = %q has %d characters, want %d", all, len(all), len(everything))
	}
	if got, want := families.Alphabet([]string{"running_sums", "sorting"}), "(),.0123456789=orst"; got != want {
		t.Errorf("of two families: %q, want %q", got, want)
	}
}

// Prompts end with a cue, are plain ASCII, and grow with the level, as solutions do.
func TestLevels(t *testing.T) {
	const n = 1000
	work := map[string]*[families.Levels + 1]float64{}
	draw(t, n, func(t *testing.T, family families.Family, level int, p families.Problem) {
		if !strings.HasSuffix(p.Prompt, "=") || len(p.Prompt) > 80 || len(p.Solution) > 400 {
			t.Errorf("level %d: %q answered by %q", level, p.Prompt, p.Solution)
		}
		if work[family.Name] == nil {
			work[family.Name] = new([families.Levels + 1]float64)
		}
		work[family.Name][level] += float64(len(p.Solution)) / n
	})
	for name, length := range work {
		for level := 2; level <= families.Levels; level++ {
			if length[level] <= length[level-1] {
				t.Errorf("%s: solutions of level %d have %.1f characters in the mean, those below %.1f", name, level, length[level], length[level-1])
			}
		}
	}
}

// encoded makes a problem set and returns its rows and its bytes.
func encoded(t *testing.T, o families.Options) (ids, prompts []string, data []byte) {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	problems, err := families.Make(mem, o)
	if err != nil {
		t.Fatal(err)
	}
	defer problems.Release()
	ids, prompts = datasets.ProblemID.Get(problems), datasets.Prompt.Get(problems)
	if data, err = datasets.Encode(problems); err != nil {
		t.Fatal(err)
	}
	return ids, prompts, data
}

func TestMakeIsDeterministic(t *testing.T) {
	o := families.Options{PerLevel: 20, Seed: 5}
	_, _, first := encoded(t, o)
	_, _, again := encoded(t, o)
	if !bytes.Equal(first, again) {
		t.Error("one seed gives different bytes")
	}
	ids, _, _ := encoded(t, o)
	o.Seed++
	others, _, _ := encoded(t, o)
	if cmp.Equal(ids, others) {
		t.Error("two seeds give the same problems")
	}
}

// The problems of a level do not depend on what else is drawn, and fewer are the first of more.
func TestMakeIsStable(t *testing.T) {
	all, _, _ := encoded(t, families.Options{PerLevel: 30, Seed: 5})
	some, _, _ := encoded(t, families.Options{Families: []string{"gcd"}, Levels: []int{7}, PerLevel: 10, Seed: 5})
	var want []string
	for _, id := range all {
		if strings.HasPrefix(id, "gcd-7-") && len(want) < 10 {
			want = append(want, id)
		}
	}
	if diff := cmp.Diff(want, some); diff != "" {
		t.Errorf("(-all +some):\n%s", diff)
	}
}

func TestMakeRows(t *testing.T) {
	problems, err := families.Make(memory.DefaultAllocator, families.Options{
		Families: []string{"sorting", "gcd"}, Levels: []int{3, 1}, PerLevel: 25, Seed: 9, Split: families.Validation,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer problems.Release()
	if problems.Kind() != datasets.KindProblems || problems.Rows() != 100 {
		t.Errorf("kind %q with %d rows", problems.Kind(), problems.Rows())
	}
	var order []string
	levels, sources := datasets.Level.Get(problems), datasets.Source.Get(problems)
	for i, source := range sources {
		order = append(order, fmt.Sprint(source, levels[i]))
	}
	if diff := cmp.Diff([]string{"sorting1", "gcd1", "sorting3", "gcd3"}, slices.Compact(order)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	verifiers, steps, solutions := datasets.Verifier.Get(problems), datasets.Steps.Get(problems), datasets.Solution.Get(problems)
	for i, source := range sources {
		family, err := families.Lookup(source)
		if err != nil || verifiers[i] != family.Verifier || strings.Join(steps.Row(i), "") != solutions[i] {
			t.Errorf("row %d: %q, %q, %q, %v", i, verifiers[i], steps.Row(i), solutions[i], err)
		}
	}
	lineage, err := problems.Lineage()
	var params families.Options
	if err != nil || json.Unmarshal(lineage.Params, &params) != nil || lineage.Seed != 9 || params.Split != families.Validation {
		t.Errorf("lineage %+v, %v", lineage, err)
	}
}

// No prompt is in two splits, whatever the seeds; the splits have their shares; identifiers and prompts are distinct.
func TestSplits(t *testing.T) {
	home := map[string]string{}
	rows := map[string]int{}
	for _, split := range []string{families.Train, families.Validation, families.Test} {
		for seed := range uint64(2) {
			ids, prompts, _ := encoded(t, families.Options{PerLevel: 40, Seed: seed, Split: split})
			unique := map[string]bool{}
			for i, id := range ids {
				family := id[:strings.IndexByte(id, '-')]
				key := family + " " + prompts[i]
				if other, taken := home[key]; taken && other != split {
					t.Errorf("%q is in %s and in %s", key, other, split)
				}
				home[key] = split
				if unique[id] {
					t.Errorf("%s: %s appears twice", split, id)
				}
				unique[id] = true
			}
			rows[split] += len(ids)
		}
	}
	// level 1 of running sums has 100 prompts in all, which shows the shares
	total := 0
	for split, want := range map[string][2]int{families.Train: {65, 85}, families.Validation: {8, 18}, families.Test: {8, 18}} {
		ids, _, _ := encoded(t, families.Options{Families: []string{"running_sums"}, Levels: []int{1}, PerLevel: 1000, Split: split})
		if len(ids) < want[0] || len(ids) > want[1] {
			t.Errorf("%s: %d of 100 prompts, want %v", split, len(ids), want)
		}
		total += len(ids)
	}
	if total != 100 {
		t.Errorf("%d prompts in all splits, want 100", total)
	}
}

func TestMakeRefuses(t *testing.T) {
	for _, tt := range []struct {
		o    families.Options
		want string
	}{
		{families.Options{}, "per_level 0"},
		{families.Options{PerLevel: families.MaxPerLevel + 1}, "per_level"},
		{families.Options{PerLevel: 1, Families: []string{"riddles"}}, `"riddles"`},
		{families.Options{PerLevel: 1, Families: []string{"gcd", "gcd"}}, `"gcd" is named twice`},
		{families.Options{PerLevel: 1, Levels: []int{0}}, "level 0"},
		{families.Options{PerLevel: 1, Levels: []int{11}}, "level 11"},
		{families.Options{PerLevel: 1, Levels: []int{2, 2}}, "level 2 is named twice"},
		{families.Options{PerLevel: 1, Split: "dev"}, `"dev"`},
	} {
		problems, err := families.Make(memory.DefaultAllocator, tt.o)
		if err == nil {
			problems.Release()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "make problems: ") {
			t.Errorf("%+v: error %v, want it to name %s", tt.o, err, tt.want)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	rows := 0
	for b.Loop() {
		problems, err := families.Make(memory.DefaultAllocator, families.Options{PerLevel: 100, Seed: 1})
		if err != nil {
			b.Fatal(err)
		}
		rows += problems.Rows()
		problems.Release()
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "problems/s")
}
