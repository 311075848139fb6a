package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
)

// State is a policy and its optimizer: everything an update reads and writes.
type State struct {
	Config    Config
	Tokenizer *Tokenizer
	Weights   Weights
	Adapter   *Adapter // learnt in place of Weights, which it is to be added to; nil: Weights are learnt
	Moments1  Weights  // first moments of Adam, like what is learnt; nil: fresh
	Moments2  Weights  // second moments of Adam; nil if and only if Moments1 is
	Step      int64    // optimizer steps taken
	// Generation is the generation_config.json of a policy that came with one, kept
	// for those it is given back to. Its end tokens are in Config.
	Generation json.RawMessage
}

// HeadMoments are Adam's moments of the LM head, each [VocabSize, HiddenSize]
// row-major: the embedding's where the two are tied, and nil before the first
// update, where the state came without its optimizer, and where an adapter is
// learnt, which leaves the head as it is. They share the state's
// memory and must not be written to.
//
// They are moments of the loss, which the optimizer descends. Whoever models a
// step up an objective takes the first ones with the opposite sign.
func (s *State) HeadMoments() (first, second []float32) {
	if s.Step == 0 || s.Moments1 == nil || s.Adapter != nil {
		return nil, nil
	}
	head := len(s.Weights) - 1 // as Config.Layout has it
	if s.Config.TieWordEmbeddings {
		head = 0
	}
	return s.Moments1[head].Data, s.Moments2[head].Data
}

// ForInference is the policy alone, its adapter merged and its optimizer left out: what
// other programs serve. vLLM and SGLang take every safetensors file of a folder for
// weights.
func (s State) ForInference() *State {
	s.Merge()
	s.Moments1, s.Moments2, s.Step = nil, nil, 0
	return &s
}

// The files of a checkpoint: the Hugging Face layout, and the optimizer.
const (
	ConfigFile          = "config.json"
	WeightsFile         = "model.safetensors" // large ones are cut, see shards
	TokenizerFile       = "tokenizer.json"
	TokenizerConfigFile = "tokenizer_config.json"
	ChatTemplateFile    = "chat_template.jinja"
	GenerationFile      = "generation_config.json"
	OptimizerFile       = "optimizer.safetensors"
)

// Format is how weights are written. The zero value is float32 in files of up to
// 2 GiB.
type Format struct {
	DType      DType // empty: float32
	ShardBytes int64 // greatest size of a file of weights, in bytes, unless one tensor is larger; 0: 2 GiB
}

// shardBytes keeps what is held in memory beside the weights small, and objects
// within what every store takes.
const shardBytes = 2 << 30

// KindPolicy is the Ref.Kind of a policy version.
const KindPolicy = "policy"

// Manifest is one policy version in a store: the addresses of its files. It is
// the last thing that is written, so a version exists whole or not at all.
type Manifest struct {
	Files   map[string]datasets.Ref `json:"files"` // by the names above
	Step    int64                   `json:"step"`  // optimizer steps taken
	Lineage datasets.Lineage        `json:"lineage"`
}

// Optimizer state is named as PyTorch's Adam names it: the weight's name and
// one of these.
const (
	suffix1 = ".exp_avg"
	suffix2 = ".exp_avg_sq"
)

