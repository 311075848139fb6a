package reward

import (
	"cmp"
	"time"
)

// maxPatience bounds what an answer may take that waits for others.
const maxPatience = 2 * time.Minute

// Patience implements [Patient].
func (c Code) Patience() time.Duration { return maxPatience }

// Patience implements [Patient]: what the client may take for all its attempts, if that is bounded.
func (r Remote) Patience() time.Duration { return r.Client.patience() }

// Patience implements [Patient], as [Remote] does.
func (j Judge) Patience() time.Duration { return j.Client.patience() }

// Patience implements [Patient]: the terms are asked one after the other.
func (c Composite) Patience() time.Duration {
	var total time.Duration
	for _, t := range c.Terms {
		if p, ok := t.Verifier.(Patient); ok {
			total += p.Patience()
		}
	}
	return total
}

func (c *Client) patience() time.Duration {
	if c.Timeout <= 0 {
		return maxPatience
	}
	return c.Timeout * time.Duration(1+max(0, cmp.Or(c.Retries, DefaultRetries))) * 2
}
