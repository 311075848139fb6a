package policy

// Learning is how the policy is updated, under the keys of TRL's GRPOConfig.
type Learning struct {
	LearningRate        float64 `json:"learning_rate"`
	LRSchedulerType     string  `json:"lr_scheduler_type"` // constant, linear or cosine
	WarmupSteps         int64   `json:"warmup_steps"`
	MaxSteps            int64   `json:"max_steps"`
	WeightDecay         float64 `json:"weight_decay"`
	AdamBeta1           float64 `json:"adam_beta1"`
	AdamBeta2           float64 `json:"adam_beta2"`
	AdamEpsilon         float64 `json:"adam_epsilon"`
	MaxGradNorm         float64 `json:"max_grad_norm"`
	LossType            string  `json:"loss_type"` // grpo, dr_grpo, dapo or bnpo
	Epsilon             float64 `json:"epsilon"`
	EpsilonHigh         float64 `json:"epsilon_high"` // 0: epsilon
	Beta                float64 `json:"beta"`
	NumIterations       int     `json:"num_iterations"`
	MiniBatchSize       int     `json:"mini_batch_size"` // 0: the whole batch
	Temperature         float64 `json:"temperature"`
	MaxCompletionLength int     `json:"max_completion_length"`
	Shards              int     `json:"shards"`
}
