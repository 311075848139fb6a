package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

// bucket is created on the first start.
const bucket = "gradus"

// gateway is the running S3 gateway. There can be one in a process: it changes the working directory to its root.
type gateway struct {
	cancel context.CancelFunc
	done   chan error
	failed chan error // receives the error of a gateway that ended by itself
}

// startGateway serves dir/s3 and returns when it answers.
func startGateway(ctx context.Context, dir string, port int, keys credentials) (*gateway, error) {
	fail := func(err error) (*gateway, error) { return nil, fmt.Errorf("object store: %w", err) }
	root := filepath.Join(dir, "s3")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fail(err)
	}
	attributes, opts, err := attributeStore(dir, root)
	if err != nil {
		return fail(err)
	}
	opts.NewDirPerm, opts.NewFilePerm = 0o700, 0o600
	opts.CopyObjectThreshold = 5 << 30 // what S3 allows; zero would refuse every copy
	backend, err := posix.New(root, attributes, opts)
	if err != nil {
		return fail(err)
	}
	if err := createBucket(ctx, backend, root, keys.AccessKey); err != nil {
		return fail(err)
	}

	runContext, cancel := context.WithCancel(context.Background()) // ended by stop, in its turn
	g := &gateway{cancel: cancel, done: make(chan error, 1), failed: make(chan error, 1)}
	go func() {
		err := embedgw.RunVersityGW(runContext, backend, &embedgw.Config{
			RootUserAccess: keys.AccessKey, RootUserSecret: keys.SecretKey,
			Ports:          []string{loopback(port)},
			MaxConnections: 4096, MaxRequests: 2048, MultipartMaxParts: 10000,
			KeepAlive: true, Quiet: true,
		})
		if runContext.Err() == nil {
			g.failed <- errors.Join(errors.New("gateway ended"), err)
		}
		g.done <- err
	}()
	if err := awaitPort(ctx, port, g.failed); err != nil {
		return fail(errors.Join(err, g.stop()))
	}
	return g, nil
}

// stop ends the gateway and waits for it.
func (g *gateway) stop() error {
	g.cancel()
	if err := <-g.done; err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("object store: stop: %w", err)
	}
	return nil
}

// attributeStore says where the gateway keeps ETags and the like: beside each object in extended attributes or, on a file
// system without them, in files under dir/attributes. A folder that has begun with files stays with them.
func attributeStore(dir, root string) (meta.MetadataStorer, posix.PosixOpts, error) {
	sidecar := filepath.Join(dir, "attributes")
	_, err := os.Stat(sidecar)
	if errors.Is(err, fs.ErrNotExist) && (meta.XattrMeta{}).Test(root) == nil {
		return meta.XattrMeta{}, posix.PosixOpts{}, nil
	}
	if err := os.MkdirAll(sidecar, 0o700); err != nil {
		return nil, posix.PosixOpts{}, err
	}
	store, err := meta.NewSideCar(sidecar)
	return store, posix.PosixOpts{SideCarDir: sidecar}, err
}

// createBucket makes the bucket where it is absent, owned by the account of the access key.
func createBucket(ctx context.Context, backend *posix.Posix, root, owner string) error {
	_, err := os.Stat(filepath.Join(root, bucket))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	acl, err := json.Marshal(auth.ACL{
		Owner:    owner,
		Grantees: []auth.Grantee{{Permission: auth.PermissionFullControl, Access: owner, Type: types.TypeCanonicalUser}},
	})
	if err != nil {
		return err
	}
	name := bucket
	err = backend.CreateBucket(ctx, &s3.CreateBucketInput{
		Bucket:                    &name,
		ObjectOwnership:           types.ObjectOwnershipBucketOwnerEnforced,
		CreateBucketConfiguration: &types.CreateBucketConfiguration{},
	}, acl)
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", bucket, err)
	}
	return nil
}
