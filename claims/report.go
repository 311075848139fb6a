package claims

import (
	"fmt"
	"image/color"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/gradus-rl/gradus/datasets"
	"github.com/gradus-rl/gradus/statistics"
)

// Markdown is the report as a section of a page.
func (r *Report) Markdown() string {
	var b strings.Builder
	c := r.Claim
	fmt.Fprintf(&b, "## %s\n\n%s.\n\nBudget %d generated tokens a run, target pass@1 %.2f, %d paired seeds%s.\n\n![%s](%s.svg)\n\n", c.Name, c.Says, c.Budget, c.Target, len(r.Arms[0].Runs), families(c), c.Name, c.Name)
	b.WriteString("| arm | role | setting | pass@1 before | pass@1 at the budget | reached target | tokens to target | trained tokens to target | completions to target | trained tokens | verifier calls | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, e := range r.Arms {
		var before, after, tokens, trained, completions, all, verified, seconds []float64
		reached := 0
		for _, run := range e.Runs {
			last := run.Curve[len(run.Curve)-1]
			before, after = append(before, run.Curve[0].PassAt1), append(after, run.Curve.At(c.Budget))
			all = append(all, float64(last.Trained))
			verified, seconds = append(verified, float64(last.Verified)), append(seconds, last.Seconds)
			if cost, ok := run.Curve.Cost(Tokens, c.Target); ok {
				reached++
				tokens = append(tokens, cost)
				x, _ := run.Curve.Cost(Trained, c.Target)
				y, _ := run.Curve.Cost(Completions, c.Target)
				trained, completions = append(trained, x), append(completions, y)
			}
		}
		final := statistics.Mean(after)
		fmt.Fprintf(&b, "| %s | %s | %s | %.3f | %.3f [%.3f, %.3f] | %d of %d | %s | %s | %s | %.0f | %.0f | %.0f |\n", e.Arm, e.Role, e.Setting, statistics.Mean(before).Mean,
			final.Mean, final.Low, final.High, reached, len(e.Runs), count(tokens), count(trained), count(completions), statistics.Mean(all).Mean, statistics.Mean(verified).Mean, statistics.Mean(seconds).Mean)
	}
	if c.Tries > 0 {
		r.unsolved(&b)
	}
	b.WriteString("\n| test | measure | 95 % interval | wanted | holds |\n|---|---|---|---|---|\n")
	for _, o := range r.Tests {
		wanted := fmt.Sprintf("difference above %g", o.Test.AtLeast)
		switch o.Test.Measure {
		case Rejected, Flat:
			wanted = fmt.Sprintf("below %g", o.Test.AtLeast)
		case NotBelow:
			wanted = "upper bound not below 0"
		case Tokens, Trained, TrainedAll, Completions:
			wanted = fmt.Sprintf("ratio at least %g", o.Test.AtLeast)
		}
		holds := "no"
		if o.Holds {
			holds = "**yes**"
		}
		short := ""
		if o.Short+o.Against > 0 {
			short = fmt.Sprintf(" (target not reached: %d of %s, %d of %s)", o.Short, o.Test.Arm, o.Against, o.Test.Versus)
		}
		fmt.Fprintf(&b, "| %s | %s | %.3g [%.3g, %.3g]%s | %s | %s |\n", o.Test.Says, o.Test.Measure, o.Interval.Mean, o.Interval.Low, o.Interval.High, short, wanted, holds)
	}
	b.WriteString("\nSettings tried, mean area under the curve on the tuning seeds:")
	tried := false
	for i, e := range r.Arms {
		for j, area := range e.Tuning {
			tried = true
			fmt.Fprintf(&b, " %s %s %.3f;", e.Arm, r.Claim.Arms[i].Grid[j], area)
		}
	}
	if !tried {
		b.WriteString(" none, the first of each grid was taken.")
	}
	b.WriteString("\n\n")
	return b.String()
}

// unsolved tells how each arm ended at the levels where the first policy could do
// nothing.
func (r *Report) unsolved(b *strings.Builder) {
	levels := map[int32]int{}
	for _, run := range r.Arms[0].Runs {
		for _, l := range run.Unsolved {
			levels[l]++
		}
	}
	fmt.Fprintf(b, "\nLevels of which no held-out problem was solved in %d tries before the training:", r.Claim.Tries)
	for _, l := range slices.Sorted(maps.Keys(levels)) {
		fmt.Fprintf(b, " %d in %d runs;", l, levels[l])
	}
	b.WriteString(" pass@1 there at the end:")
	for _, e := range r.Arms {
		var gained []float64
		for _, run := range e.Runs {
			if len(run.Unsolved) > 0 {
				gained = append(gained, run.Gained)
			}
		}
		v := statistics.Mean(gained)
		fmt.Fprintf(b, " %s %.3f [%.3f, %.3f];", e.Arm, v.Mean, v.Low, v.High)
	}
	b.WriteString("\n")
}

// families names the families that the seeds take turns at.
func families(c Claim) string {
	if len(c.Families) == 0 {
		return ""
	}
	return ", taking turns at " + strings.Join(c.Families, ", ")
}

// count is the mean of what the runs that reached the target had spent.
func count(x []float64) string {
	if len(x) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", statistics.Mean(x).Mean)
}

