package reward

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ExampleScorer() {
	var scorer Scorer
	verdicts, counts, err := scorer.Score(context.Background(), []Item{
		{Completion: "3+4=7", Answer: "7", Verifier: "numeric"},
		{Completion: "385", Answer: "386", Verifier: "exact"},
		{Completion: "7", Answer: "seven", Verifier: "numeric"},
	})
	fmt.Println(verdicts, err)
	fmt.Println(counts.Correct, counts.Wrong, counts.Error, counts.Reasons)
	// Output:
	// [{1 correct 7  []} {0 wrong 385  []} {0 error   []}] <nil>
	// 1 1 1 map[numeric: malformed gold answer "seven", expected one number:1]
}

// verifierFunc makes a Verifier of a function.
type verifierFunc func(ctx context.Context, completion, answer string) (Verdict, error)

func (f verifierFunc) Verify(ctx context.Context, completion, answer string) (Verdict, error) {
	return f(ctx, completion, answer)
}

// unruly knows the verifiers that misbehave, and the built-in ones. "deaf" returns when release is closed.
func unruly(release <-chan struct{}) func(string) (Verifier, error) {
	known := map[string]verifierFunc{
		"panics": func(context.Context, string, string) (Verdict, error) { panic("out of ink") },
		"fails": func(_ context.Context, completion, _ string) (Verdict, error) {
			return Verdict{}, errors.New("no luck with " + completion)
		},
		"nan": func(context.Context, string, string) (Verdict, error) {
			return Verdict{Reward: math.NaN(), Outcome: Correct}, nil
		},
		"unknown": func(context.Context, string, string) (Verdict, error) { return Verdict{Outcome: "splendid"}, nil },
		"polite": func(ctx context.Context, _, _ string) (Verdict, error) {
			<-ctx.Done()
			return Verdict{}, ctx.Err()
		},
		"deaf": func(context.Context, string, string) (Verdict, error) {
			<-release
			return Verdict{Reward: 1, Outcome: Correct}, nil
		},
	}
	return func(name string) (Verifier, error) {
		if v, ok := known[name]; ok {
			return v, nil
		}
		return ByName(name)
	}
}

// settled waits until no more goroutines run than before.
func settled(t *testing.T, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}

func TestScorerOrder(t *testing.T) {
	before := runtime.NumGoroutine()
	var items []Item
	var want []Verdict
	for i := range 5000 {
		items = append(items, Item{fmt.Sprint(i), fmt.Sprint(i - i%3), "numeric"})
		want = append(want, judge(i%3 == 0, fmt.Sprint(i)))
	}
	for _, workers := range []int{1, 2, 7, 10000} {
		s := Scorer{Workers: workers}
		got, counts, err := s.Score(t.Context(), items)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%d workers (-want +got):\n%s", workers, diff)
		}
		if diff := cmp.Diff(Counts{Correct: 1667, Wrong: 3333}, counts); diff != "" {
			t.Errorf("%d workers: counts (-want +got):\n%s", workers, diff)
		}
	}
	settled(t, before)
}

func TestScorerEmpty(t *testing.T) {
	var s Scorer
	got, counts, err := s.Score(t.Context(), nil)
	if len(got) != 0 || err != nil || !cmp.Equal(counts, Counts{}) {
		t.Errorf("got %v, %v, %v", got, counts, err)
	}
}

func TestScorerUnknownVerifier(t *testing.T) {
	var s Scorer
	_, _, err := s.Score(t.Context(), []Item{{"1", "1", "exact"}, {"1", "1", "oracle"}})
	if err == nil || !strings.Contains(err.Error(), "item 1") || !strings.Contains(err.Error(), `"oracle"`) {
		t.Errorf("got %v", err)
	}
}

