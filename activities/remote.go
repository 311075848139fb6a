package activities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/openai"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/recipes"
)

// MetricRescored counts completions whose log-probabilities, or whose very ids,
// the server did not give: the worker's own engine scored them.
const MetricRescored = "rollout/rescored"

// Ways to have a server take over the weights of an update.
const (
	RefreshGradus = "gradus" // gradus serve on the same store: it is given the policy's Ref
	RefreshSGLang = "sglang" // update_weights_from_disk with a folder
	RefreshVLLM   = "vllm"   // collective_rpc of reload_weights with a folder, in vLLM's development mode
	RefreshHook   = "hook"   // a command of the operator's own, with a folder
)

// Remote is how a worker deals with servers that draw rollouts.
type Remote struct {
	Client  *openai.Client // nil = one without a key
	Refresh string         // one of the ways above; "" = RefreshGradus
	Folder  string         // where policies are written for the servers to read, by all but RefreshGradus
	Hook    string         // of RefreshHook: run by sh with GRADUS_ENDPOINT, GRADUS_VERSION and GRADUS_FOLDER set

	folders *singleflight.Group
}

// wants is what a server must be for each way.
var wants = map[string]string{
	RefreshGradus: "for gradus serve on the store of the run", RefreshSGLang: "for SGLang",
	RefreshVLLM: "for vLLM with VLLM_SERVER_DEV_MODE=1", RefreshHook: "for what the hook does",
}

// keepFolders is how many policies stay in Remote.Folder.
const keepFolders = 4

// NewRemote checks how a worker deals with servers.
func NewRemote(r Remote) (Remote, error) {
	if r.Refresh == "" {
		r.Refresh = RefreshGradus
	}
	ways := []string{RefreshGradus, RefreshSGLang, RefreshVLLM, RefreshHook}
	switch {
	case !slices.Contains(ways, r.Refresh):
		return r, fmt.Errorf("--refresh is %q; it must be one of %s", r.Refresh, strings.Join(ways, ", "))
	case r.Refresh != RefreshGradus && r.Folder == "":
		return r, fmt.Errorf("--refresh %s wants --weights-dir, a folder that the servers can read", r.Refresh)
	case r.Refresh == RefreshGradus && r.Folder != "":
		return r, fmt.Errorf("--weights-dir wants --refresh %s", strings.Join(ways[1:], ", "))
	case r.Refresh == RefreshHook && r.Hook == "":
		return r, fmt.Errorf("--refresh %s wants --refresh-hook, a command", RefreshHook)
	case r.Refresh != RefreshHook && r.Hook != "":
		return r, fmt.Errorf("--refresh-hook wants --refresh %s", RefreshHook)
	}
	if r.Client == nil {
		r.Client = &openai.Client{}
	}
	r.folders = &singleflight.Group{}
	return r, nil
}

// elsewhere is what of a plan's rollout makes a difference to the completions, nil
// for the worker's own engine.
func elsewhere(p recipes.Plan) []string {
	if p.Rollout.Engine == "" {
		return nil
	}
	api := p.Rollout.API
	if api == "chat" {
		api += "/2" // the version of how a problem is asked as a chat
	}
	return []string{p.Rollout.Engine, api, p.Rollout.Model}
}

// asked is a shard for servers to draw.
type asked struct {
	policy   datasets.Ref
	model    *policy.State
	engine   Engine
	sampling policy.Sampling
	problems []posed
	rows     []policy.Prompt
	prompts  [][]int32 // replaced where the server makes the prompt
}

// posed is a problem's prompt and the beginning of the answer that is given.
type posed struct{ prompt, prefill string }

// chat asks q as a chat, which the server's template makes the prompt of: the
// turns before the answer, as the plan's own template would be given them, and of
// the answer what is given, to go on with.
func (p posed) chat(c policy.Chat, q *openai.Request) {
	for _, m := range c.Messages(p.prompt) {
		q.Messages = append(q.Messages, openai.Message{Role: m.Role, Content: openai.Text{m.Content}})
	}
	if p.prefill != "" {
		q.Messages = append(q.Messages, openai.Message{Role: "assistant", Content: openai.Text{p.prefill}})
		q.AddGenerationPrompt, q.ContinueFinalMessage = new(bool), true
	}
}

