package policy

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// Learning is how the policy is updated, under the keys of TRL's GRPOConfig
// and the TrainingArguments it extends, with their meaning unless said
// otherwise.
type Learning struct {
	// LearningRate is the peak rate, reached after the warm-up.
	LearningRate float64 `json:"learning_rate"`
	// LRSchedulerType is constant, linear or cosine; see Rate.
	LRSchedulerType string `json:"lr_scheduler_type"`
	// WarmupSteps is the number of optimizer steps over which the rate rises from 0.
	WarmupSteps int64 `json:"warmup_steps"`
	// MaxSteps is the optimizer step at which a linear or cosine rate reaches 0.
	MaxSteps int64 `json:"max_steps"`

	// WeightDecay is AdamW's decoupled decay. It spares vectors: norms and biases.
	WeightDecay float64 `json:"weight_decay"`
	AdamBeta1   float64 `json:"adam_beta1"`
	AdamBeta2   float64 `json:"adam_beta2"`
	AdamEpsilon float64 `json:"adam_epsilon"`
	// MaxGradNorm bounds the Euclidean norm of the whole gradient; 0 does not bound it.
	MaxGradNorm float64 `json:"max_grad_norm"`

	// LossType is the normalisation of the summed token losses:
	//
	//	grpo      mean over completions of the mean over a completion's tokens
	//	bnpo      mean over the active tokens of the mini-batch; TRL takes those of a
	//	          device's part of it, which is no property of the plan
	//	dapo      mean over the active tokens of the mini-batch
	//	dr_grpo   sum / (completions · max_completion_length)
	LossType string `json:"loss_type"`
	// Epsilon is ε of the clipped objective; the ratio is bounded to [1−epsilon, 1+epsilon_high].
	Epsilon float64 `json:"epsilon"`
	// EpsilonHigh is the upper ε ("clip-higher", DAPO); 0 means epsilon, as TRL's None.
	EpsilonHigh float64 `json:"epsilon_high"`
	// Beta weighs the k3 estimate of the KL divergence to the reference; 0 needs no reference.
	Beta float64 `json:"beta"`
	// NumIterations is the number of passes over one batch (μ of GRPO).
	NumIterations int `json:"num_iterations"`
	// MiniBatchSize is the number of completions per optimizer step; 0 takes the
	// whole batch in one step. TRL derives it from per-device sizes.
	MiniBatchSize int `json:"mini_batch_size"`

	// MaxTokensPerMicroBatch bounds the tokens, padding included, whose
	// activations a shard holds at a time; the gradients of micro-batches add up
	// to the mini-batch's, whatever the bound (verl's
	// ppo_max_token_len_per_gpu). 0 bounds floats instead, as suits a small
	// policy.
	MaxTokensPerMicroBatch int `json:"max_tokens_per_micro_batch,omitempty"`

	// GradientCheckpointing computes every layer again on the way back, so that only
	// what a layer begins with is kept (arXiv:1604.06174). It changes rounding and nothing
	// else, and needs the xla backend.
	GradientCheckpointing bool `json:"gradient_checkpointing,omitempty"`

	// LoRARank is the rank r of the low-rank adapters (arXiv:2106.09685) that are
	// learnt in place of the weights, W + (lora_alpha/r)·B·A; 0 learns all
	// weights. These keys are those of TRL's ModelConfig.
	LoRARank int `json:"lora_r,omitempty"`
	// LoRAAlpha scales the adapters; 0 means 2·lora_r.
	LoRAAlpha float64 `json:"lora_alpha,omitempty"`
	// LoRATargets are the matrices that get adapters, by PEFT's names; none means
	// all of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj, as does
	// the text all-linear in place of a list.
	LoRATargets LoRATargets `json:"lora_target_modules,omitempty"`

	// Temperature divides the logits before log-probabilities are taken; it is
	// the temperature of sampling.
	Temperature float64 `json:"temperature"`
	// MaxCompletionLength is the constant of dr_grpo.
	MaxCompletionLength int `json:"max_completion_length"`
	// Shards is the number of parts a mini-batch's gradient is summed from, in
	// a fixed order. It is part of the plan and not of the machine, since
	// floating-point sums depend on it.
	Shards int `json:"shards"`
}

// LoRATargets are names of matrices.
type LoRATargets []string

// UnmarshalJSON implements [json.Unmarshaler].
func (t *LoRATargets) UnmarshalJSON(raw []byte) error {
	if string(raw) == `"all-linear"` { // in full, so that it is refused without adapters
		*t = slices.Clone(loraTargets)
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(t))
}

// The values of lr_scheduler_type and loss_type.
const (
	SchedulerConstant = "constant"
	SchedulerLinear   = "linear"
	SchedulerCosine   = "cosine"

	LossGRPO   = "grpo"
	LossBNPO   = "bnpo"
	LossDAPO   = "dapo"
	LossDrGRPO = "dr_grpo"
)

var (
	schedulers = []string{SchedulerConstant, SchedulerLinear, SchedulerCosine}
	losses     = []string{LossGRPO, LossBNPO, LossDAPO, LossDrGRPO}
)