// check reports what makes a state no checkpoint, naming the file that would
// be wrong.
func (s *State) check() error {
	if s.Tokenizer == nil {
		return fmt.Errorf("%s: no tokenizer", TokenizerFile)
	}
	if err := s.Config.Validate(); err != nil {
		return fmt.Errorf("%s: %w", ConfigFile, err)
	}
	if s.Tokenizer.Size() > s.Config.VocabSize {
		return fmt.Errorf("%s: %d tokens, want at most the vocab_size of %s, %d",
			TokenizerFile, s.Tokenizer.Size(), ConfigFile, s.Config.VocabSize)
	}
	if ids := s.Config.EOSTokenID; ids != nil && !slices.Contains(ids, s.Tokenizer.EOS()) {
		return fmt.Errorf("%s: eos_token_id is %d, want %d, the end token of %s", ConfigFile, ids, s.Tokenizer.EOS(), TokenizerFile)
	}
	if err := checkLayout(s.Config.Layout(), s.Weights, s.Config.Arrange); err != nil {
		return fmt.Errorf("%s: %w", WeightsFile, err)
	}
	layout, order := s.learnt()
	if s.Adapter != nil {
		if err := checkLayout(layout, s.Adapter.Weights, order); err != nil {
			return fmt.Errorf("%s: %w", AdapterFile, err)
		}
	}
	if (s.Moments1 == nil) != (s.Moments2 == nil) {
		return fmt.Errorf("%s: want first and second moments, or neither", OptimizerFile)
	}
	for _, moments := range []Weights{s.Moments1, s.Moments2} {
		if moments == nil {
			continue
		}
		if err := checkLayout(layout, moments, order); err != nil {
			return fmt.Errorf("%s: %w", OptimizerFile, err)
		}
	}
	if s.Step < 0 {
		return fmt.Errorf("%s: step is %d, want at least 0", OptimizerFile, s.Step)
	}
	return nil
}

// learnt is the layout of what is learnt, and what puts tensors into its order.
func (s *State) learnt() ([]WeightShape, func([]Tensor) (Weights, error)) {
	if s.Adapter == nil {
		return s.Config.Layout(), s.Config.Arrange
	}
	layout := s.Adapter.layout(s.Config)
	return layout, func(tensors []Tensor) (Weights, error) { return arrange(layout, tensors) }
}

// checkLayout wants w to be the layout's tensors in the layout's order.
func checkLayout(layout []WeightShape, w Weights, order func([]Tensor) (Weights, error)) error {
	ordered, err := order(w)
	if err != nil {
		return err
	}
	if len(ordered) != len(w) {
		return fmt.Errorf("%d tensors, want %d", len(w), len(layout))
	}
	for i := range w {
		if w[i].Name != ordered[i].Name {
			return fmt.Errorf("tensor %s: out of order, want %s", w[i].Name, ordered[i].Name)
		}
	}
	return nil
}

// file is one file of a checkpoint. Large ones are encoded one at a time.
type file struct {
	name   string
	encode func() []byte
}

// files are the files of a state. Equal states give equal bytes. The optimizer's
// are left out of a policy that was never updated.
func (s *State) files(f Format) ([]file, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if f.DType == "" {
		f.DType = Float32
	}
	if f.DType != Float32 && f.DType != BFloat16 {
		return nil, fmt.Errorf("dtype is %q, want %s or %s", f.DType, Float32, BFloat16)
	}
	if f.ShardBytes == 0 {
		f.ShardBytes = shardBytes
	}
	c := s.Config
	pad := s.Tokenizer.Pad()
	c.PadTokenID = &pad
	if c.EOSTokenID == nil {
		c.EOSTokenID = TokenIDs{s.Tokenizer.EOS()}
	}
	var files []file
	add := func(name string, data []byte) {
		if data != nil {
			files = append(files, file{name, func() []byte { return data }})
		}
	}
	add(ConfigFile, c.json(f.DType))
	files = append(files, f.shards(WeightsFile, s.Weights, map[string]string{"format": "pt"})...)
	add(TokenizerFile, s.Tokenizer.JSON())
	add(TokenizerConfigFile, s.Tokenizer.configJSON(c.MaxPositionEmbeddings))
	add(ChatTemplateFile, s.Tokenizer.template)
	add(GenerationFile, s.Generation)
	if s.Adapter != nil {
		files = append(files, s.Adapter.files()...)
	}
	if s.Moments1 != nil || s.Step != 0 {
		var moments []Tensor
		for i := range s.Moments1 {
			m1, m2 := s.Moments1[i], s.Moments2[i]
			m1.Name, m2.Name = m1.Name+suffix1, m2.Name+suffix2
			moments = append(moments, m1, m2)
		}
		f.DType = Float32 // moments are of small use where they are rounded
		files = append(files, f.shards(OptimizerFile, moments, map[string]string{"format": "pt", "step": strconv.FormatInt(s.Step, 10)})...)
	}
	return files, nil
}

