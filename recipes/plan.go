// Package recipes is the table of named compositions: which stages, with which
// parameters, make an experiment. A recipe is code; Resolve freezes it, with
// the user's overrides, into a Plan, which is data.
package recipes

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// Plan is everything an experiment is a function of. It can be printed, edited
// and run again. Every key has a default; keys follow TRL where it has one.
type Plan struct {
	Recipe string `json:"recipe"` // name of the row it came from
	Seed   uint64 `json:"seed"`   // of all randomness
	Steps  int    `json:"steps"`  // training steps, the denominator of every schedule

	MaxGeneratedTokens int64 `json:"max_generated_tokens"` // ends the training when that many tokens were generated for it; 0 = no bound

	Problems         string   `json:"problems"`           // name or Ref of the training problems; "" makes them from families
	EvalProblems     string   `json:"eval_problems"`      // held-out problems; "" holds some out of the training problems
	Families         []string `json:"families"`           // procedural families, used without problems
	Levels           []int32  `json:"levels"`             // their levels
	TrainLevels      []int32  `json:"train_levels"`       // levels posed in training, of the problems there are; none means all
	ProblemsPerLevel int      `json:"problems_per_level"` // problems made per family and level
	Verifier         Verifier `json:"verifier"`           // for problems that name none
	AnswerNoise      float64  `json:"answer_noise"`       // share of the training problems whose answer is taken from another problem, to see what a recipe stands
	SkipBad          bool     `json:"skip_bad"`           // leave out problems longer than the context instead of refusing the set

	Policy       string `json:"policy"`                  // Ref of the policy to start from; "" makes a new small one
	ChatTemplate bool   `json:"chat_template,omitempty"` // pose problems as a user's turn, by the policy's own chat template
	SystemPrompt string `json:"system_prompt,omitempty"` // what the system says before, with chat_template; "" leaves it to the template
	Model        Model  `json:"model"`                   // shape of a new policy
	Backend      string `json:"backend"`                 // go, onnx or xla
	Warmup       Warmup `json:"warmup"`                  // supervised start of a new policy

	PromptsPerStep   int             `json:"prompts_per_step"`   // groups an update is made of
	NumGenerations   int             `json:"num_generations"`    // completions per group
	MaxRolloutRounds int             `json:"max_rollout_rounds"` // rounds of posing new problems in place of dropped groups; 1 poses once
	ShortBatch       string          `json:"short_batch"`        // after the last round: "train" the groups there are, or "wait" for the next step's
	RolloutShards    int             `json:"rollout_shards"`     // pieces a rollout is cut into, however many workers are up
	Speculate        float64         `json:"speculate"`          // issues a rollout shard a second time when it has run for that many times the median of its step's shards, of which half are done; 0 = never
	Sampling         policy.Sampling `json:"sampling"`           // how completions are drawn
	Learning         policy.Learning `json:"learning"`           // how the policy is updated
	Evaluation       Evaluation      `json:"evaluation"`

	// MaxStaleness is how many updates the policy that draws a step's completions is
	// behind the one that learns from them: so many steps are drawn ahead while
	// others are learnt from. 0 draws a step when the one before is done.
	MaxStaleness int `json:"max_staleness"`
	// ImportanceSamplingCap bounds the weight that a token has for the policy gap, as
	// TRL's vllm_importance_sampling_cap; see policy.Correct. Used with max_staleness
	// and with rollouts of another engine.
	ImportanceSamplingCap        float64 `json:"importance_sampling_cap"`
	ImportanceSamplingMode       string  `json:"importance_sampling_mode"`       // token_truncate, token_mask, sequence_truncate or sequence_mask
	ImportanceSamplingCorrection bool    `json:"importance_sampling_correction"` // false: the gap is neither weighed nor measured

	Rollout Rollout `json:"rollout"` // what draws completions

	Propose datasets.Call   `json:"propose"` // which problems
	Assess  datasets.Call   `json:"assess"`  // how hard they are
	Respond []datasets.Call `json:"respond"` // what to pose in answer to a step's failures: rewrites, hints
	Select  []datasets.Call `json:"select"`  // which completions and tokens, with what advantage
	Mask    []datasets.Call `json:"mask"`    // which tokens, judged by a score pass of the policy that is to be updated

	MaskTopK     int `json:"mask_top_k"`    // likeliest tokens that the score pass looks at
	MeasureEvery int `json:"measure_every"` // steps between measurements of what an update did to the policy, 0 = never
	MaxNaNSteps  int `json:"max_nan_steps"` // updates in a row that may be left out as not finite before the run pauses itself

	Fork *Origin `json:"fork,omitempty"` // the step of another run that this one goes on from

	Reuse bool `json:"reuse"` // take the results of other experiments whose every input is the same

	HeartbeatTimeout float64 `json:"heartbeat_timeout"` // seconds without a sign of life after which a worker's activity is given to another one
}