// String lists settings by key.
func (s Settings) String() string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(s)) {
		out = append(out, fmt.Sprintf("%s=%v", k, s[k]))
	}
	if out == nil {
		return "–"
	}
	return strings.Join(out, " ")
}

// Picture saves the mean curves, with their 95 % intervals, as an SVG or PNG by
// the file's name.
func (r *Report) Picture(path string) error {
	p := plot.New()
	p.Title.Text = r.Claim.Name
	p.X.Label.Text, p.Y.Label.Text = "generated tokens", "held-out pass@1"
	p.Y.Min, p.Y.Max = 0, 1
	p.Legend.Top = false
	p.Legend.Left = true
	const points = 60
	for i, e := range r.Arms {
		mean, low, high := make(plotter.XYs, points), make(plotter.XYs, points), make(plotter.XYs, points)
		for j := range points {
			tokens := r.Claim.Budget * int64(j) / (points - 1)
			var at []float64
			for _, run := range e.Runs {
				at = append(at, run.Curve.At(tokens))
			}
			v := statistics.Mean(at)
			if v.N < 2 {
				v.Low, v.High = v.Mean, v.Mean
			}
			x := float64(tokens)
			mean[j], low[j], high[j] = plotter.XY{X: x, Y: v.Mean}, plotter.XY{X: x, Y: v.Low}, plotter.XY{X: x, Y: v.High}
		}
		line, err := plotter.NewLine(mean)
		if err != nil {
			return fmt.Errorf("draw %s: %w", e.Arm, err)
		}
		slices.Reverse(high)
		band, err := plotter.NewPolygon(append(low, high...))
		if err != nil {
			return fmt.Errorf("draw %s: %w", e.Arm, err)
		}
		c := palette[i%len(palette)]
		line.Color, line.Width = c, vg.Points(1.5)
		band.Color, band.LineStyle.Width = color.NRGBA{c.R, c.G, c.B, 40}, 0
		p.Add(band, line)
		p.Legend.Add(e.Arm, line)
	}
	if err := p.Save(6*vg.Inch, 4*vg.Inch, path); err != nil {
		return fmt.Errorf("save picture: %w", err)
	}
	return nil
}

// palette is Okabe and Ito's, which colour-blind readers tell apart.
var palette = []color.NRGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255}, {86, 180, 233, 255}, {0, 0, 0, 255},
}

// Merge puts a report in the place of an earlier one of the same claim, in the
// order of All.
func Merge(reports []*Report, r *Report) []*Report {
	place := func(r *Report) int {
		return slices.IndexFunc(All(), func(c Claim) bool { return c.Name == r.Claim.Name })
	}
	out := slices.DeleteFunc(slices.Clone(reports), func(x *Report) bool { return x.Claim.Name == r.Claim.Name })
	out = append(out, r)
	slices.SortStableFunc(out, func(a, b *Report) int { return place(a) - place(b) })
	return out
}

// Page is CLAIMS.md: all reports, and how they were made.
func Page(reports []*Report) string {
	var b strings.Builder
	b.WriteString("# Claims\n\nWritten by `gradus bench claims` (`--claim NAME` renews one). Nothing here is written by hand.\n\n" +
		"Costs count everything that was generated for the training: rewrites, hinted, dropped and wasted tries. " +
		"Intervals are Student's over paired seeds, at 95 %. Costs to the target are means over the runs that reached it; ratios in the tests " +
		"take the whole run's cost where one did not, and no test of a cost holds where the method's arm ever fell short. " +
		"Every arm with settings was tuned over as many of them, on seeds of its own.\n\n")
	for _, r := range reports {
		b.WriteString(r.Markdown())
	}
	return b.String()
}

// Table is every evaluation of every run, one row each.
func Table(mem memory.Allocator, reports []*Report) (*datasets.Table, error) {
	var c struct {
		claim, arm                             []string
		seed, step                             []int32
		pass1, pass8, greedy, seconds          []float64
		completions, tokens, trained, verified []int64
	}
	for _, r := range reports {
		for _, e := range r.Arms {
			for _, run := range e.Runs {
				for _, p := range run.Curve {
					c.claim, c.arm = append(c.claim, r.Claim.Name), append(c.arm, e.Arm)
					c.seed, c.step = append(c.seed, int32(run.Seed)), append(c.step, int32(p.Step))
					c.pass1, c.pass8, c.greedy = append(c.pass1, p.PassAt1), append(c.pass8, p.PassAt8), append(c.greedy, p.Greedy)
					c.completions, c.tokens, c.trained = append(c.completions, p.Completions), append(c.tokens, p.Tokens), append(c.trained, p.Trained)
					c.verified, c.seconds = append(c.verified, p.Verified), append(c.seconds, p.Seconds)
				}
			}
		}
	}
	return datasets.NewTable(mem, datasets.KindCurves, datasets.Lineage{Stage: "claims"},
		datasets.ClaimName.Of(c.claim), datasets.Arm.Of(c.arm), datasets.Seed.Of(c.seed), datasets.Step.Of(c.step),
		datasets.PassAt1.Of(c.pass1), datasets.PassAt8.Of(c.pass8), datasets.GreedyRate.Of(c.greedy),
		datasets.Completions.Of(c.completions), datasets.TokensGenerated.Of(c.tokens), datasets.TokensTrained.Of(c.trained),
		datasets.VerifierCalls.Of(c.verified), datasets.Seconds.Of(c.seconds))
}