// ask has the plan's endpoints draw a shard, and scores what they leave open: the
// entropies, which the protocol has no place for, and log-probabilities where a
// server gives none for exactly the ids. It returns the completions, and how many
// had no log-probabilities.
func (a *Activities) ask(ctx context.Context, plan recipes.Plan, in asked, progress func(done, total int)) ([]policy.Completion, int, error) {
	if a.Remote.Client == nil {
		return nil, 0, invalid{errors.New("rollout.engine is openai, and this worker was not told how to deal with servers")}
	}
	p, s := plan.Rollout, in.sampling
	one := 1
	requests := make([]openai.Request, len(in.rows))
	for i, r := range in.rows {
		seed := int64(r.Stream)
		q := openai.Request{
			Model: p.Model, N: &one, MaxTokens: &s.MaxCompletionLength, Temperature: &s.Temperature, TopP: &s.TopP, Seed: &seed,
			ReturnTokenIDs: true,
		}
		if s.TopK > 0 {
			q.TopK = &s.TopK
		}
		logprobs := openai.Logprob(1) // some servers take 0 for none
		if p.API == "chat" {
			logprobs = openai.LogprobYes
			in.problems[i].chat(plan.Chat(), &q)
		} else {
			q.Prompt = &openai.Prompts{IDs: [][]int32{r.IDs}}
		}
		q.Logprobs = &logprobs
		requests[i] = q
	}
	completions := make([]policy.Completion, len(requests))
	rescored, done := 0, 0
	call := openai.Call{
		Endpoints: p.Endpoints, Chat: p.API == "chat", Concurrency: p.MaxConcurrency, Tries: p.Tries,
		Timeout: time.Duration(p.Timeout * float64(time.Second)), Version: in.policy.Hash,
		Refresh: func(ctx context.Context, endpoint string) error {
			if err := a.refresh(ctx, endpoint, in.policy, in.model); err != nil {
				return fmt.Errorf("gradus worker --refresh %s, %s: %w", a.Remote.Refresh, wants[a.Remote.Refresh], err)
			}
			return nil
		},
	}
	err := a.Remote.Client.Ask(ctx, call, requests, func(i int, r openai.Response) error {
		d, err := r.Read()
		if err != nil {
			return err
		}
		if call.Chat {
			if d.Prompt == nil {
				return &openai.Refused{Endpoint: "rollout.api chat", Message: "the server does not tell the token ids of the prompt that it made (vLLM does, with return_token_ids); use rollout.api=completions"}
			}
			in.prompts[i] = d.Prompt
		}
		c := policy.Completion{IDs: d.IDs, LogProbs: d.LogProbs, FinishReason: d.FinishReason}
		if c.IDs == nil {
			if c.IDs, err = in.model.Tokenizer.EncodeMore(d.Text); err != nil {
				return fmt.Errorf("the server's text: %w", err)
			}
			if d.FinishReason == policy.FinishStop {
				c.IDs = append(c.IDs, in.model.Tokenizer.EOS())
			}
			c.IDs = c.IDs[:min(len(c.IDs), s.MaxCompletionLength)]
		}
		if err := in.model.Config.Check(in.prompts[i], len(c.IDs)); err != nil {
			return err
		}
		if len(c.IDs) == 0 || len(c.IDs) > s.MaxCompletionLength || slices.ContainsFunc(c.IDs, func(id int32) bool { return id < 0 || int(id) >= in.model.Config.VocabSize }) {
			return fmt.Errorf("a completion of %d tokens, want 1 to %d, each below %d", len(c.IDs), s.MaxCompletionLength, in.model.Config.VocabSize)
		}
		if c.LogProbs == nil {
			rescored++
		}
		completions[i] = c
		done++
		datasets.Progress(ctx)
		progress(done, len(requests))
		return nil
	})
	var refused *openai.Refused
	if errors.As(err, &refused) {
		return nil, 0, invalid{err}
	}
	if err != nil {
		return nil, 0, err
	}
	rows := make([]policy.Row, len(completions))
	for i, c := range completions {
		rows[i] = policy.Row{Prompt: in.prompts[i], Completion: c.IDs}
	}
	temperature := s.Temperature
	if temperature == 0 {
		temperature = 1
	}
	scored, err := in.engine.Score(ctx, rows, temperature)
	if err != nil {
		return nil, 0, err
	}
	for i, c := range completions {
		completions[i].Entropies = scored[i].Entropies
		if c.LogProbs == nil {
			completions[i].LogProbs = scored[i].LogProbs
		}
	}
	return completions, rescored, nil
}