// Model is the shape of a new policy, under the keys of a Hugging Face
// config.json. Vocabulary and context follow from the problems.
type Model struct {
	HiddenSize        int     `json:"hidden_size"`
	IntermediateSize  int     `json:"intermediate_size"`
	NumHiddenLayers   int     `json:"num_hidden_layers"`
	NumAttentionHeads int     `json:"num_attention_heads"`
	NumKeyValueHeads  int     `json:"num_key_value_heads"`
	RopeTheta         float64 `json:"rope_theta"`
	TieWordEmbeddings bool    `json:"tie_word_embeddings"`
}

// EngineOpenAI is the Rollout.Engine that asks servers of the OpenAI protocol.
const EngineOpenAI = "openai"

// Rollout says what draws completions. Where servers do, how they get the weights
// of an update is the rollout worker's to know.
type Rollout struct {
	Engine         string   `json:"engine"`          // "" = the worker's own, or openai
	Endpoints      []string `json:"endpoints"`       // base addresses of servers, such as http://host:8000
	API            string   `json:"api"`             // completions, or chat: the server's chat template then makes the prompt
	Model          string   `json:"model"`           // name of the model in requests; "" leaves it to the server
	MaxConcurrency int      `json:"max_concurrency"` // requests at once, per endpoint and rollout shard
	Timeout        float64  `json:"timeout"`         // seconds of one request
	Tries          int      `json:"tries"`           // of one request, on whatever endpoint, or in a row of all endpoints, before the shard is tried anew
}

func (r Rollout) validate() error {
	for _, n := range []struct {
		key     string
		v       float64
		min, mx float64
	}{
		{"max_concurrency", float64(r.MaxConcurrency), 1, 4096},
		{"timeout", r.Timeout, 0.01, 86400},
		{"tries", float64(r.Tries), 1, 1e6},
	} {
		if !(n.v >= n.min && n.v <= n.mx) {
			return fmt.Errorf("rollout.%s is %v; it must be from %v to %v", n.key, n.v, n.min, n.mx)
		}
	}
	switch {
	case r.Engine != "" && r.Engine != EngineOpenAI:
		return fmt.Errorf("rollout.engine is %q; it must be %s, or empty for the worker's own", r.Engine, EngineOpenAI)
	case r.API != "completions" && r.API != "chat":
		return fmt.Errorf("rollout.api is %q; it must be completions or chat", r.API)
	case r.Engine == "" && len(r.Endpoints) > 0:
		return fmt.Errorf("rollout.endpoints are given, but no rollout.engine that asks them; set rollout.engine=%s", EngineOpenAI)
	case r.Engine == EngineOpenAI && len(r.Endpoints) == 0:
		return fmt.Errorf("rollout.endpoints is empty; rollout.engine %s needs one", EngineOpenAI)
	}
	for i, e := range r.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return fmt.Errorf("rollout.endpoints: %q is no address such as http://host:8000", e)
		}
		if slices.Contains(r.Endpoints[:i], e) {
			return fmt.Errorf("rollout.endpoints holds %s twice", e)
		}
	}
	return nil
}

// Warmup is the supervised start of a new policy on worked solutions. It goes
// on until the policy solves Target of a validation split of its own when
// sampled at the plan's temperature, or MaxSteps or MaxTokens are reached.
type Warmup struct {
	MaxSteps     int     `json:"max_steps"`  // optimizer steps; 0 means no warm-up
	MaxTokens    int64   `json:"max_tokens"` // tokens of prompts and solutions
	BatchSize    int     `json:"batch_size"`
	LearningRate float64 `json:"learning_rate"`
	Levels       []int32 `json:"levels"` // levels shown; none means all
	Target       float64 `json:"target"` // pass rate on the validation split
	Every        int     `json:"every"`  // optimizer steps between two looks
	MinSteps     int     `json:"min_steps"`
}

// Evaluation says how a policy is measured.
type Evaluation struct {
	ProblemsPerLevel int `json:"problems_per_level"` // held-out problems of each level
	NumGenerations   int `json:"num_generations"`    // completions per problem at the sampling temperature
	Every            int `json:"every"`              // steps between evaluations, 0 = before and after only
}

// maxShards bounds the shards of a step: a history ends at 51,200 events, and is
// renewed between steps only. A shard takes up to 8, one that is issued again up to 16.
const maxShards = 4000

// Chat is how problems are put to the policy.
func (p Plan) Chat() policy.Chat {
	return policy.Chat{Template: p.ChatTemplate, System: p.SystemPrompt}
}

