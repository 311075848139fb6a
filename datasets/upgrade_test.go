package datasets_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/gradus-rl/gradus/datasets"
)

var update = flag.Bool("update", false, "rewrite SCHEMAS.md")

// Tables that earlier versions of the program wrote are read as the newest version
// of their kind, also by the Refs they were saved under.
func TestOlderTables(t *testing.T) {
	store := datasets.NewMemory()
	load := func(kind string, rows int64) *datasets.Table {
		t.Helper()
		data, err := os.ReadFile(filepath.Join("testdata", strings.ReplaceAll(kind, "/", "-")+".arrow"))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		r := datasets.Ref{Kind: kind, Rows: rows, Bytes: int64(len(data)), Hash: hex.EncodeToString(sum[:])}
		if err := store.Put(t.Context(), "objects/"+r.Hash+".arrow", data); err != nil {
			t.Fatal(err)
		}
		table, err := datasets.Load(t.Context(), store, memory.DefaultAllocator, r)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := table.Lineage(); err != nil || l.Stage != "old" {
			t.Errorf("%s: lineage %+v, %v", kind, l, err)
		}
		again, err := datasets.Save(t.Context(), store, table)
		if err != nil || again.Kind == kind {
			t.Errorf("%s saved anew: %v, %v", kind, again, err)
		}
		return table
	}
	a := load("assessments/1", 2)
	defer a.Release()
	equalColumns(t, a, datasets.KindAssessments, map[string]any{
		"problem": []string{"a", "b"}, "attempts": []int64{16, 0}, "posterior_alpha": []float64{5, 1}, "posterior_beta": []float64{13, 1},
		"stagnation": []int32{0, 0}, "hinted_step": []int32{-1, -1}, "graduated_step": []int32{-1, -1},
	}, map[string]any{
		"problem": datasets.ProblemID.Get(a), "attempts": datasets.Attempts.Get(a), "posterior_alpha": datasets.PosteriorAlpha.Get(a), "posterior_beta": datasets.PosteriorBeta.Get(a),
		"stagnation": datasets.Stagnation.Get(a), "hinted_step": datasets.HintedStep.Get(a), "graduated_step": datasets.GraduatedStep.Get(a),
	})
	p := load("proposals/1", 1)
	defer p.Release()
	equalColumns(t, p, datasets.KindProposals, map[string]any{"prompt": []string{"1+1="}, "prefill": []string{""}, "first_sample": []int32{0}},
		map[string]any{"prompt": datasets.Prompt.Get(p), "prefill": datasets.Prefill.Get(p), "first_sample": datasets.FirstSample.Get(p)})
	s := load("selections/1", 2)
	defer s.Release()
	equalColumns(t, s, datasets.KindSelections, map[string]any{"reason": []string{"", "flat"}, "token_reasons": []int32{0, 1}},
		map[string]any{"reason": datasets.Reason.Get(s), "token_reasons": datasets.TokenReasons.Get(s).Row(0)})
}

func equalColumns(t *testing.T, table *datasets.Table, kind string, want, got map[string]any) {
	t.Helper()
	if table.Kind() != kind {
		t.Errorf("read as %s, want %s", table.Kind(), kind)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: %s", kind, d)
	}
}

// SCHEMAS.md is what the code declares.
func TestSchemas(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# The tables' Arrow schemas

Every table is an Arrow IPC file of one record batch, under ` + "`objects/<SHA-256 of the file>.arrow`" + ` in the store. The schema's metadata holds
` + "`gradus.kind`" + `, a name below, and ` + "`gradus.lineage`" + `, JSON that says which stage made it, of what, with which parameters and seed. Columns come
in the order below and hold no nulls; an optional column may be absent. Any reader of Arrow files reads them.

**Versions.** The number after the slash is the version of a kind. A new optional column keeps it. Any other change (a required column,
another type, another meaning, a column that goes) raises it, and the change comes with the way in which tables of the version
before are read: ` + "`datasets/upgrade.go`" + `, with a table of the old version in ` + "`datasets/testdata`" + `. Reading gives the newest version; stored
tables are never rewritten, since their address is their hash. A program older than a table refuses it by name.

This page is written by ` + "`go test ./datasets -run Schemas -update`" + `.
`)
	docs, err := columnDocs()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range datasets.Kinds() {
		fmt.Fprintf(&b, "\n## %s\n\n| column | Arrow type | |\n|---|---|---|\n", k.Name)
		for _, c := range k.Columns {
			doc := docs[c.String()]
			if slices.Contains(k.Optional, c.String()) {
				doc = strings.TrimPrefix(doc+"; optional", "; ")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c, datasets.ArrowType(c), doc)
		}
	}
	if *update {
		if err := os.WriteFile("SCHEMAS.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("SCHEMAS.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(have), b.String()); d != "" {
		t.Errorf("SCHEMAS.md is not what the code declares; go test ./datasets -run Schemas -update writes it anew: %s", d)
	}
}

// columnDocs are the comments behind the columns' declarations, by column.
func columnDocs() (map[string]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "schema.go", nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	docs := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || v.Comment == nil {
			return true
		}
		if lit, ok := v.Values[0].(*ast.CompositeLit); ok && len(lit.Elts) == 1 {
			if name, ok := lit.Elts[0].(*ast.BasicLit); ok {
				docs[strings.Trim(name.Value, `"`)] = strings.ReplaceAll(strings.TrimSpace(v.Comment.Text()), "|", `\|`)
			}
		}
		return true
	})
	return docs, nil
}