// refresh has an endpoint serve a policy.
func (a *Activities) refresh(ctx context.Context, endpoint string, ref datasets.Ref, model *policy.State) error {
	r := a.Remote
	update := openai.Update{ModelPath: ref.String(), WeightVersion: ref.Hash}
	if r.Refresh != RefreshGradus {
		folder, err := r.folder(ref.Hash, model)
		if err != nil {
			return err
		}
		update.ModelPath = folder
	}
	switch r.Refresh {
	case RefreshVLLM:
		rpc := map[string]any{"method": "reload_weights", "kwargs": map[string]string{"weights_path": update.ModelPath}}
		if err := r.Client.Post(ctx, endpoint+"/collective_rpc", rpc, nil); err != nil {
			return err
		}
		if err := r.Client.Post(ctx, endpoint+"/reset_prefix_cache", nil, nil); err != nil {
			return err
		}
		err := r.Client.Post(ctx, endpoint+"/update_weight_version", map[string]string{"new_version": ref.Hash}, nil)
		if openai.NotThere(err) {
			return nil // a version of vLLM that cannot tell its weights' version
		}
		return err
	case RefreshHook:
		cmd := exec.CommandContext(ctx, "sh", "-c", r.Hook)
		cmd.Env = append(os.Environ(), "GRADUS_ENDPOINT="+endpoint, "GRADUS_VERSION="+ref.Hash, "GRADUS_FOLDER="+update.ModelPath)
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("hook: %w: %.500s", err, bytes.TrimSpace(out))
		}
		return nil
	}
	var updated openai.Updated
	if err := r.Client.Post(ctx, endpoint+"/update_weights_from_disk", update, &updated); err != nil {
		return err
	}
	if !updated.Success {
		return fmt.Errorf("the server did not take the weights: %s", updated.Message)
	}
	return nil
}

// folder writes a policy where servers can read it, once, and removes the oldest.
func (r Remote) folder(version string, model *policy.State) (string, error) {
	path, err := filepath.Abs(filepath.Join(r.Folder, version))
	if err != nil {
		return "", err
	}
	_, err, _ = r.folders.Do(version, func() (any, error) {
		if _, err := os.Stat(path); err == nil {
			return nil, nil
		}
		if err := policy.WriteDir(path, model.ForInference()); err != nil {
			if _, there := os.Stat(path); there == nil { // another worker was quicker
				return nil, nil
			}
			return nil, err
		}
		return nil, r.prune()
	})
	return path, err
}

// prune removes all policies but the newest.
func (r Remote) prune() error {
	entries, err := os.ReadDir(r.Folder)
	if err != nil {
		return err
	}
	type policyFolder struct {
		name    string
		written time.Time
	}
	var all []policyFolder
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && len(e.Name()) == 64 { // a hash: nothing else is this worker's
			all = append(all, policyFolder{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b policyFolder) int { return b.written.Compare(a.written) })
	for _, p := range all[min(len(all), keepFolders):] {
		if err := os.RemoveAll(filepath.Join(r.Folder, p.name)); err != nil {
			return err
		}
	}
	return nil
}
