package exchange

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Rollouts are completions made elsewhere, as the selecting stages need them; one
// entry per row in each column that is not nil.
type Rollouts struct {
	Step      []int64     // update that they are for, from 1; nil = all for one
	Group     []int64     // tries of one prompt, within a step
	Reward    []float64   // of the verifier
	Correct   []bool      // nil = a reward above 0
	Tokens    []int32     // length of the completion; nil = not known
	Origin    []string    // how the problem was posed; nil = original
	HintLevel []int32     // nil = no hints
	Entropy   [][]float32 // nats per token

	// What a score pass of the policy tells of each token; see sampling.Curvature.
	Probs       [][]float32 // probabilities of the likeliest tokens, token after token
	Chosen      [][]int32   // place of the sampled token among them
	NormSquared [][]float32 // squared norm of the input of the LM head over the temperature

	from   map[string]string // column that each field comes from
	groups map[string]int64  // of keys that are no numbers
}

// Field is what a selection reads of a row, and under which names it is looked for.
type Field struct {
	Name    string
	Doc     string
	Columns []string // the first that is there counts
}

// Fields returns the fields that [Rollouts] have. group and reward must be there.
func Fields() []Field {
	return []Field{
		{"group", "tries of one prompt have the same: a number, an id, or the prompt itself", []string{"group", "group_id", "uid", "prompt_id", "problem_id", "problem", "prompt_ids", "prompts", "prompt", "raw_prompt"}},
		{"reward", "a number; of a list, such as verl's token_level_scores, the sum", []string{"reward", "rewards", "score", "scores", "token_level_scores"}},
		{"step", "update that the row is for, from 1; each is selected from on its own", []string{"step", "global_step", "training_step"}},
		{"correct", "true or false, a number above 0, or the verdict correct", []string{"verdict", "correct", "is_correct", "acc"}},
		{"tokens", "length of the completion: a number, or a list with an entry per token", []string{"completion_ids", "responses", "response_ids", "completion_length", "response_length", "num_tokens", "logprobs", "sampling_per_token_logps", "rollout_log_probs", "old_log_probs", "entropies"}},
		{"entropies", "list of nats, one per token", []string{"entropies", "entropy", "entropys", "token_entropies"}},
		{"origin", "original, simplified, diversified or hinted", []string{"origin"}},
		{"hint_level", "0 = none", []string{"hint_level"}},
		{"topk_probs", "list of the k largest probabilities of each token in turn", []string{"topk_probs"}},
		{"topk_chosen", "list: place of each sampled token among its k", []string{"topk_chosen"}},
		{"hidden_norm_squared", "list: squared norm of the LM head's input over the temperature", []string{"hidden_norm_squared"}},
	}
}

// NewRollouts finds the fields among the columns of a schema. mapping names columns
// of the user's own, by field; a dot reaches into a struct.
func NewRollouts(schema *arrow.Schema, mapping map[string]string) (*Rollouts, error) {
	r := &Rollouts{from: map[string]string{}, groups: map[string]int64{}}
	empty := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer empty.Release()
	rec := empty.NewRecord()
	defer rec.Release()
	var names, fields []string
	for _, f := range schema.Fields() {
		names = append(names, f.Name)
	}
	for _, f := range Fields() {
		fields = append(fields, f.Name)
		if column, ok := mapping[f.Name]; ok {
			if _, err := at(rec, column); err != nil {
				return nil, fmt.Errorf("%s from %w; the columns are %s", f.Name, err, strings.Join(names, ", "))
			}
			r.from[f.Name] = column
			continue
		}
		for _, column := range f.Columns {
			if schema.HasField(column) {
				r.from[f.Name] = column
				break
			}
		}
		if r.from[f.Name] == "" && (f.Name == "group" || f.Name == "reward") {
			return nil, fmt.Errorf("no column for %s, which is looked for as %s; the columns are %s: name one by %s=COLUMN",
				f.Name, strings.Join(f.Columns, ", "), strings.Join(names, ", "), f.Name)
		}
	}
	for _, f := range slices.Sorted(maps.Keys(mapping)) {
		if !slices.Contains(fields, f) {
			return nil, fmt.Errorf("unknown field %q; there are %s", f, strings.Join(fields, ", "))
		}
	}
	return r, nil
}

// From is which column each field comes from, for those that there are.
func (r *Rollouts) From() map[string]string { return maps.Clone(r.from) }

// Rows is the number of rows so far.
func (r *Rollouts) Rows() int { return len(r.Reward) }

