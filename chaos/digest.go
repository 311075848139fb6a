package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
	"github.com/gradus-rl/gradus/workflows"
)

// incidental are figures that say how long something took or what befell it, and
// not what came out.
var incidental = []string{"seconds", "saved", "train_seconds", "orchestration", "orchestration_seconds", "curriculum_seconds", "mended", "reused", "trouble"}

// Digest is a hash over all that a run leaves behind: the records of its problems,
// warm-up, steps and evaluations with the content addresses of every table and
// policy in them (weights, optimizer, curriculum state, metrics), the multiset of
// the problems it trained on, and the figures it returned, without wall times.
// Every object is read and has its checksum, else Digest fails.
func Digest(ctx context.Context, s datasets.Store, run string, result workflows.Result) (string, error) {
	sum := sha256.New()
	add := func(name string, raw []byte) error {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		canonical, err := datasets.Canonical(without(v))
		fmt.Fprintf(sum, "%s %s\n", name, canonical)
		return err
	}
	prefix := "runs/" + run + "/"
	records, err := s.List(ctx, prefix)
	if err != nil {
		return "", err
	}
	if len(records) == 0 {
		return "", fmt.Errorf("digest: %s has no records of run %s", s, run)
	}
	var refs []datasets.Ref
	trained := map[string]int{}
	for _, o := range records {
		raw, err := s.Get(ctx, o.Key)
		if err != nil {
			return "", err
		}
		if err := add(o.Key[len(prefix):], raw); err != nil {
			return "", err
		}
		refs = append(refs, datasets.RefsIn(raw)...)
		var step activities.StepRecord
		if json.Unmarshal(raw, &step) == nil && step.Selections.Hash != "" {
			if err := count(ctx, s, step.Selections, trained); err != nil {
				return "", err
			}
		}
	}
	for len(refs) > 0 {
		r := refs[0]
		refs = refs[1:]
		raw, err := datasets.LoadBlob(ctx, s, r)
		if err != nil {
			return "", fmt.Errorf("digest of run %s: %w", run, err)
		}
		if r.Kind == policy.KindPolicy {
			refs = append(refs, datasets.RefsIn(raw)...)
		}
	}
	returned, err := json.Marshal(result)
	if err != nil {
		return "", err
	}
	if err := add("result", returned); err != nil {
		return "", err
	}
	multiset, err := json.Marshal(trained)
	if err != nil {
		return "", err
	}
	if err := add("trained", multiset); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// without is a decoded JSON value less what is incidental.
func without(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			if slices.Contains(incidental, name) {
				delete(v, name)
			} else {
				v[name] = without(v[name])
			}
		}
	case []any:
		for i := range v {
			v[i] = without(v[i])
		}
	}
	return v
}

// count adds the completions that a step trained on, by problem.
func count(ctx context.Context, s datasets.Store, selections datasets.Ref, trained map[string]int) error {
	t, err := datasets.Load(ctx, s, memory.DefaultAllocator, selections)
	if err != nil {
		return err
	}
	defer t.Release()
	kept := datasets.Kept.Get(t)
	for i, id := range datasets.ProblemID.Get(t) {
		if kept[i] {
			trained[id]++
		}
	}
	return nil
}
