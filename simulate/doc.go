// Package simulate runs the real experiment, its workflow and its activities, in
// Temporal's test environment, over a store and on workers that fail as real ones
// do, by a seed. Whatever fails, an experiment must end with what a calm one ends
// with.
package simulate
