package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"

	"github.com/gradus-rl/gradus/datasets"
)

// planted is how many secrets [plant] makes.
const planted = 50

// plant makes secrets that are found nowhere by chance.
func plant(seed uint64) []string {
	rng := rand.New(rand.NewPCG(seed, 2))
	out := make([]string, planted)
	for i := range out {
		out[i] = fmt.Sprintf("canary%016x", rng.Uint64())
	}
	return out
}

// environment are the variables that carry the secrets: tokens, passwords, keys,
// and connection strings that hold one.
func environment(secrets []string) []string {
	names := []string{
		"HF_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "GITHUB_TOKEN", "TEMPORAL_API_KEY", "TEMPORAL_TLS_KEY", "MINIO_ROOT_PASSWORD",
		"POSTGRES_PASSWORD", "VAULT_TOKEN", "DATABASE_URL", "REDIS_URL", "HTTPS_PROXY_AUTH", "AMQP_URL", "S3_ENDPOINT_URL", "AWS_ENDPOINT_AUTH",
	}
	var out []string
	for i, s := range secrets {
		name := fmt.Sprintf("GRADUS_PLANTED_%d", i)
		if i < len(names) {
			name = names[i]
		}
		if strings.HasSuffix(name, "_URL") {
			s = "scheme://user:" + s + "@127.0.0.1:1/path"
		}
		out = append(out, name+"="+s)
	}
	return out
}

// leaks looks for the secrets in all that the fleet has written: objects of the
// store as they lie there and, of tables, as they read; the database and the log
// of the Temporal server; the logs of all processes; the histories of runs; and
// what the program says when a secret stands in its arguments. It returns where
// it found one. The gateway's own credentials are in its own two files, which only
// their owner can read.
func (f *fleet) leaks(ctx context.Context, runs []string) (found []string, err error) {
	look := func(where string, data []byte) {
		for _, s := range f.secrets {
			if bytes.Contains(data, []byte(s)) {
				found = append(found, where)
				return
			}
		}
	}
	err = filepath.WalkDir(f.o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "credentials.json" || d.Name() == "stack.json" {
			return ignoreAbsent(err)
		}
		data, err := os.ReadFile(path)
		look(path, data)
		return ignoreAbsent(err)
	})
	if err != nil {
		return found, err
	}
	objects, err := f.store.List(ctx, "objects/")
	if err != nil {
		return found, err
	}
	for _, o := range objects {
		if !strings.HasSuffix(o.Key, ".arrow") {
			continue
		}
		data, err := f.store.Get(ctx, o.Key)
		if err != nil {
			return found, err
		}
		t, err := datasets.Decode(memory.DefaultAllocator, data)
		if err != nil {
			continue // damaged, and read by nobody
		}
		var rows bytes.Buffer
		err = datasets.WriteJSONL(&rows, t, 0)
		t.Release()
		if err != nil {
			return found, err
		}
		look(o.Key, rows.Bytes())
	}
	for _, run := range runs {
		h := &historypb.History{}
		for i := f.client.GetWorkflowHistory(ctx, run, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); i.HasNext(); {
			e, err := i.Next()
			if err != nil {
				return found, err
			}
			h.Events = append(h.Events, e)
		}
		raw, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(h)
		if err != nil {
			return found, err
		}
		look("history of "+run, raw)
	}
	for i, args := range misuses(f.secrets[0]) {
		cmd := exec.CommandContext(ctx, f.o.Program[0], append(f.o.Program[1:len(f.o.Program):len(f.o.Program)], args...)...)
		cmd.Env = append(append(os.Environ(), f.o.Env...), environment(f.secrets)...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return found, fmt.Errorf("misuse %d of a secret was no error", i)
		}
		look(fmt.Sprintf("what the program says to misuse %d", i), out)
	}
	return found, nil
}

func ignoreAbsent(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// misuses are command lines with a secret where none belongs.
func misuses(secret string) [][]string {
	var out [][]string
	for _, store := range []string{
		"s3://user:SECRET@bucket?endpoint=http://127.0.0.1:1", "s3://user:SECRET@bucket:port", "s3://bucket?endpoint=http://user:SECRET@127.0.0.1:1",
		"s3://bucket?endpoint=http://user:SECRET@127.0.0.1:1&regio=x", "s3://bucket?endpoint=http://127.0.0.1:1/?key=SECRET", "s3://bucket?endpoint=http://user:SECRET@host:port",
		"s3://bucket?secret=SECRET", "s3://bucket?endpoint=127.0.0.1:1&key=SECRET", "https://user:SECRET@host/bucket", "file://user:SECRET@host/folder", "s3://bucket#SECRET",
	} {
		out = append(out, []string{"data", "list", "--temporal", "127.0.0.1:1", "--store", strings.ReplaceAll(store, "SECRET", secret)})
	}
	return out
}
