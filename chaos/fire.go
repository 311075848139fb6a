package chaos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"

	"github.com/gradus-rl/gradus/activities"
	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/policy"
)

// Kinds are the faults there are.
func Kinds() []string {
	return []string{
		"kill-cpu", "kill-rollout", "kill-train", "kill-cli", "kill-temporal", "kill-s3", "terminate", "hang", "duplicate", "flip",
		"s3-refuses", "s3-slow", "s3-truncates", "s3-resets", "temporal-refuses", "temporal-slow", "temporal-resets",
	}
}

// fire throws faults at a fleet.
type fire struct {
	f      *fleet
	o      Options
	rng    *rand.Rand
	counts map[string]int
	kills  int
	extra  int            // workers added
	over   sync.WaitGroup // faults that are being mended
	folder string         // of the store, in which bytes are flipped: an object can be made anew as long as its record is sound
	flips  []flip
}

// flip is a byte that was changed in a file of the S3 gateway.
type flip struct {
	path string
	data []byte // the file as it was changed
	at   int
	was  byte
}

func newFire(f *fleet, rng *rand.Rand, o Options, counts map[string]int) *fire {
	return &fire{f: f, o: o, rng: rng, counts: counts, folder: []string{"objects", "keys"}[rng.IntN(2)]}
}

// burn throws a fault at every interval until ctx ends or the time is over, and
// returns when all that it broke works again. next is the time until the first
// fault, and in the end until the one that was to come: intervals go on from one
// experiment to the next.
func (b *fire) burn(ctx context.Context, limit time.Duration, next *time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer b.over.Wait()
	kinds := b.o.Only
	if len(kinds) == 0 {
		kinds = Kinds()
	}
	for {
		begin := time.Now()
		pause(ctx, *next)
		if ctx.Err() != nil {
			*next -= time.Since(begin)
			return
		}
		*next = b.o.Every
		kind := kinds[b.rng.IntN(len(kinds))]
		if what := b.throw(ctx, kind, b.rng.IntN(2), b.rng.Float64()); what != "" {
			b.counts[kind]++
			fmt.Fprintf(b.o.Progress, "%s  %s\n", time.Now().Format(time.TimeOnly), what)
		}
	}
}

// throw is one fault; which and how much choose among its forms. It returns what
// was done, "" where the target is still busy with an earlier one.
func (b *fire) throw(ctx context.Context, kind string, which int, much float64) string {
	seconds := func(from, to float64) time.Duration {
		return time.Duration((from + much*(to-from)) * float64(time.Second))
	}
	role := strings.TrimPrefix(kind, "kill-")
	switch kind {
	case "kill-cpu", "kill-rollout", "kill-train":
		p := b.worker(slices.Index(roles, role)*2 + which)
		if p == nil {
			return ""
		}
		p.signal(syscall.SIGKILL)
		p.free()
		b.kills++
		return "SIGKILL " + p.name
	case "kill-cli":
		b.f.mu.Lock()
		p := b.f.following
		b.f.mu.Unlock()
		p.signal(syscall.SIGKILL)
		b.kills++
		return "SIGKILL " + p.name
	case "kill-temporal", "kill-s3":
		s := b.f.server(role)
		if !s.take() {
			return ""
		}
		down := seconds(0, 5)
		b.after(func() {
			defer s.free()
			if err := s.kill(ctx, down); err != nil {
				fmt.Fprintln(b.o.Progress, err)
			}
		})
		b.kills++
		return fmt.Sprintf("SIGKILL %s for %s", s.name, down)
	case "terminate":
		p := b.worker(int(much * float64(len(b.f.workers))))
		if p == nil {
			return ""
		}
		p.signal(syscall.SIGTERM)
		p.free()
		return "SIGTERM " + p.name
	case "hang":
		p := b.worker(int(much * float64(len(b.f.workers))))
		if p == nil {
			return ""
		}
		length := time.Duration(1+b.rng.IntN(40)) * time.Second
		p.signal(syscall.SIGSTOP)
		b.after(func() {
			defer p.free()
			pause(ctx, length)
			p.signal(syscall.SIGCONT)
		})
		return fmt.Sprintf("SIGSTOP %s for %s", p.name, length)
	case "duplicate":
		role := roles[int(much*float64(len(roles)))]
		b.extra++
		p := b.f.worker(role, fmt.Sprintf("extra-%d", b.extra))
		b.after(func() {
			pause(ctx, 10*time.Second)
			p.end()
		})
		b.kills++
		return "one more worker, " + role + ", for 10s, then SIGKILL"
	case "flip":
		return b.flip(ctx, much)
	}
	name, how, _ := strings.Cut(kind, "-")
	s := b.f.server(name)
	if !s.take() {
		return ""
	}
	length := seconds(1, 8)
	b.after(func() {
		defer s.free()
		if err := s.disturb(ctx, how, length); err != nil {
			fmt.Fprintln(b.o.Progress, err)
		}
	})
	return fmt.Sprintf("%s %s for %s", name, how, length)
}

// after runs what ends a fault.
func (b *fire) after(f func()) {
	b.over.Go(f)
}

// worker is the worker at i for a fault, nil if one works on it already.
func (b *fire) worker(i int) *process {
	p := b.f.workers[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		return nil
	}
	p.busy = true
	return p
}

func (p *process) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
}

func (f *fleet) server(name string) *server {
	if name == "s3" {
		return f.s3
	}
	return f.temporal
}