// One answer of each misbehaving verifier among good ones: each costs itself only.
func TestScorerMisbehaviour(t *testing.T) {
	before := runtime.NumGoroutine()
	release := make(chan struct{})
	s := Scorer{Timeout: 500 * time.Millisecond, Workers: 3, Lookup: unruly(release)}
	good := Item{"7", "7", "numeric"}
	items := []Item{good}
	for _, name := range []string{"panics", "fails", "nan", "unknown", "polite", "deaf"} {
		items = append(items, Item{"x", "y", name}, good)
	}
	got, counts, err := s.Score(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	right, failed, late := Verdict{Reward: 1, Outcome: Correct, Extracted: "7"}, Verdict{Outcome: Error}, Verdict{Outcome: Timeout}
	want := []Verdict{right, failed, right, failed, right, failed, right, failed, right, late, right, late, right}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	wantCounts := Counts{Correct: 7, Timeout: 2, Error: 4, Panics: 1, Abandoned: 1, Reasons: map[string]int{
		"panics: panic: out of ink": 1, "no luck with x": 1, "reward NaN is not finite": 1, `unknown outcome "splendid"`: 1,
	}}
	if diff := cmp.Diff(wantCounts, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	close(release)
	settled(t, before)
}

// Hung runs pile up to a bound, then answers are refused at once; when they return, the verifier is used again.
func TestScorerHangs(t *testing.T) {
	before := runtime.NumGoroutine()
	release := make(chan struct{})
	s := Scorer{Timeout: time.Millisecond, Workers: 1, MaxAbandoned: 3, Lookup: unruly(release)}
	items := make([]Item, 500)
	for i := range items {
		items[i] = Item{"x", "y", "deaf"}
	}
	start := time.Now()
	for call, hanging := range []int{3, 0} { // what hangs is remembered by the second call
		_, counts, err := s.Score(t.Context(), items)
		if err != nil {
			t.Fatal(err)
		}
		refused := len(items) - hanging
		want := Counts{Timeout: hanging, Error: refused, Abandoned: hanging, Refused: refused,
			Reasons: map[string]int{"deaf: refused while 3 runs of it hang": refused}}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("call %d (-want +got):\n%s", call, diff)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	n := runtime.NumGoroutine()
	for begin := time.Now(); n > before+3 && time.Since(begin) < 5*time.Second; n = runtime.NumGoroutine() {
		time.Sleep(time.Millisecond) // those that have answered may still be ending
	}
	if n > before+3 {
		t.Errorf("%d goroutines left behind", n-before)
	}
	s.Timeout = 10 * time.Second
	if got, _, err := s.Score(t.Context(), []Item{{"7", "7", "exact"}}); err != nil || got[0].Outcome != Correct {
		t.Errorf("another verifier suffers: %v, %v", got, err)
	}
	close(release)
	settled(t, before)
	if got, _, err := s.Score(t.Context(), items[:1]); err != nil || got[0].Outcome != Correct {
		t.Errorf("after the hung runs returned: %v, %v", got, err)
	}
	settled(t, before)
}

func TestScorerCancel(t *testing.T) {
	for _, name := range []string{"polite", "deaf"} {
		before := runtime.NumGoroutine()
		release := make(chan struct{})
		s := Scorer{Timeout: time.Hour, Workers: 4, Lookup: unruly(release)}
		items := make([]Item, 100)
		for i := range items {
			items[i] = Item{"x", "y", name}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		start := time.Now()
		verdicts, _, err := s.Score(ctx, items)
		if !errors.Is(err, context.Canceled) || verdicts != nil {
			t.Errorf("%s: got %v, %v", name, verdicts, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: took %v to notice", name, took)
		}
		close(release)
		settled(t, before)
	}
}

func TestScorerConcurrentCalls(t *testing.T) {
	before := runtime.NumGoroutine()
	s := Scorer{Workers: 2, Lookup: unruly(nil)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			items := []Item{{fmt.Sprint(i), "3", "numeric"}, {"x", "y", "panics"}}
			got, _, err := s.Score(t.Context(), items)
			if err != nil || (got[0].Outcome == Correct) != (i == 3) || got[1].Outcome != Error {
				t.Errorf("call %d: %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	settled(t, before)
}

// The reasons a bad batch can leave behind are bounded.
func TestScorerReasons(t *testing.T) {
	s := Scorer{Lookup: unruly(nil)}
	items := make([]Item, 1000)
	for i := range items {
		items[i] = Item{fmt.Sprint(i), "y", "fails"}
	}
	_, counts, err := s.Score(t.Context(), items)
	if err != nil || counts.Error != 1000 || len(counts.Reasons) != 33 || counts.Reasons["other"] != 968 {
		t.Errorf("got %+v, %v", counts, err)
	}
}

func BenchmarkScorer(b *testing.B) {
	items := make([]Item, 4096)
	for i := range items {
		items[i] = Item{fmt.Sprintf("3+4=7, so we get\n#### %d", i), "72", "numeric"}
	}
	s := Scorer{Workers: 1}
	for b.Loop() {
		if _, _, err := s.Score(b.Context(), items); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(items)*b.N)/b.Elapsed().Seconds(), "answers/s")
}

// A process that was stopped while it verified, or a machine without time for it,
// must not change a verdict: what returns late is run once more.
func TestLateIsTriedAgain(t *testing.T) {
	for late, want := range map[int32]Outcome{1: Correct, 2: Timeout} {
		var calls atomic.Int32
		s := &Scorer{Timeout: 20 * time.Millisecond, Lookup: func(string) (Verifier, error) {
			return verify(func(ctx context.Context) (Verdict, error) {
				if calls.Add(1) <= late {
					<-ctx.Done()
				}
				return Verdict{Reward: 1, Outcome: Correct}, nil
			}), nil
		}}
		v, counts, err := s.Score(t.Context(), []Item{{}})
		if err != nil || v[0].Outcome != want || calls.Load() != 2 || counts.Abandoned != 0 {
			t.Errorf("late %d times: %v, %+v, %d calls: %v", late, v, counts, calls.Load(), err)
		}
	}
}

type verify func(context.Context) (Verdict, error)

func (f verify) Verify(ctx context.Context, _, _ string) (Verdict, error) { return f(ctx) }

// Reasons of verdicts are counted, and a patient verifier has the time it asks for.
func TestScorerReasonsOfVerdicts(t *testing.T) {
	s := Scorer{Timeout: time.Nanosecond, Lookup: func(string) (Verifier, error) { return patient{}, nil }}
	verdicts, counts, err := s.Score(t.Context(), []Item{{}, {}})
	if err != nil || verdicts[0].Outcome != Wrong || counts.Reasons["unparsable"] != 2 {
		t.Errorf("%+v, %+v, %v", verdicts, counts, err)
	}
}

type patient struct{}

func (patient) Verify(context.Context, string, string) (Verdict, error) {
	return Verdict{Outcome: Wrong, Reason: "unparsable"}, nil
}

func (patient) Patience() time.Duration { return time.Minute }
