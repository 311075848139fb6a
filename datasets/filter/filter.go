// Package filter chooses rows of Arrow data by an expression over their columns,
// in the language of github.com/expr-lang/expr:
//
//	pass_rate > 0.1 and pass_rate < 0.9 and source in ["gsm8k", "math"]
//	len(prompt) < 2000 and not (prompt contains "diagram") and len(steps) > 1
//
// A column is a variable of its name; one whose name is no identifier is
// $env["its name"]. A null is nil.
package filter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
)

// What an expression may cost, together with the rules below.
const (
	maxSource = 10_000 // bytes
	maxNodes  = 1_000
	maxRange  = 10_000 // numbers
)

// functions are the built-in ones whose results are no larger than what they are
// given, so that a row's memory is bounded by the expression times the row.
var functions = []string{
	"all", "any", "none", "one", "count", "filter", "map", "find", "findIndex", "findLast", "findLastIndex", "sum",
	"len", "type", "abs", "ceil", "floor", "round", "int", "float", "string", "trim", "trimPrefix", "trimSuffix", "upper", "lower",
	"split", "indexOf", "lastIndexOf", "hasPrefix", "hasSuffix", "max", "min", "mean", "median", "first", "last", "get", "take", "keys", "values",
}

// Filter is a compiled expression. It may be used by several goroutines.
type Filter struct {
	source  string
	program *vm.Program
	columns []string // that it reads
}

// Compile checks an expression against the columns of a schema. An unknown column,
// operands that do not fit, and a result that is no boolean are errors that say
// where. The types of nullable columns are checked row by row.
//
// Not part of the language is what could take unbounded time or memory: let,
// sequences, reduce, repeat, replace, join, a predicate or a list column within a
// predicate, ranges but for "in 1..5"; nor what does not depend on the row.
func Compile(source string, schema *arrow.Schema) (*Filter, error) {
	f, err := compile(source, schema)
	if err != nil {
		return nil, fmt.Errorf("filter %.200q: %w", source, err)
	}
	return f, nil
}

func compile(source string, schema *arrow.Schema) (f *Filter, err error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("%d bytes; it may have %d", len(source), maxSource)
	}
	env := types.Map{}
	names := make([]string, schema.NumFields())
	for i, field := range schema.Fields() {
		names[i], env[field.Name] = field.Name, typeOf(field)
	}
	defer func() { // the language's own checks may panic on odd input
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("cannot be compiled: %v", p)
		}
	}()
	tree, err := parser.Parse(source)
	if err != nil {
		return nil, err
	}
	r := rules{schema: schema, ranges: map[ast.Node]bool{}}
	if err := r.check(tree.Node); err != nil {
		return nil, err
	}
	program, err := expr.Compile(source, expr.Env(env), expr.AsBool(), expr.MaxNodes(maxNodes))
	if err != nil {
		if strings.Contains(err.Error(), "unknown name") {
			return nil, fmt.Errorf("%w\nthe columns are %s", err, strings.Join(names, ", "))
		}
		return nil, err
	}
	f = &Filter{source: source, program: program, columns: r.columns}
	if slices.Contains(f.columns, "$env") {
		f.columns = names
	}
	return f, nil
}

// typeOf is the type that a column has in expressions.
func typeOf(field arrow.Field) types.Type {
	t := field.Type
	if d, ok := t.(*arrow.DictionaryType); ok {
		t = d.ValueType
	}
	switch id := t.ID(); {
	case field.Nullable:
		return types.Any
	case id == arrow.BOOL:
		return types.Bool
	case arrow.IsInteger(id) && id != arrow.UINT64:
		return types.Int
	case arrow.IsFloating(id):
		return types.Float64
	case id == arrow.STRING || id == arrow.LARGE_STRING || id == arrow.STRING_VIEW:
		return types.String
	case isList(t):
		return types.Array(types.Any)
	}
	return types.Any
}

func isList(t arrow.DataType) bool {
	_, ok := t.(arrow.ListLikeType)
	return ok
}

// rules is an [ast.Visitor], which sees a node after those below it. It keeps an
// expression to what has a bounded cost, and notes the columns that it reads.
type rules struct {
	schema  *arrow.Schema
	within  bool // a predicate
	columns []string
	ranges  map[ast.Node]bool // seen where they are not allowed, as far as is known
	err     error
}

func (r *rules) check(root ast.Node) error {
	ast.Walk(&root, r)
	if r.err == nil && len(r.ranges) > 0 {
		return fmt.Errorf("a range may stand only to the right of \"in\", between two numbers at most %d apart", maxRange)
	}
	return r.err
}

// Visit implements [ast.Visitor].
func (r *rules) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" || r.schema.HasField(n.Value) {
			r.columns = append(r.columns, n.Value)
		}
		if f, ok := r.schema.FieldsByName(n.Value); r.within && (n.Value == "$env" || ok && isList(f[0].Type)) {
			r.err = errors.Join(r.err, fmt.Errorf("%s may not be read within a predicate", n.Value))
		}
	case *ast.VariableDeclaratorNode, *ast.SequenceNode:
		r.err = errors.Join(r.err, errors.New("let and sequences are not part of the language of filters"))
	case *ast.BuiltinNode:
		switch {
		case !slices.Contains(functions, n.Name):
			r.err = errors.Join(r.err, fmt.Errorf("%s is not part of the language of filters", n.Name))
		case r.within && n.Name == "split":
			r.err = errors.Join(r.err, errors.New("split may not be used within a predicate"))
		}
	case *ast.PredicateNode:
		if r.within {
			r.err = errors.Join(r.err, errors.New("a predicate may not hold another one"))
			return
		}
		inner := &rules{schema: r.schema, within: true, ranges: map[ast.Node]bool{}}
		r.err = errors.Join(r.err, inner.check(n.Node))
	case *ast.BinaryNode:
		if n.Operator == ".." {
			r.ranges[n] = true
		}
		if n.Operator == "in" && bounded(n.Right) {
			delete(r.ranges, n.Right)
		}
	}
}

// bounded reports whether n is a short range between numbers.
func bounded(n ast.Node) bool {
	b, ok := n.(*ast.BinaryNode)
	if !ok || b.Operator != ".." {
		return false
	}
	lo, first := b.Left.(*ast.IntegerNode)
	hi, last := b.Right.(*ast.IntegerNode)
	return first && last && hi.Value-lo.Value <= maxRange
}

// Rows returns the numbers of the rows for which the expression is true, in their
// order. rec has the schema that the filter was compiled for. A row that cannot be
// decided because a column that the expression reads is null is left out, as in
// SQL; a row that cannot be for another reason is an error that names it.
func (f *Filter) Rows(rec arrow.Record) ([]int32, error) {
	columns := make([]arrow.Array, len(f.columns))
	for i, name := range f.columns {
		at := rec.Schema().FieldIndices(name)
		if len(at) == 0 {
			return nil, fmt.Errorf("filter %.200q: no column %q", f.source, name)
		}
		columns[i] = rec.Column(at[0])
	}
	var rows []int32
	var machine vm.VM
	env := make(map[string]any, len(columns))
	for row := range int(rec.NumRows()) {
		null := false
		for i, c := range columns {
			v := value(c, row)
			null = null || v == nil
			env[f.columns[i]] = v
		}
		v, err := machine.Run(f.program, env)
		if err != nil && !null {
			return nil, fmt.Errorf("filter %.200q: row %d: %w", f.source, row, err)
		}
		if v == true {
			rows = append(rows, int32(row))
		}
	}
	return rows, nil
}
