package stack

import (
	"context"
	"fmt"
	"net/url"

	"github.com/gradus-rl/gradus/datasets"
)

// OpenStore opens the object store of the stack with its credentials.
func (s *Stack) OpenStore(ctx context.Context) (datasets.Store, error) {
	address, err := url.Parse(s.Store)
	if err != nil {
		return nil, fmt.Errorf("stack: open store: %w", err)
	}
	store, err := datasets.OpenS3(ctx, datasets.S3Config{
		Endpoint:  address.Query().Get("endpoint"),
		Bucket:    address.Host,
		AccessKey: s.AccessKey,
		SecretKey: s.SecretKey,
	})
	if err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	return store, nil
}
