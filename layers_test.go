package gradus

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gradus-rl/gradus/"

// layers is which folder may import which of ours. Imports run one way.
var layers = map[string][]string{
	"datasets":           {},
	"datasets/storetest": {"datasets"},
	"datasets/families":  {"datasets"},
	"datasets/exchange":  {"datasets"},
	"datasets/files":     {"datasets"},
	"datasets/filter":    {},
	"datasets/prepare":   {"datasets", "datasets/families", "datasets/filter", "curriculum"},
	"reward":             {},
	"curriculum":         {"datasets"},
	"sampling":           {"datasets"},
	"policy":             {"datasets", "policy/tokenizer", "policy/chat"},
	"recipes":            {"datasets", "datasets/exchange", "curriculum", "sampling", "policy", "datasets/prepare"},
	"policy/chat":        {},
	"policy/tokenizer":   {},
	"statistics":         {},
	"openai":             {},
	"serve":              {"datasets", "openai", "policy", "policy/chat"},
	"ledger":             {"datasets", "datasets/exchange", "sampling", "recipes", "activities"},
	"activities":         {"datasets", "datasets/families", "reward", "curriculum", "sampling", "policy", "recipes", "datasets/prepare", "openai"},
	"workflows":          {"datasets", "recipes", "activities", "statistics", "datasets/prepare"},
	"claims":             {"datasets", "recipes", "statistics", "workflows"},
	"simulate":           {"datasets", "datasets/families", "reward", "curriculum", "policy", "recipes", "activities", "workflows"},
	"stack":              {"datasets"},
	"chaos":              {"datasets", "policy", "activities", "workflows", "stack", "worker"},
	"worker":             {"datasets", "reward", "workflows", "activities"},
	"cmd/gradus":         {"datasets", "datasets/exchange", "datasets/files", "datasets/filter", "ledger", "reward", "sampling", "policy", "recipes", "activities", "workflows", "claims", "simulate", "chaos", "worker", "stack", "datasets/prepare", "serve", "openai"},
}

// heavy is who alone may import a library.
var heavy = map[string][]string{
	"github.com/apache/arrow/":     {"datasets", "datasets/families", "datasets/exchange", "datasets/files", "datasets/filter", "activities", "claims", "ledger", "simulate", "chaos", "cmd/gradus", "datasets/prepare"},
	"github.com/expr-lang/expr":    {"datasets/filter"},
	"gonum.org/":                   {"statistics", "claims"},
	"github.com/minio/minio-go/":   {"datasets"},
	"github.com/gomlx/":            {"policy"},
	"github.com/dlclark/regexp2":   {"policy/tokenizer"},
	"github.com/nikolalohinski/":   {"policy/chat"},
	"go.temporal.io/":              {"activities", "workflows", "simulate", "worker", "chaos", "cmd/gradus"},
	"github.com/rs/zerolog":        {"activities", "simulate", "worker", "chaos", "cmd/gradus"},
	"github.com/Shopify/toxiproxy": {"chaos"},
	"github.com/spf13/cobra":       {"cmd/gradus"},
	"google.golang.org/protobuf":   {"cmd/gradus"},
}

// The files are read in this process: the result of go list would be cached by
// go test together with a pass.
func TestLayers(t *testing.T) {
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (name == "devstack" || strings.HasPrefix(d.Name(), ".") && name != ".") {
			return fs.SkipDir // a module of its own; what is no code
		}
		folder := path.Dir(name)
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || folder == "." {
			return nil
		}
		allowed, known := layers[folder]
		if !known {
			t.Errorf("%s: folder %s is not in the table of layers", name, folder)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			if ours, ok := strings.CutPrefix(p, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s; %s may import %v", name, ours, folder, allowed)
			}
			for prefix, who := range heavy {
				if strings.HasPrefix(p, prefix) && !slices.Contains(who, folder) {
					t.Errorf("%s imports %s; only %v may", name, p, who)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every package says in one place what it is for.
func TestPackageDocs(t *testing.T) {
	for folder := range layers {
		files, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		docs := 0
		for _, d := range files {
			if !strings.HasSuffix(d.Name(), ".go") || strings.HasSuffix(d.Name(), "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path.Join(folder, d.Name()), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs++
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package comments, want 1", folder, docs)
		}
	}
}
