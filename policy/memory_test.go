package policy

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strings"
	"testing"
	"time"
)

func demand(c Config) Demand {
	l := DefaultLearning()
	l.Shards = 1
	return Demand{Config: c, Prompts: 64, Samples: 8, PromptLength: 256, CompletionLength: 256, Learning: l, Engines: 1, ActivationBytes: 4}
}

// The weights of the shapes must be those of the models.
func TestPlanCounts(t *testing.T) {
	const weights = 494_032_768 // Qwen2.5-0.5B, embeddings tied
	d := demand(Workloads()["qwen2.5-0.5b"].Config)
	d.Learning.MaxTokensPerMicroBatch = 4096
	p := d.Plan()
	for name, c := range map[string]struct{ got, want int64 }{
		"weights on the device":   {p.Update.Device.Weights, 4 * weights},
		"gradients on the device": {p.Update.Device.Gradients, 4 * weights},
		"moments":                 {p.Update.Host.Moments, 4 * 4 * weights},
		// 24 layers, 2 key heads of 64, keys and values; batches are cut by 64 Mi floats.
		"cache": {p.Generate.Device.Cache, 4 * 2 * 24 * 128 * int64(d.largest(d.sampledBatches()).tokens())},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d bytes, want %d", name, c.got, c.want)
		}
	}
	d.Compiled = true
	compiled := d.Plan().Update
	if want := int64(2 * 4 * weights); compiled.Device.Moments != want || compiled.Device.Gradients != want || compiled.Device.Weights != 4*weights {
		t.Errorf("compiled: %+v, want moments and gradients of %d bytes on the device", compiled.Device, want)
	}
	d.Learning.GradientCheckpointing = true
	if kept := d.Plan().Update.Device.Activations; kept > compiled.Device.Activations/7 { // what attention reads and makes is kept
		t.Errorf("with layers computed again: activations of %d bytes, of %d else", kept, compiled.Device.Activations)
	}
	d.Devices, d.Engines, d.Learning.MaxTokensPerMicroBatch = 4, 6, 1<<20
	one := d
	one.Devices = 1
	if several, one := d.Plan(), one.Plan(); several.Update.Device.Moments != one.Update.Device.Moments ||
		several.Update.Device.Activations > one.Update.Device.Activations/3 || several.Generate.Device.Weights != 2*4*weights {
		t.Errorf("of 4 devices one holds %+v, want the moments, a quarter of the batch and two engines", several)
	}
	d.Engines, d.Learning.MaxTokensPerMicroBatch = 1, 4096
	d.Compiled, d.Learning.GradientCheckpointing = false, false
	d.Learning.LoRARank = 16
	// r·(in+out) of the seven matrices of a layer.
	adapter := int64(24 * 16 * ((896 + 896) + 2*(896+128) + (896 + 896) + 3*(896+4864)))
	if got := d.Plan().Update.Device.Gradients; got != 4*adapter {
		t.Errorf("gradients of the adapters: %d bytes, want %d", got, 4*adapter)
	}
}

// The budget that Fit names fits, and one row more does not.
func TestFitIsTheLargest(t *testing.T) {
	d := demand(Workloads()["qwen2.5-0.5b"].Config)
	total := func(p Places) int64 { return p.Device.Total() }
	for _, limit := range []int64{1 << 30, 24 << 30, 80 << 30} {
		n := d.Fit(limit, total)
		for _, tokens := range []int{n, n + 512} {
			if tokens == 0 {
				continue
			}
			d.Learning.MaxTokensPerMicroBatch = tokens
			if fits := total(d.Plan().Update) <= limit; fits != (tokens == n) {
				t.Errorf("%d of %d tokens in %d bytes: fits is %v", tokens, n, limit, fits)
			}
		}
	}
}

func TestDemandRefuses(t *testing.T) {
	for want, change := range map[string]func(*Demand){
		"prompts is 0":                func(d *Demand) { d.Prompts = 0 },
		"an activation takes 3 bytes": func(d *Demand) { d.ActivationBytes = 3 },
		"exceed the context":          func(d *Demand) { d.PromptLength = 40000 },
		"lora_r is -1":                func(d *Demand) { d.Learning.LoRARank = -1 },
	} {
		d := demand(Workloads()["qwen2.5-0.5b"].Config)
		change(&d)
		if err := d.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// What the pure Go backend holds at its peak during an update, over what the
// plan says.
func BenchmarkPlannedMemory(b *testing.B) {
	for name, change := range map[string]func(*Demand){
		"short": func(d *Demand) {
			d.Prompts, d.Samples, d.PromptLength, d.CompletionLength, d.Learning.MaxTokensPerMicroBatch = 64, 1, 32, 32, 4096
		},
		"long": func(d *Demand) {
			d.Prompts, d.Samples, d.PromptLength, d.CompletionLength, d.Learning.MaxTokensPerMicroBatch = 8, 1, 128, 128, 2048
		},
	} {
		b.Run(name, func(b *testing.B) {
			d := demand(Workloads()["small"].Config)
			change(&d)
			w := Workload{d.Config, d.Prompts, d.Samples, d.PromptLength, d.CompletionLength}
			trainer, err := NewTrainer(benchBackend(b), &State{Config: w.Config, Weights: NewWeights(w.Config, 1)})
			if err != nil {
				b.Fatal(err)
			}
			defer trainer.Close()
			var samples []Sample
			for _, p := range w.rows(1) {
				samples = append(samples, Sample{Prompt: p.IDs, Completion: p.IDs[:d.CompletionLength], Advantages: make([]float32, d.CompletionLength)})
			}
			defer debug.SetGCPercent(debug.SetGCPercent(10))
			live := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
			stop, peak := make(chan struct{}), make(chan uint64)
			go func() {
				most := uint64(0)
				for {
					select {
					case <-stop:
						peak <- most
						return
					case <-time.After(time.Millisecond):
						runtimemetrics.Read(live)
						most = max(most, live[0].Value.Uint64())
					}
				}
			}()
			for b.Loop() {
				if _, err := trainer.Update(context.Background(), samples, d.Learning); err != nil {
					b.Fatal(err)
				}
			}
			close(stop)
			plan := d.Plan().Update
			b.ReportMetric(float64(<-peak)/float64(plan.Device.Add(plan.Host).Total()), "held/planned")
		})
	}
}
