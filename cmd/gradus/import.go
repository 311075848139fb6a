package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/datasets/files"
)

// problemsImport is what the user asks of an import.
type problemsImport struct {
	paths   []string
	name    string
	columns []string // column=field
	datasets.ImportOptions
}

// previewRows are how many rows a dry run reads.
const previewRows = 1000

func importCommand(t *target) *cobra.Command {
	var in problemsImport
	dry := false
	cmd := &cobra.Command{
		Use:   "import PATH...",
		Short: "Import problems, under a name",
		Long: `Import problems, under a name.

A PATH is a file, a folder, or s3://bucket/prefix[?endpoint=…&region=…] with credentials
in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Read are JSON lines, Parquet, Arrow IPC and
CSV, plain or compressed by gzip or zstd. The habits of these columns are known:

` + habitList() + `
Other columns are named by --map column=field, with the fields
` + strings.Join(datasets.ImportFields(), ", ") + `.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.paths = args
			if dry {
				if err := t.checkOutput(); err != nil {
					return err
				}
				return in.preview(cmd.Context(), cmd.OutOrStdout(), t.output)
			}
			return t.withStore(func(ctx context.Context, s datasets.Store, cmd *cobra.Command, _ []string) error {
				_, err := in.run(ctx, cmd.OutOrStdout(), s)
				return err
			})(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.name, "name", "", "name of the problem set (default: the first path's)")
	f.BoolVar(&dry, "dry-run", false, fmt.Sprintf("write nothing; show what becomes of the first %d rows", previewRows))
	f.StringArrayVar(&in.columns, "map", nil, "column=field: the column that fills a field, with dots into objects; may be given several times")
	f.StringVar(&in.Habit, "habit", "", "read the columns by this habit (default: by the first row)")
	f.StringVar(&in.Source, "source", "", "source of rows without their own (default: the name)")
	f.StringVar(&in.Verifier, "verifier", "", "verifier of rows without their own")
	f.BoolVar(&in.SkipBad, "skip-bad", false, "keep the good rows and write the bad ones to PATH.rejects.jsonl")
	return cmd
}

func habitList() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, h := range datasets.Habits() {
		fmt.Fprintf(w, "  %s\t%s\n", h.Name, h.Doc)
	}
	_ = w.Flush() // to memory
	return b.String()
}

// resolve fills in the defaults and finds the files.
func (in *problemsImport) resolve(ctx context.Context) (list []files.File, err error) {
	for _, p := range in.paths {
		found, err := files.List(ctx, p)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	if in.name == "" {
		in.name = files.File{Name: strings.TrimRight(path.Base(filepath.ToSlash(strings.SplitN(in.paths[0], "?", 2)[0])), "/")}.Stem()
	}
	if in.Source == "" {
		in.Source = in.name
	}
	for _, c := range in.columns {
		column, field, ok := strings.Cut(c, "=")
		if !ok || column == "" {
			return nil, fmt.Errorf("--map is %q; it must be column=field", c)
		}
		if in.Map == nil {
			in.Map = map[string]string{}
		}
		if other, taken := in.Map[field]; taken && other != column {
			return nil, fmt.Errorf("--map fills %s from %q and from %q", field, other, column)
		}
		in.Map[field] = column
	}
	return list, nil
}

// read feeds the files to an importer.
func (in *problemsImport) read(ctx context.Context, i *datasets.Importer, list []files.File) error {
	for _, f := range list {
		if i.Full() {
			return nil
		}
		if err := readFile(ctx, i, f); err != nil {
			return err
		}
	}
	return nil
}

// readFile feeds one file. JSON lines go as they are, so that a bad line does not end
// the file; CSV as text, so that no number changes its spelling.
func readFile(ctx context.Context, i *datasets.Importer, f files.File) (err error) {
	if f.Format == files.JSONL {
		r, err := f.Stream()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		return errors.Join(i.Lines(ctx, r, f.Name), r.Close())
	}
	r, err := f.Open(ctx, files.Options{Text: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for !i.Full() {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		file, row := r.Place()
		err = i.Record(ctx, rec, file, row)
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// preview shows what an import would make of the first rows.
func (in *problemsImport) preview(ctx context.Context, out io.Writer, output string) error {
	list, err := in.resolve(ctx)
	if err != nil {
		return err
	}
	in.Limit, in.SkipBad = previewRows, true
	var rejects []datasets.Reject
	in.Reject = func(r datasets.Reject) error { rejects = append(rejects, r); return nil }
	i, err := datasets.NewImporter(memory.DefaultAllocator, in.paths[0], in.ImportOptions)
	if err != nil {
		return err
	}
	defer i.Close()
	if err := in.read(ctx, i, list); err != nil {
		return err
	}
	p, err := i.Preview()
	if err != nil {
		return err
	}
	if output == "json" {
		return json.NewEncoder(out).Encode(p)
	}
	names := list[0].Name
	if len(list) > 1 {
		names += fmt.Sprintf(" and %d more", len(list)-1)
	}
	fmt.Fprintf(out, "%s: %s, habit %s\n\n", names, list[0].Format, p.Habit)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COLUMN\tFIELD")
	for _, c := range p.Columns {
		fmt.Fprintf(w, "%s\t%s\n", c.Column, orElse(c.Field, "(not read)"))
	}
	fmt.Fprintf(w, "\t\nFIELD\tFIRST ROW\n")
	for _, field := range slices.Sorted(maps.Keys(p.Example)) {
		fmt.Fprintf(w, "%s\t%s\n", field, oneLine(p.Example[field]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of the first %d rows are good", p.Good, p.Good+p.Bad)
	if p.Bad > 0 {
		fmt.Fprintf(out, "; the first bad one: %v", rejects[0].Err)
	}
	_, err = fmt.Fprintf(out, "\nnothing was written; without --dry-run this becomes the problem set %s\n", in.name)
	return err
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// run imports and publishes the problems, and returns their name.
func (in *problemsImport) run(ctx context.Context, out io.Writer, s datasets.Store) (name string, err error) {
	list, err := in.resolve(ctx)
	if err != nil {
		return "", err
	}
	rejects := rejectFile{path: in.rejects()}
	in.Reject = rejects.write
	defer func() { err = errors.Join(err, rejects.close()) }()
	i, err := datasets.NewImporter(memory.DefaultAllocator, in.paths[0], in.ImportOptions)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	if err := in.read(ctx, i, list); err != nil {
		return "", err
	}
	ref, err := i.Save(ctx, s)
	if err != nil {
		return "", err
	}
	if err := datasets.Publish(ctx, s, in.name, ref); err != nil {
		return "", err
	}
	good, bad := i.Counts()
	fmt.Fprintf(out, "%s: %d problems, %d rejected\n", in.name, good, bad)
	if bad > 0 {
		fmt.Fprintf(out, "rejects: %s\n", rejects.path)
	}
	return in.name, nil
}

// rejects is where the bad rows go: beside the file, or into this folder.
func (in *problemsImport) rejects() string {
	if info, err := os.Stat(in.paths[0]); err == nil && info.Mode().IsRegular() && len(in.paths) == 1 {
		return in.paths[0] + ".rejects.jsonl"
	}
	return in.name + ".rejects.jsonl"
}

// rejectFile is made when the first row goes there.
type rejectFile struct {
	path string
	file *os.File
}

func (r *rejectFile) write(bad datasets.Reject) (err error) {
	if r.file == nil {
		if r.file, err = os.Create(r.path); err != nil {
			return fmt.Errorf("write rejects: %w", err)
		}
	}
	return datasets.WriteRejects(r.file, []datasets.Reject{bad})
}

func (r *rejectFile) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