// DefaultLearning has the defaults of TRL, which suit large pretrained models;
// a recipe for a small one sets a higher rate. It departs from TRL in
// lr_scheduler_type, which is constant instead of linear, since the length of
// an experiment is no part of an update.
func DefaultLearning() Learning {
	return Learning{
		LearningRate:        1e-6,
		LRSchedulerType:     SchedulerConstant,
		AdamBeta1:           0.9,
		AdamBeta2:           0.999,
		AdamEpsilon:         1e-8,
		MaxGradNorm:         1,
		LossType:            LossDAPO,
		Epsilon:             0.2,
		NumIterations:       1,
		Temperature:         1,
		MaxCompletionLength: 256,
		Shards:              2,
	}
}

// Validate reports every setting out of range in one error, each with its key,
// its value and what was expected.
func (l Learning) Validate() error {
	var r ranges
	r.within("learning_rate", l.LearningRate, 0, 1)
	r.want(slices.Contains(schedulers, l.LRSchedulerType),
		"lr_scheduler_type is %q, want %s", l.LRSchedulerType, strings.Join(schedulers, ", "))
	r.want(l.WarmupSteps >= 0, "warmup_steps is %d, want at least 0", l.WarmupSteps)
	r.want(l.MaxSteps >= 0, "max_steps is %d, want at least 0", l.MaxSteps)
	if l.LRSchedulerType == SchedulerLinear || l.LRSchedulerType == SchedulerCosine {
		r.want(l.MaxSteps > 0, "max_steps is %d, want above 0 for lr_scheduler_type %s", l.MaxSteps, l.LRSchedulerType)
		r.want(l.WarmupSteps <= l.MaxSteps, "warmup_steps is %d, want at most max_steps (%d)", l.WarmupSteps, l.MaxSteps)
	}
	r.within("weight_decay", l.WeightDecay, 0, 1)
	r.want(l.AdamBeta1 >= 0 && l.AdamBeta1 < 1, "adam_beta1 is %v, want 0 or more and below 1", l.AdamBeta1)
	r.want(l.AdamBeta2 >= 0 && l.AdamBeta2 < 1, "adam_beta2 is %v, want 0 or more and below 1", l.AdamBeta2)
	r.want(l.AdamEpsilon > 0 && l.AdamEpsilon <= 1, "adam_epsilon is %v, want above 0 and at most 1", l.AdamEpsilon)
	r.within("max_grad_norm", l.MaxGradNorm, 0, math.MaxFloat64)
	r.want(slices.Contains(losses, l.LossType), "loss_type is %q, want %s", l.LossType, strings.Join(losses, ", "))
	r.want(l.Epsilon > 0 && l.Epsilon <= math.MaxFloat64, "epsilon is %v, want above 0", l.Epsilon)
	r.within("epsilon_high", l.EpsilonHigh, 0, math.MaxFloat64)
	r.within("beta", l.Beta, 0, math.MaxFloat64)
	r.atLeast("num_iterations", l.NumIterations, 1)
	r.atLeast("mini_batch_size", l.MiniBatchSize, 0)
	r.atLeast("max_tokens_per_micro_batch", l.MaxTokensPerMicroBatch, 0)
	r.want(l.LoRARank >= 0 && l.LoRARank <= 4096, "lora_r is %d, want 0 to 4096", l.LoRARank)
	r.within("lora_alpha", l.LoRAAlpha, 0, 1e6)
	for i, target := range l.LoRATargets {
		r.want(slices.Contains(loraTargets, target) && !slices.Contains(l.LoRATargets[:i], target),
			"lora_target_modules holds %q, want each of %s once at most", target, strings.Join(loraTargets, ", "))
	}
	r.want(l.LoRARank > 0 || l.LoRAAlpha == 0 && l.LoRATargets == nil, "lora_r is 0, want it above 0 with lora_alpha or lora_target_modules")
	r.want(l.Temperature > 0 && l.Temperature <= 1000, "temperature is %v, want above 0 and at most 1000", l.Temperature)
	r.atLeast("max_completion_length", l.MaxCompletionLength, 1)
	r.want(l.Shards >= 1 && l.Shards <= 1024, "shards is %d, want 1 to 1024", l.Shards)
	return r.err("learning")
}

// ClipRange is the interval [1−epsilon, 1+epsilon_high] of ratios within which
// the objective is not clipped.
func (l Learning) ClipRange() (low, high float64) {
	if l.EpsilonHigh == 0 {
		return 1 - l.Epsilon, 1 + l.Epsilon
	}
	return 1 - l.Epsilon, 1 + l.EpsilonHigh
}

// Rate is the learning rate of the update that comes after step optimizer
// steps. As in Hugging Face's schedules it rises linearly from 0 during the
// first warmup_steps (w), so the first update of a warm-up has rate 0, and then
// falls with p = (step − w) / (max_steps − w) until max_steps, where it is 0:
//
//	constant   lr
//	linear     lr · (1 − p)
//	cosine     lr · (1 + cos πp) / 2
func (l Learning) Rate(step int64) float64 {
	if step < l.WarmupSteps {
		return l.LearningRate * float64(step) / float64(l.WarmupSteps)
	}
	p := min(1, float64(step-l.WarmupSteps)/float64(max(1, l.MaxSteps-l.WarmupSteps)))
	switch l.LRSchedulerType {
	case SchedulerLinear:
		return l.LearningRate * (1 - p)
	case SchedulerCosine:
		return l.LearningRate * (1 + math.Cos(math.Pi*p)) / 2
	default:
		return l.LearningRate
	}
}
