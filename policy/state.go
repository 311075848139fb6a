package policy

// State is a policy and its optimizer: everything an update reads and writes.
type State struct {
	Config    Config
	Tokenizer *Tokenizer
	Weights   Weights
	Moments1  Weights // first moments of Adam, like Weights; nil: fresh
	Moments2  Weights // second moments of Adam
	Step      int64   // optimizer steps taken
}
