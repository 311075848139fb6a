package policy

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// Hand values; those of linear and cosine agree with transformers'
// get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup.
func TestRate(t *testing.T) {
	for _, tc := range []struct {
		scheduler   string
		warmup, end int64
		want        map[int64]float64
	}{
		{"constant", 0, 0, map[int64]float64{0: 2, 1: 2, 1000: 2}},
		{"constant", 4, 0, map[int64]float64{0: 0, 1: .5, 3: 1.5, 4: 2, 1000: 2}},
		{"linear", 0, 10, map[int64]float64{0: 2, 5: 1, 9: .2, 10: 0, 11: 0}},
		{"linear", 2, 10, map[int64]float64{0: 0, 1: 1, 2: 2, 4: 1.5, 6: 1, 10: 0, 99: 0}},
		{"linear", 10, 10, map[int64]float64{0: 0, 5: 1, 10: 2, 11: 0}},
		{"cosine", 0, 4, map[int64]float64{0: 2, 1: 1 + math.Sqrt2/2, 2: 1, 3: 1 - math.Sqrt2/2, 4: 0, 5: 0}},
		{"cosine", 2, 6, map[int64]float64{0: 0, 1: 1, 2: 2, 4: 1, 6: 0}},
	} {
		l := DefaultLearning()
		l.LearningRate, l.LRSchedulerType, l.WarmupSteps, l.MaxSteps = 2, tc.scheduler, tc.warmup, tc.end
		for step, want := range tc.want {
			if got := l.Rate(step); math.Abs(got-want) > 1e-12 {
				t.Errorf("%s, warm-up %d, end %d: rate after %d steps is %v, want %v", tc.scheduler, tc.warmup, tc.end, step, got, want)
			}
		}
	}
}

func ExampleLearning_Rate() {
	l := DefaultLearning()
	l.LearningRate, l.LRSchedulerType, l.WarmupSteps, l.MaxSteps = 1e-3, SchedulerCosine, 2, 6
	for step := range int64(7) {
		fmt.Printf("%.2e ", l.Rate(step))
	}
	// Output: 0.00e+00 5.00e-04 1.00e-03 8.54e-04 5.00e-04 1.46e-04 0.00e+00
}

func TestClipRange(t *testing.T) {
	l := DefaultLearning()
	if low, high := l.ClipRange(); low != 0.8 || high != 1.2 {
		t.Errorf("[%v, %v], want [0.8, 1.2]", low, high)
	}
	l.EpsilonHigh = 0.28
	if low, high := l.ClipRange(); low != 0.8 || high != 1.28 {
		t.Errorf("[%v, %v], want [0.8, 1.28]", low, high)
	}
}

func TestLearningValidate(t *testing.T) {
	if err := DefaultLearning().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if err := (Learning{}).Validate(); err == nil {
		t.Error("the zero value is valid")
	}
	nan := math.NaN()
	for want, change := range map[string]func(l *Learning){
		"learning_rate is -1, want 0 to 1":                                func(l *Learning) { l.LearningRate = -1 },
		"learning_rate is NaN, want 0 to 1":                               func(l *Learning) { l.LearningRate = nan },
		`lr_scheduler_type is "step", want constant, linear, cosine`:      func(l *Learning) { l.LRSchedulerType = "step" },
		"warmup_steps is -1, want at least 0":                             func(l *Learning) { l.WarmupSteps = -1 },
		"max_steps is -1, want at least 0":                                func(l *Learning) { l.MaxSteps = -1 },
		"max_steps is 0, want above 0 for lr_scheduler_type linear":       func(l *Learning) { l.LRSchedulerType = "linear" },
		"warmup_steps is 9, want at most max_steps (8)":                   func(l *Learning) { l.LRSchedulerType, l.WarmupSteps, l.MaxSteps = "cosine", 9, 8 },
		"weight_decay is 2, want 0 to 1":                                  func(l *Learning) { l.WeightDecay = 2 },
		"adam_beta1 is 1, want 0 or more and below 1":                     func(l *Learning) { l.AdamBeta1 = 1 },
		"adam_beta2 is NaN, want 0 or more and below 1":                   func(l *Learning) { l.AdamBeta2 = nan },
		"adam_epsilon is 0, want above 0 and at most 1":                   func(l *Learning) { l.AdamEpsilon = 0 },
		"max_grad_norm is -1, want 0 to":                                  func(l *Learning) { l.MaxGradNorm = -1 },
		`loss_type is "ppo", want grpo, bnpo, dapo, dr_grpo`:              func(l *Learning) { l.LossType = "ppo" },
		"epsilon is 0, want above 0":                                      func(l *Learning) { l.Epsilon = 0 },
		"epsilon_high is -0.1, want 0 to":                                 func(l *Learning) { l.EpsilonHigh = -.1 },
		"beta is +Inf, want 0 to":                                         func(l *Learning) { l.Beta = math.Inf(1) },
		"num_iterations is 0, want at least 1":                            func(l *Learning) { l.NumIterations = 0 },
		"mini_batch_size is -1, want at least 0":                          func(l *Learning) { l.MiniBatchSize = -1 },
		"temperature is 0, want above 0":                                  func(l *Learning) { l.Temperature = 0 },
		"max_completion_length is 0, want at least 1":                     func(l *Learning) { l.MaxCompletionLength = 0 },
		"shards is 0, want 1 to 1024":                                     func(l *Learning) { l.Shards = 0 },
		"learning: weight_decay is 3, want 0 to 1; beta is -1, want 0 to": func(l *Learning) { l.WeightDecay, l.Beta = 3, -1 },
	} {
		l := DefaultLearning()
		change(&l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
