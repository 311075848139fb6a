package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/gradus-rl/gradus/claims"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/recipes"
	"github.com/gradus-rl/gradus/worker"
	"github.com/gradus-rl/gradus/workflows"
)

// claimsOptions are the flags of bench claims.
type claimsOptions struct {
	claims.Options
	names []string
	out   string
}

// benchClaims races the claims on the local stack and writes claims.json,
// CLAIMS.md, a table in Arrow and a picture of each to the out folder.
func (t *target) benchClaims(ctx context.Context, o claimsOptions, progress io.Writer) error {
	var list []claims.Claim
	if len(o.names) == 0 {
		list = claims.All()
	}
	for _, name := range o.names {
		c, err := claims.Lookup(name)
		if err != nil {
			return err
		}
		list = append(list, c)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("output folder: %w", err)
	}
	log, file, err := t.fileLog()
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := t.connect(ctx, true, progress, log)
	if err != nil {
		return err
	}
	w, err := worker.Start(c.client, c.store, worker.Options{Namespace: t.namespace, Log: log, Updates: o.Parallel})
	if err != nil {
		return errors.Join(err, c.Close())
	}
	defer func() {
		w.Stop()
		c.Close()
	}()
	o.Progress = progress
	reports, err := readReports(o.out)
	if err != nil {
		return err
	}
	for _, claim := range list {
		r, err := claims.Race(ctx, claim, o.Options, func(ctx context.Context, id string, plan []byte) (*workflows.Result, error) {
			return runOnce(ctx, c.client, id, plan)
		})
		if err != nil {
			return err
		}
		reports = claims.Merge(reports, r)
		fmt.Fprint(progress, r.Markdown())
		if err := r.Picture(filepath.Join(o.out, claim.Name+".svg")); err != nil {
			return err
		}
		if err := writeReports(o, reports); err != nil {
			return err
		}
	}
	return nil
}

// runOnce performs an experiment, or takes the result it has under this name.
func runOnce(ctx context.Context, c client.Client, id string, plan []byte) (*workflows.Result, error) {
	if _, err := recipes.Resolve(plan); err != nil {
		return nil, err
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: workflows.QueueAll, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY,
	}, "Experiment", json.RawMessage(plan))
	if err != nil {
		return nil, fmt.Errorf("start run %s: %w", id, err)
	}
	var r workflows.Result
	if err := await(ctx, run, &r); err != nil {
		return nil, runError(id, err)
	}
	return &r, nil
}

// readReports reads what an earlier race wrote there, if any.
func readReports(folder string) ([]*claims.Report, error) {
	path := filepath.Join(folder, "claims.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("earlier claims: %w", err)
	}
	var reports []*claims.Report
	if err := json.Unmarshal(raw, &reports); err != nil {
		return nil, fmt.Errorf("earlier claims: %s: %w", path, err)
	}
	return reports, nil
}

// writeReports writes what there is so far.
func writeReports(o claimsOptions, reports []*claims.Report) error {
	raw, err := json.MarshalIndent(reports, "", "\t")
	if err != nil {
		return fmt.Errorf("write claims: %w", err)
	}
	page := claims.Page(reports)
	table, err := claims.Table(memory.DefaultAllocator, reports)
	if err != nil {
		return fmt.Errorf("write claims: %w", err)
	}
	defer table.Release()
	stored, err := datasets.Encode(table)
	if err != nil {
		return fmt.Errorf("write claims: %w", err)
	}
	for name, data := range map[string][]byte{"claims.json": append(raw, '\n'), "CLAIMS.md": []byte(page), "claims.arrow": stored} {
		if err := os.WriteFile(filepath.Join(o.out, name), data, 0o644); err != nil {
			return fmt.Errorf("write claims: %w", err)
		}
	}
	return nil
}

// claimNames are the names there are, for help.
func claimNames() string {
	var names []string
	for _, c := range claims.All() {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}
