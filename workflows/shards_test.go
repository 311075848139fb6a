package workflows

import (
	"fmt"
	"time"

	"github.com/gradus-rl/gradus/activities"
)

// Two workers draw four shards. The second shard began before the third, at 10 s at
// the latest; the fourth when the last one ended, if it has begun.
func Example_deadlines() {
	all := make([]shard, 4)
	end := func(i int, ended time.Duration, took float64) {
		all[i].done, all[i].ended, all[i].out = true, ended, activities.Output{Seconds: took}
	}
	end(0, 10*time.Second, 10)
	end(2, 22*time.Second, 12)
	fmt.Println(deadlines(all, 2)[1], deadlines(all, 2)[3])
	end(2, 22*time.Millisecond, 0.012)
	end(0, 10*time.Millisecond, 0.010)
	fmt.Println(deadlines(all, 2)[1])
	// Output:
	// 34s 46s
	// 2.01s
}