// Add reads the rows of a batch of the schema.
func (r *Rollouts) Add(rec arrow.Record) error {
	for _, f := range Fields() {
		column, ok := r.from[f.Name]
		if !ok {
			continue
		}
		a, err := at(rec, column)
		if err != nil {
			return err
		}
		for i := range a.Len() {
			if err := r.add(f.Name, a, i); err != nil {
				return fmt.Errorf("row %d of the batch: %s from column %q: %w", i, f.Name, column, err)
			}
		}
	}
	return nil
}

func (r *Rollouts) add(field string, a arrow.Array, i int) error {
	if a.IsNull(i) {
		return fmt.Errorf("want a value, got null")
	}
	switch field {
	case "group":
		if v, ok := number(a, i); ok && arrow.IsInteger(a.DataType().ID()) {
			r.Group = append(r.Group, int64(v))
			return nil
		}
		key := a.ValueStr(i)
		if _, ok := r.groups[key]; !ok {
			r.groups[key] = int64(len(r.groups))
		}
		r.Group = append(r.Group, r.groups[key])
	case "reward":
		v, ok := number(a, i)
		if values, err := numbers[float64](a, i); !ok && err == nil {
			for _, x := range values {
				v += x
			}
			ok = true
		}
		if !ok {
			return fmt.Errorf("want a number, got %s", a.DataType())
		}
		r.Reward = append(r.Reward, v)
	case "correct":
		v, ok := number(a, i)
		if s, text := a.(array.StringLike); text {
			v, ok = 0, true
			if s.Value(i) == "correct" {
				v = 1
			}
		}
		if !ok {
			return fmt.Errorf("want true or false, a number or a verdict, got %s", a.DataType())
		}
		r.Correct = append(r.Correct, v > 0)
	case "tokens":
		v, ok := number(a, i)
		if l, isList := a.(array.ListLike); isList {
			lo, hi := l.ValueOffsets(i)
			v, ok = float64(hi-lo), true
		}
		if !ok || v < 0 || v > 1<<30 {
			return fmt.Errorf("want a length or a list, got %s", a.ValueStr(i))
		}
		r.Tokens = append(r.Tokens, int32(v))
	case "origin":
		s, ok := a.(array.StringLike)
		if !ok {
			return fmt.Errorf("want a text, got %s", a.DataType())
		}
		r.Origin = append(r.Origin, strings.Clone(s.Value(i)))
	case "step", "hint_level":
		v, ok := number(a, i)
		if !ok || v != float64(int64(v)) {
			return fmt.Errorf("want a whole number, got %s", a.ValueStr(i))
		}
		if field == "step" {
			r.Step = append(r.Step, int64(v))
		} else {
			r.HintLevel = append(r.HintLevel, int32(v))
		}
	case "topk_chosen":
		v, err := numbers[int32](a, i)
		r.Chosen = append(r.Chosen, v)
		return err
	default:
		to := map[string]*[][]float32{"entropies": &r.Entropy, "topk_probs": &r.Probs, "hidden_norm_squared": &r.NormSquared}[field]
		v, err := numbers[float32](a, i)
		*to = append(*to, v)
		return err
	}
	return nil
}

// number is row i of a column of numbers or booleans.
func number(a arrow.Array, i int) (float64, bool) {
	switch a := a.(type) {
	case *array.Boolean:
		if a.Value(i) {
			return 1, true
		}
		return 0, true
	case *array.Int8:
		return float64(a.Value(i)), true
	case *array.Int16:
		return float64(a.Value(i)), true
	case *array.Int32:
		return float64(a.Value(i)), true
	case *array.Int64:
		return float64(a.Value(i)), true
	case *array.Uint8:
		return float64(a.Value(i)), true
	case *array.Uint16:
		return float64(a.Value(i)), true
	case *array.Uint32:
		return float64(a.Value(i)), true
	case *array.Uint64:
		return float64(a.Value(i)), true
	case *array.Float16:
		return float64(a.Value(i).Float32()), true
	case *array.Float32:
		return float64(a.Value(i)), true
	case *array.Float64:
		return a.Value(i), true
	}
	return 0, false
}

// numbers is row i of a column of lists of numbers, of lists of lists one after the
// other.
func numbers[T float32 | float64 | int32](a arrow.Array, i int) ([]T, error) {
	l, ok := a.(array.ListLike)
	if !ok {
		return nil, fmt.Errorf("want a list of numbers, got %s", a.DataType())
	}
	lo, hi := l.ValueOffsets(i)
	out := make([]T, 0, hi-lo)
	for k := lo; k < hi; k++ {
		if _, nested := l.ListValues().(array.ListLike); nested {
			inner, err := numbers[T](l.ListValues(), int(k))
			if err != nil {
				return nil, err
			}
			out = append(out, inner...)
			continue
		}
		v, ok := number(l.ListValues(), int(k))
		if !ok || l.ListValues().IsNull(int(k)) {
			return nil, fmt.Errorf("want a list of numbers, got %s", a.ValueStr(i))
		}
		out = append(out, T(v))
	}
	return out, nil
}