func (s *server) take() bool { return s.busy.CompareAndSwap(false, true) }
func (s *server) free()      { s.busy.Store(false) }

// disturb makes the network before a server bad for a while.
func (s *server) disturb(ctx context.Context, how string, length time.Duration) error {
	calm := &toxiproxy.Proxy{Listen: s.proxy.Listen, Upstream: s.proxy.Upstream, Enabled: true}
	if how == "refuses" {
		off := &toxiproxy.Proxy{Listen: s.proxy.Listen, Upstream: s.proxy.Upstream}
		if err := s.proxy.Update(off); err != nil {
			return fmt.Errorf("refuse %s: %w", s.name, err)
		}
		pause(ctx, length)
		return s.proxy.Update(calm)
	}
	toxics := map[string]struct {
		Type       string         `json:"type"`
		Stream     string         `json:"stream"`
		Toxicity   float64        `json:"toxicity"`
		Attributes map[string]int `json:"attributes"`
	}{
		"slow":      {"latency", "downstream", 1, map[string]int{"latency": 300, "jitter": 200}},
		"truncates": {"limit_data", "downstream", 0.5, map[string]int{"bytes": 3000}},
		"resets":    {"reset_peer", "upstream", 0.5, map[string]int{"timeout": 20}},
	}
	raw, err := json.Marshal(toxics[how])
	if err != nil {
		return err
	}
	toxic, err := s.proxy.Toxics.AddToxicJson(strings.NewReader(string(raw)))
	if err != nil {
		return fmt.Errorf("disturb %s: %w", s.name, err)
	}
	pause(ctx, length)
	// What is connected may hold a spoilt link: all begin anew.
	err = s.proxy.Toxics.RemoveToxic(context.WithoutCancel(ctx), toxic.Name)
	off := &toxiproxy.Proxy{Listen: s.proxy.Listen, Upstream: s.proxy.Upstream}
	return cmp.Or(err, s.proxy.Update(off), s.proxy.Update(calm))
}

// flip changes a bit in the store: of what the next step needs, whose readers are
// then killed, as they may have it in memory; or of one of the youngest files,
// which somebody may be about to read.
func (b *fire) flip(ctx context.Context, much float64) string {
	root := filepath.Join(b.f.s3.dir, "s3", "gradus")
	var paths []string
	needed := b.folder == "objects" && b.rng.IntN(2) == 0
	if needed {
		paths = b.needed(ctx, root)
	} else {
		paths = youngest(filepath.Join(root, b.folder))
	}
	if len(paths) == 0 {
		return ""
	}
	path := paths[int(much*float64(len(paths)))]
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return ""
	}
	at := b.rng.IntN(len(data))
	was := data[at]
	data[at] ^= 1 << b.rng.IntN(8)
	if write(path, at, data[at]) != nil {
		return ""
	}
	b.flips = append(b.flips, flip{path, data, at, was})
	name, _ := filepath.Rel(root, path)
	if needed {
		for i := range b.f.workers {
			if p := b.worker(i); p != nil {
				p.signal(syscall.SIGKILL)
				p.free()
				b.kills++
			}
		}
	}
	return fmt.Sprintf("flipped a bit of byte %d in %s", at, name)
}

// needed are the files of the policy and the curriculum state that the newest step
// of the run in hand has left.
func (b *fire) needed(ctx context.Context, root string) (paths []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b.f.mu.Lock()
	run := strings.TrimPrefix(b.f.following.name, "cli-")
	b.f.mu.Unlock()
	steps, err := b.f.store.List(ctx, "runs/"+run+"/steps/")
	if err != nil || len(steps) == 0 {
		return nil
	}
	raw, err := b.f.store.Get(ctx, steps[len(steps)-1].Key)
	var step activities.StepRecord
	if err != nil || json.Unmarshal(raw, &step) != nil {
		return nil
	}
	refs := []datasets.Ref{step.State, step.Policy}
	if m, err := policy.LoadManifest(ctx, b.f.store, step.Policy); err == nil {
		refs = append(refs, m.Files[policy.WeightsFile], m.Files[policy.OptimizerFile])
	}
	for _, r := range refs {
		found, err := filepath.Glob(filepath.Join(root, "objects", r.Hash+"*"))
		if err == nil {
			paths = append(paths, found...)
		}
	}
	return paths
}

// youngest are the files under a folder that were written last.
func youngest(folder string) []string {
	at := map[string]time.Time{}
	_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // an empty store has no folders
		}
		if info, err := d.Info(); err == nil && info.Size() > 0 {
			at[path] = info.ModTime()
		}
		return nil
	})
	paths := slices.Collect(maps.Keys(at))
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(at[b].Compare(at[a]), cmp.Compare(a, b)) })
	return paths[:min(20, len(paths))]
}

// restore undoes the flips that nobody has read since, and so nobody made anew,
// and counts them.
func (b *fire) restore() (untouched int, err error) {
	for _, x := range slices.Backward(b.flips) {
		data, err := os.ReadFile(x.path)
		if err != nil || !bytes.Equal(data, x.data) {
			continue // made anew, or gone
		}
		untouched++
		if err := write(x.path, x.at, x.was); err != nil {
			return untouched, err
		}
	}
	return untouched, nil
}

// write changes a byte of a file in its place.
func write(path string, at int, b byte) error {
	h, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = h.WriteAt([]byte{b}, int64(at))
	return errors.Join(err, h.Close())
}