// Validate names the first key that is out of range and what it may be.
func (p Plan) Validate() error {
	for _, r := range []struct {
		key     string
		v       float64
		min, mx float64
	}{
		{"steps", float64(p.Steps), 0, 1e7},
		{"problems_per_level", float64(p.ProblemsPerLevel), 1, 1e7},
		{"prompts_per_step", float64(p.PromptsPerStep), 1, 1e6},
		{"num_generations", float64(p.NumGenerations), 2, 4096},
		{"max_rollout_rounds", float64(p.MaxRolloutRounds), 1, 1000},
		{"rollout_shards", float64(p.RolloutShards), 1, 1000}, // a workflow may have 2,000 activities pending, and speculate issues half of the shards anew
		{"speculate", p.Speculate, 0, 100},
		{"max_generated_tokens", float64(p.MaxGeneratedTokens), 0, 1e15},
		{"answer_noise", p.AnswerNoise, 0, 1},
		{"mask_top_k", float64(p.MaskTopK), 1, 1e6},
		{"measure_every", float64(p.MeasureEvery), 0, 1e7},
		{"max_nan_steps", float64(p.MaxNaNSteps), 1, 1e6},
		{"max_staleness", float64(p.MaxStaleness), 0, 8},
		{"importance_sampling_cap", p.ImportanceSamplingCap, 1, 1e6},
		{"heartbeat_timeout", p.HeartbeatTimeout, 1, 3600},
		{"warmup.max_steps", float64(p.Warmup.MaxSteps), 0, 1e6},
		{"warmup.batch_size", float64(p.Warmup.BatchSize), 1, 1e5},
		{"warmup.every", float64(p.Warmup.Every), 1, 1e6},
		{"warmup.target", p.Warmup.Target, 0, 1},
		{"warmup.learning_rate", p.Warmup.LearningRate, 0, 1},
		{"evaluation.problems_per_level", float64(p.Evaluation.ProblemsPerLevel), 1, 1e6},
		{"evaluation.num_generations", float64(p.Evaluation.NumGenerations), 1, 4096},
		{"evaluation.every", float64(p.Evaluation.Every), 0, 1e7},
	} {
		if !(r.v >= r.min && r.v <= r.mx) {
			return fmt.Errorf("%s is %v; it must be from %v to %v", r.key, r.v, r.min, r.mx)
		}
	}
	if n := p.RolloutShards * p.MaxRolloutRounds; n > maxShards {
		return fmt.Errorf("rollout_shards times max_rollout_rounds is %d; it must be at most %d, or a step might not fit one history", n, maxShards)
	}
	if p.Speculate > 0 && p.Speculate < 1 {
		return fmt.Errorf("speculate is %v; it must be 0, for never, or a multiple of the median time, from 1 to 100", p.Speculate)
	}
	if p.ChatTemplate && p.Policy == "" {
		return fmt.Errorf("chat_template is true; it must be false for a new policy, which has none")
	}
	if p.SystemPrompt != "" && !p.ChatTemplate {
		return fmt.Errorf("system_prompt is set; it must be empty without chat_template")
	}
	if p.ShortBatch != "train" && p.ShortBatch != "wait" {
		return fmt.Errorf("short_batch is %q; it must be train or wait", p.ShortBatch)
	}
	if p.Problems == "" && (len(p.Families) == 0 || len(p.Levels) == 0) {
		return fmt.Errorf("problems is empty, and so is families or levels: there is nothing to pose")
	}
	for _, l := range p.Levels {
		if l < 1 || l > 10 {
			return fmt.Errorf("levels holds %d; levels go from 1 to 10", l)
		}
	}
	for _, l := range p.TrainLevels {
		if p.Problems == "" && !slices.Contains(p.Levels, l) {
			return fmt.Errorf("train_levels holds %d, which levels %v does not", l, p.Levels)
		}
	}
	if !slices.Contains(policy.CorrectionModes(), p.ImportanceSamplingMode) {
		return fmt.Errorf("importance_sampling_mode is %q; it must be one of %v", p.ImportanceSamplingMode, policy.CorrectionModes())
	}
	if err := policy.CheckBackend(p.Backend); err != nil {
		return err
	}
	if p.Learning.GradientCheckpointing && !strings.HasPrefix(p.Backend, "xla") {
		return fmt.Errorf("gradient_checkpointing is true with backend %s; it must be false, or the backend xla", cmp.Or(p.Backend, "go"))
	}
	if err := p.Rollout.validate(); err != nil {
		return err
	}
	if p.Learning.LoRARank > 0 && len(p.Mask) > 0 {
		return fmt.Errorf("lora_r is %d with mask stages, which model an update of the head; adapters leave the head as it is", p.Learning.LoRARank)
	}
	if err := p.Sampling.Validate(); err != nil {
		return err
	}
	if p.Sampling.Temperature == 0 {
		return fmt.Errorf("temperature is 0; a group of equal completions carries no gradient, it must be above 0")
	}
	return p.Learning.Validate()
}

// Verifier is the name of a verifier, or one with its settings as a JSON object in the
// text. Where plans are read, the object may also stand there as it is.
type Verifier string

// UnmarshalJSON implements [json.Unmarshaler].
func (v *Verifier) UnmarshalJSON(raw []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return json.Unmarshal(raw, (*string)(v))
	}
	settings, err := datasets.Canonical(json.RawMessage(raw))
	*v = Verifier(settings)
	return err
}