// Selection is what became of [Rollouts], row by row.
type Selection struct {
	Advantage      []float64
	Kept           []bool
	Reason         []string // why it was not kept, "" when it was
	Reward         []float64
	TokensKept     []int32
	TokenReasons   [][]int32 // a nil row: all tokens alike; nil: of all rows
	TokensKnown    bool      // the lengths of the completions are
	Tokens         []int32
	KLScale        []float64 // nil = 1
	OriginalPrompt []bool    // nil = false
}

// Extend is a batch of the rollouts, which begins at their row first, with what
// became of them: advantage, kept, reason and, where the lengths of the completions
// are known, tokens_kept, token_mask (1 = to be trained on) and token_reasons; where a
// stage wrote them, reward_trained, kl_scale and original_prompt. Columns of these names
// are replaced. keptOnly leaves out the rows that are not to be trained on.
func (s *Selection) Extend(mem memory.Allocator, rec arrow.Record, first int, keptOnly bool) (arrow.Record, error) {
	n := int(rec.NumRows())
	row := func(i int) int { return first + i }
	added := []column{
		floats("advantage", func(i int) float64 { return s.Advantage[row(i)] }), bools("kept", func(i int) bool { return s.Kept[row(i)] }),
		texts("reason", func(i int) string { return s.Reason[row(i)] }), floats("reward_trained", func(i int) float64 { return s.Reward[row(i)] }),
	}
	if s.TokensKnown {
		reasons := func(i int) []int32 {
			if s.TokenReasons == nil || s.TokenReasons[row(i)] == nil {
				return make([]int32, s.Tokens[row(i)])
			}
			return s.TokenReasons[row(i)]
		}
		added = append(added, ints("tokens_kept", func(i int) int32 { return s.TokensKept[row(i)] }),
			intLists("token_mask", func(i int) []int32 {
				c := Completion{Kept: s.Kept[row(i)], TokenReasons: reasons(i), Tokens: make([]int32, s.Tokens[row(i)])}
				return c.mask()
			}), intLists("token_reasons", reasons))
	}
	if s.KLScale != nil {
		added = append(added, floats("kl_scale", func(i int) float64 { return s.KLScale[row(i)] }))
	}
	if s.OriginalPrompt != nil {
		added = append(added, bools("original_prompt", func(i int) bool { return s.OriginalPrompt[row(i)] }))
	}
	beside := build(mem, n, added)
	defer beside.Release()
	var fields []arrow.Field
	var arrays []arrow.Array
	for k, f := range rec.Schema().Fields() {
		if !beside.Schema().HasField(f.Name) {
			fields, arrays = append(fields, f), append(arrays, rec.Column(k))
		}
	}
	fields, arrays = append(fields, beside.Schema().Fields()...), append(arrays, beside.Columns()...)
	whole := array.NewRecord(arrow.NewSchema(fields, nil), arrays, int64(n))
	if !keptOnly {
		return whole, nil
	}
	defer whole.Release()
	var kept []int32
	for i := range n {
		if s.Kept[row(i)] {
			kept = append(kept, int32(i))
		}
	}
	return Take(mem, whole, kept)
}

// Take is the rows of a batch with the given numbers, in their order.
func Take(mem memory.Allocator, rec arrow.Record, rows []int32) (arrow.Record, error) {
	if len(rows) == 0 {
		return rec.NewSlice(0, 0), nil
	}
	columns := make([]arrow.Array, rec.NumCols())
	defer func() {
		for _, c := range columns {
			if c != nil {
				c.Release()
			}
		}
	}()
	for k, c := range rec.Columns() {
		var parts []arrow.Array
		for i := 0; i < len(rows); {
			j := i + 1
			for j < len(rows) && rows[j] == rows[j-1]+1 {
				j++
			}
			parts = append(parts, array.NewSlice(c, int64(rows[i]), int64(rows[j-1])+1))
			i = j
		}
		var err error
		columns[k], err = array.Concatenate(parts, mem)
		for _, p := range parts {
			p.Release()
		}
		if err != nil {
			return nil, fmt.Errorf("take rows: column %q: %w", rec.ColumnName(k), err)
		}
	}
	return array.NewRecord(rec.Schema(), columns, int64(len(rows))), nil
}
