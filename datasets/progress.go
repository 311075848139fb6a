package datasets

import "context"

type progressKey struct{}

// WithProgress has f called by [Progress], from any goroutine, whenever the work
// that runs under the context gets on: an object is read or written, a batch is
// computed, a token is drawn.
func WithProgress(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// Progress tells who watches the context, if anybody does, that the work gets on.
func Progress(ctx context.Context) {
	if f, ok := ctx.Value(progressKey{}).(func()); ok {
		f()
	}
}