// configJSON is the tokenizer_config.json with which Python's transformers
// knows what the special tokens are for. Load it there by
// PreTrainedTokenizerFast: AutoTokenizer of version 5 goes by model_type alone
// and takes every tokenizer of a qwen2 model for Qwen's own.
//
// What came with a checkpoint goes as it came.
func (t *Tokenizer) configJSON(context int) []byte {
	if t.bpe != nil {
		return t.config
	}
	v := struct {
		Class     string `json:"tokenizer_class"`
		EOS       string `json:"eos_token"`
		Pad       string `json:"pad_token"`
		Unk       string `json:"unk_token,omitempty"`
		MaxLength int    `json:"model_max_length"`
		CleanUp   bool   `json:"clean_up_tokenization_spaces"`
	}{Class: "PreTrainedTokenizerFast", EOS: t.tokens[t.eos], Pad: t.tokens[t.pad], MaxLength: context}
	if t.unk >= 0 {
		v.Unk = t.tokens[t.unk]
	}
	return append(appendJSON(nil, v), '\n')
}

// readState decodes a checkpoint; without moments if optimizer is false. Its
// errors name the file and what was expected of it.
func readState(open open, optimizer bool) (*State, error) {
	s := &State{}
	var err error
	if s.Config, s.Generation, err = readShape(open); err != nil {
		return nil, err
	}
	if s.Tokenizer, err = readTokenizer(open, &s.Config); err != nil {
		return nil, err
	}
	tensors, _, err := readTensors(open, WeightsFile)
	if err != nil {
		return nil, err
	}
	if s.Weights, err = s.Config.Arrange(tensors); err != nil {
		return nil, fmt.Errorf("%s: %w", WeightsFile, err)
	}
	if s.Adapter, err = openAdapter(open, s.Config); err != nil {
		return nil, err
	}
	if optimizer {
		tensors, meta, err := readTensors(open, OptimizerFile)
		if err == nil {
			if err = s.setOptimizer(tensors, meta); err != nil {
				err = fmt.Errorf("%s: %w", OptimizerFile, err)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// readShape reads config.json and, if there is one, generation_config.json,
// whose end tokens take the place of the former's.
func readShape(open open) (c Config, generation json.RawMessage, err error) {
	data, err := open.all(ConfigFile)
	if err == nil {
		c, err = ReadConfig(data)
	}
	if err != nil {
		return c, nil, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	generation, err = open.all(GenerationFile)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil, nil
	}
	var g struct {
		EOSTokenID TokenIDs `json:"eos_token_id"`
	}
	if err == nil {
		err = json.Unmarshal(generation, &g)
	}
	if err != nil {
		return c, nil, fmt.Errorf("%s: %w", GenerationFile, err)
	}
	if len(g.EOSTokenID) > 0 {
		c.EOSTokenID = g.EOSTokenID
		if err := c.Validate(); err != nil {
			return c, nil, fmt.Errorf("%s: %w", GenerationFile, err)
		}
	}
	return c, generation, nil
}

// setOptimizer takes the moments and the step.
func (s *State) setOptimizer(tensors []Tensor, meta map[string]string) (err error) {
	if s.Step, err = strconv.ParseInt(meta["step"], 10, 64); err != nil || s.Step < 0 {
		return fmt.Errorf("__metadata__.step is %q, want a count of optimizer steps", meta["step"])
	}
	if len(tensors) == 0 {
		return nil
	}
	var first, second []Tensor
	for _, t := range tensors {
		if name, ok := strings.CutSuffix(t.Name, suffix1); ok {
			t.Name = name
			first = append(first, t)
		} else if name, ok := strings.CutSuffix(t.Name, suffix2); ok {
			t.Name = name
			second = append(second, t)
		} else {
			return fmt.Errorf("tensor %s: want a name that ends in %s or %s", t.Name, suffix1, suffix2)
		}
	}
	_, order := s.learnt()
	if s.Moments1, err = order(first); err != nil {
		return fmt.Errorf("first moments (%s): %w", suffix1, err)
	}
	if s.Moments2, err = order(second); err != nil {
		return fmt.Errorf("second moments (%s): %w", suffix2, err)
	}
	return nil
}

// SaveState writes a policy version: its files under their content addresses,
// then the manifest, whose Ref is the version. Equal states of equal lineage
// have equal Refs, so saving twice is saving once.
func SaveState(ctx context.Context, store datasets.Store, s *State, lineage datasets.Lineage) (datasets.Ref, error) {
	files, err := s.files(Format{})
	if err != nil {
		return datasets.Ref{}, fmt.Errorf("save policy: %w", err)
	}
	m := Manifest{Files: make(map[string]datasets.Ref, len(files)), Step: s.Step, Lineage: lineage}
	for _, f := range files {
		if m.Files[f.name], err = datasets.SaveBlob(ctx, store, f.encode()); err != nil {
			return datasets.Ref{}, fmt.Errorf("save policy: %s: %w", f.name, err)
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return datasets.Ref{}, fmt.Errorf("save policy: manifest: %w", err)
	}
	ref, err := datasets.SaveBlob(ctx, store, data)
	if err != nil {
		return datasets.Ref{}, fmt.Errorf("save policy: manifest: %w", err)
	}
	ref.Kind = KindPolicy
	return ref, nil
}

// fetch is for who gives the name of a model on Hugging Face.
const fetch = "models are not downloaded: fetch one by hf download NAME --local-dir FOLDER"

// ParseRef reads the Ref of a policy in a store, where a folder might have stood too.
func ParseRef(s string) (datasets.Ref, error) {
	ref, err := datasets.ParseRef(s)
	switch {
	case err != nil && strings.Count(s, ":") == 3:
		return ref, fmt.Errorf("policy: %w", err)
	case err != nil:
		return ref, fmt.Errorf("policy %q: there is no such folder, and a Ref looks like policy:0:1000:hash; %s", s, fetch)
	}
	return ref, nil
}

// LoadManifest reads the manifest of a policy version.
func LoadManifest(ctx context.Context, store datasets.Store, ref datasets.Ref) (Manifest, error) {
	if ref.Kind != KindPolicy {
		return Manifest{}, fmt.Errorf("load policy: ref %q has kind %q, want %q", ref, ref.Kind, KindPolicy)
	}
	data, err := datasets.LoadBlob(ctx, store, ref)
	if err != nil {
		return Manifest{}, fmt.Errorf("load policy: manifest: %w", err)
	}
	var m Manifest
	if err := datasets.DecodeStrict(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("load policy: manifest %s: %w", ref.Hash, err)
	}
	return m, nil
}

// open reads the manifest's files.
func (m Manifest) open(ctx context.Context, store datasets.Store) open {
	return func(name string) (source, error) {
		r, ok := m.Files[name]
		if !ok {
			return nil, fmt.Errorf("not in the manifest: %w", fs.ErrNotExist)
		}
		data, err := datasets.LoadBlob(ctx, store, r)
		if err != nil {
			return nil, err
		}
		return memory{bytes.NewReader(data)}, nil
	}
}

// LoadTokenizer reads what is needed to know a policy's tokens: of a large
// policy no more than some small files.
func LoadTokenizer(ctx context.Context, store datasets.Store, m Manifest) (*Tokenizer, Config, error) {
	c, _, err := readShape(m.open(ctx, store))
	if err != nil {
		return nil, c, fmt.Errorf("load policy: %w", err)
	}
	t, err := readTokenizer(m.open(ctx, store), &c)
	if err != nil {
		return nil, c, fmt.Errorf("load policy: %w", err)
	}
	return t, c, nil
}

// LoadState reads a policy version with its optimizer.
func LoadState(ctx context.Context, store datasets.Store, ref datasets.Ref) (*State, error) {
	return loadState(ctx, store, ref, true)
}

// LoadModel reads a policy version without its moments, which are two thirds of
// the bytes, and with its adapter merged: all that generating and scoring need.
func LoadModel(ctx context.Context, store datasets.Store, ref datasets.Ref) (*State, error) {
	s, err := loadState(ctx, store, ref, false)
	if err == nil {
		s.Merge()
	}
	return s, err
}

func loadState(ctx context.Context, store datasets.Store, ref datasets.Ref, optimizer bool) (*State, error) {
	m, err := LoadManifest(ctx, store, ref)
	if err != nil {
		return nil, err
	}
	s, err := readState(m.open(ctx, store), optimizer)
	var damaged *datasets.DamagedError
	if errors.As(err, &damaged) { // a file is made anew with its policy
		return nil, &datasets.DamagedError{Ref: ref, Err: fmt.Errorf("load policy %s: %w", ref.Hash, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("load policy %s: %w", ref.Hash, err)
	}
	if optimizer && s.Step != m.Step {
		return nil, fmt.Errorf("load policy %s: %s: step is %d, want %d as in the manifest", ref.Hash, OptimizerFile, s.Step, m.Step)
	}
	s.Step = m.Step
	return s, nil
}

// ReadDir reads a checkpoint folder in the Hugging Face layout. The optimizer's
// file may be missing, and PEFT's files of an adapter may be there.
func ReadDir(path string) (*State, error) {
	s, err := readState(func(name string) (source, error) {
		f, err := os.Open(filepath.Join(path, name))
		if err != nil {
			return nil, bare(err)
		}
		return disk{f}, nil
	}, true)
	if hint := otherLayout(path); hint != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read checkpoint %s: %s", path, hint)
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", path, err)
	}
	return s, nil
}

// otherLayout says what a folder that lacks files is instead, and what to do; "" where
// that is not known.
func otherLayout(path string) string {
	has := func(pattern string) bool {
		found, _ := fs.Glob(os.DirFS(path), pattern) // the patterns are good ones
		return found != nil
	}
	switch {
	case !has("."):
		return "there is no such folder; " + fetch
	case has(AdapterConfigFile) && !has(ConfigFile):
		return "it holds a PEFT adapter without its model; copy the adapter's files into the folder of the model that it was learnt on, and take that"
	case has("pytorch_model*.bin") && !has("*.safetensors"):
		return "its weights are pickled, in pytorch_model.bin, want " + WeightsFile + "; transformers' save_pretrained writes that"
	}
	return ""
}

// WriteDir is WriteDirAs in float32.
func WriteDir(path string, s *State) error { return WriteDirAs(path, s, Format{}) }

// WriteDirAs writes a checkpoint folder in the Hugging Face layout. The folder
// appears whole or not at all; one that exists and is not empty is refused.
func WriteDirAs(path string, s *State, format Format) error {
	files, err := s.files(format)
	if err == nil {
		err = writeFolder(path, files)
	}
	if err != nil {
		return fmt.Errorf("write checkpoint %s: %w", path, err)
	}
	return nil
}

// WriteAdapter writes the state's adapter as a folder in PEFT's layout, as
// WriteDir writes one.
func WriteAdapter(path string, s *State) error {
	err := errors.New("the policy has no adapter")
	if s.Adapter != nil {
		err = writeFolder(path, s.Adapter.files())
	}
	if err != nil {
		return fmt.Errorf("write adapter %s: %w", path, err)
	}
	return nil
}

func writeFolder(path string, files []file) error {
	switch entries, err := os.ReadDir(path); {
	case err == nil && len(entries) > 0:
		return errors.New("the folder is not empty")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(filepath.Clean(path))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	// Beside its final place, since a rename does not cross file systems.
	temporary, err := os.MkdirTemp(parent, ".checkpoint-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary) // there is nothing left to remove after the rename
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(temporary, f.name), f.encode()); err != nil {
			return err
		}
	}
	// A rename does not replace a folder, and Remove takes an empty one only.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(temporary, path)
}

// writeFile writes a file and waits until the disk has it, so that the rename
// of its folder never reveals an empty file after a crash.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
