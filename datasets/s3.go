package datasets

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// S3Config says where an S3 bucket is and who asks.
type S3Config struct {
	Endpoint     string // http://host:port or https://host; "" = https://s3.amazonaws.com
	Region       string // "" = us-east-1
	Bucket       string // made if it is absent and the credentials permit
	Prefix       string // folder within the bucket, "" = its root
	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary credentials, else ""
}

// S3 is a [Store] in a bucket of an S3 service: MinIO, Amazon, or a gateway.
//
// Put and PutOnce write an object by one single PUT, never in parts, because only that
// is conditional (If-None-Match: *) on all services; so they take at most 5 GiB.
// A failed request is repeated a few times within about two seconds; longer
// outages are for the caller to outlast.
type S3 struct {
	client  minio.Core
	bucket  string
	prefix  string // "" or with a final slash
	address string
}

var _ Store = (*S3)(nil)

const (
	s3Retries       = 5
	s3DefaultRegion = "us-east-1"
	s3Amazon        = "https://s3.amazonaws.com"
)

// OpenS3 connects to the bucket, and makes it if it is absent. The error of a
// service that is down is ErrUnavailable, of refused credentials ErrDenied.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	s, err := newS3(c)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.ensureBucket(ctx, cmp.Or(c.Region, s3DefaultRegion)); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s, classifyS3(ctx, err))
	}
	return s, nil
}

func newS3(c S3Config) (*S3, error) {
	prefix := strings.Trim(c.Prefix, "/")
	if err := checkPrefix(prefix); err != nil {
		return nil, fmt.Errorf("prefix %q: %w", prefix, err)
	}
	endpoint, err := url.Parse(cmp.Or(c.Endpoint, s3Amazon))
	switch {
	case err != nil:
		return nil, errors.New("endpoint: no URL; want http://host:port or https://host") // and no word of what may hold a secret
	case endpoint.User != nil:
		return nil, errors.New("endpoint: holds credentials, which belong in the environment")
	case endpoint.Scheme != "http" && endpoint.Scheme != "https", endpoint.Host == "", strings.Trim(endpoint.Path, "/") != "", endpoint.RawQuery != "":
		return nil, fmt.Errorf("endpoint %q: want http://host:port or https://host", endpoint.Scheme+"://"+endpoint.Host)
	case c.AccessKey == "" || c.SecretKey == "":
		return nil, fmt.Errorf("%w: no credentials for %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", ErrDenied, endpoint)
	}
	if err := s3utils.CheckValidBucketNameStrict(c.Bucket); err != nil {
		return nil, fmt.Errorf("bucket %q: %w", c.Bucket, err)
	}
	client, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken),
		Secure:     endpoint.Scheme == "https",
		Region:     cmp.Or(c.Region, s3DefaultRegion),
		MaxRetries: s3Retries,
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	query := url.Values{}
	if c.Endpoint != "" {
		query.Set("endpoint", endpoint.Scheme+"://"+endpoint.Host)
	}
	if c.Region != "" {
		query.Set("region", c.Region)
	}
	address := url.URL{Scheme: "s3", Host: c.Bucket, Path: prefix, RawQuery: query.Encode()}
	if prefix != "" {
		address.Path, prefix = "/"+prefix, prefix+"/"
	}
	return &S3{client: *client, bucket: c.Bucket, prefix: prefix, address: address.String()}, nil
}

func (s *S3) ensureBucket(ctx context.Context, region string) error {
	found, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil || found {
		return err
	}
	err = s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{Region: region})
	if minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou" {
		return nil // another worker was faster
	}
	return err
}

// Get implements [Store].
func (s *S3) Get(ctx context.Context, key string) ([]byte, error) {
	if err := guard(ctx, "get", key, checkKey); err != nil {
		return nil, err
	}
	data, err := s.get(ctx, key)
	return data, opError("get", key, classifyS3(ctx, err))
}

func (s *S3) get(ctx context.Context, key string) ([]byte, error) {
	body, info, _, err := s.client.GetObject(ctx, s.bucket, s.prefix+key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data := make([]byte, info.Size)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, err
	}
	return data, nil
}

// GetRange implements [Store].
func (s *S3) GetRange(ctx context.Context, key string, offset, n int64) ([]byte, error) {
	if err := errors.Join(guard(ctx, "get", key, checkKey), checkRange("get", key, offset, n)); err != nil {
		return nil, err
	}
	if n == 0 { // there is no range of no bytes
		_, err := s.Stat(ctx, key)
		return nil, err
	}
	var o minio.GetObjectOptions
	err := o.SetRange(offset, offset+n-1)
	if err != nil {
		return nil, opError("get", key, err)
	}
	body, _, _, err := s.client.GetObject(ctx, s.bucket, s.prefix+key, o)
	if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return nil, nil
	}
	if err != nil {
		return nil, opError("get", key, classifyS3(ctx, err))
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, n))
	return data, opError("get", key, classifyS3(ctx, err))
}

// PutFrom implements [Store]: what is large goes in parts, which appear as one object
// when the last one has arrived.
func (s *S3) PutFrom(ctx context.Context, key string, r io.ReaderAt, size int64) error {
	const part = 16 << 20
	if err := guard(ctx, "put", key, checkKey); err != nil {
		return err
	}
	if size <= 4*part {
		data := make([]byte, size)
		if n, err := r.ReadAt(data, 0); int64(n) != size {
			return opError("put", key, fmt.Errorf("%d bytes of %d: %w", n, size, err))
		}
		return s.Put(ctx, key, data)
	}
	// A part for each 16 MiB, more where the service's 10,000 parts would not do.
	_, err := s.client.Client.PutObject(ctx, s.bucket, s.prefix+key, io.NewSectionReader(r, 0, size), size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: uint64(max(part, (size/9000+1<<20)&^(1<<20-1))), NumThreads: 2,
	})
	return opError("put", key, classifyS3(ctx, err))
}

// Put implements [Store].
func (s *S3) Put(ctx context.Context, key string, data []byte) error {
	return s.put(ctx, "put", key, data, minio.PutObjectOptions{})
}

// PutOnce implements [Store].
func (s *S3) PutOnce(ctx context.Context, key string, data []byte) error {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	err := s.put(ctx, "put once", key, data, o)
	if errors.Is(err, ErrUnavailable) {
		// A service may refuse and hang up before it has read a large body, and its
		// answer is then lost with the connection. That the key exists says the same.
		if _, found := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{}); found == nil {
			return opError("put once", key, ErrExists)
		}
	}
	return err
}

func (s *S3) put(ctx context.Context, op, key string, data []byte, o minio.PutObjectOptions) error {
	if err := guard(ctx, op, key, checkKey); err != nil {
		return err
	}
	o.DisableMultipart = true
	o.ContentType = "application/octet-stream"
	// The client's chunked signature of an empty body is a chunk that some gateways
	// leave unread, which spoils the connection; nothing needs no signature.
	o.DisableContentSha256 = len(data) == 0
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		_, err := s.client.Client.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(data), int64(len(data)), o)
		// Services answer so when conditional writes of one key meet; one of them
		// is about to win, and asking again tells which.
		if minio.ToErrorResponse(err).Code != "ConditionalRequestConflict" || pause > time.Second {
			return opError(op, key, classifyS3(ctx, err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Stat implements [Store].
func (s *S3) Stat(ctx context.Context, key string) (Object, error) {
	if err := guard(ctx, "stat", key, checkKey); err != nil {
		return Object{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return Object{}, opError("stat", key, classifyS3(ctx, err))
	}
	return Object{Key: key, Bytes: info.Size, Modified: info.LastModified}, nil
}

// List implements [Store].
func (s *S3) List(ctx context.Context, prefix string) ([]Object, error) {
	if err := guard(ctx, "list", prefix, checkPrefix); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop() // ends the listing when an error cuts it short
	var found []Object
	for o := range s.client.Client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, opError("list", prefix, classifyS3(ctx, o.Err))
		}
		key := strings.TrimPrefix(o.Key, s.prefix)
		if checkKey(key) == nil { // others may keep objects here that are not ours
			found = append(found, Object{Key: key, Bytes: o.Size, Modified: o.LastModified})
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, opError("list", prefix, err)
	}
	sortObjects(found)
	return found, nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := guard(ctx, "delete", key, checkKey); err != nil {
		return err
	}
	err := s.client.Client.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		err = nil
	}
	return opError("delete", key, classifyS3(ctx, err))
}

// String is the store's address as [Open] reads it: it holds no credentials.
func (s *S3) String() string { return s.address }

// s3Refusals are codes of refusal that some services send with other statuses than 403.
var s3Refusals = []string{"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "BucketAlreadyExists", "XAdminUserNotFound"}

// classifyS3 adds the reason of [Store]'s list that an answer of the service, or
// its absence, means.
func classifyS3(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err) // no answer came
	}
	reason := ErrUnavailable
	switch {
	case answer.Code == minio.NoSuchKey:
		reason = ErrNotFound
	case answer.StatusCode == http.StatusPreconditionFailed:
		reason = ErrExists
	case answer.StatusCode == http.StatusForbidden, answer.StatusCode == http.StatusUnauthorized,
		slices.Contains(s3Refusals, answer.Code):
		reason = ErrDenied
	case answer.StatusCode == http.StatusInsufficientStorage, answer.Code == "XMinioStorageFull", answer.Code == "QuotaExceeded":
		reason = ErrNoSpace
	case answer.StatusCode < 500 && answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusRequestTimeout:
		return err // a request the service will never accept
	}
	return fmt.Errorf("%w: %w", reason, err)
}

// OpenSource opens the bucket of an address s3://bucket/key?endpoint=…&region=… for
// reading what others keep there, and returns the key beside it. Unlike [Open] it
// makes no bucket. Credentials are those of [Open].
func OpenSource(ctx context.Context, address string) (Store, string, error) {
	c, err := parseS3(address)
	if err != nil {
		return nil, "", fmt.Errorf("open %w", err)
	}
	key := strings.TrimPrefix(c.Prefix, "/")
	c.Prefix = ""
	s, err := newS3(c)
	if err != nil {
		return nil, "", fmt.Errorf("open s3://%s/%s: %w", c.Bucket, key, err)
	}
	switch found, err := s.client.BucketExists(ctx, s.bucket); {
	case err != nil:
		return nil, "", fmt.Errorf("open s3://%s/%s: %w", c.Bucket, key, classifyS3(ctx, err))
	case !found:
		return nil, "", fmt.Errorf("open s3://%s/%s: bucket: %w", c.Bucket, key, ErrNotFound)
	}
	return s, key, nil
}

// parseS3 reads an address s3://bucket/prefix and the environment's credentials.
func parseS3(address string) (S3Config, error) {
	u, err := url.Parse(address)
	if err != nil {
		return S3Config{}, fmt.Errorf("store: the address is no URL; %s", wantStore)
	}
	shown := u.Scheme + "://" + u.Host + u.Path
	switch {
	case u.User != nil:
		return S3Config{}, fmt.Errorf("store %s: the address holds credentials, which belong in the environment", shown)
	case u.Scheme != "s3" || u.Host == "" || u.Fragment != "":
		return S3Config{}, fmt.Errorf("store %q: %s", shown, wantStore)
	}
	query := u.Query()
	for name := range query {
		if name != "endpoint" && name != "region" {
			return S3Config{}, fmt.Errorf("store %s: parameter %.40q is not known: want endpoint or region", shown, name)
		}
	}
	return S3Config{
		Endpoint: query.Get("endpoint"), Region: query.Get("region"),
		Bucket: u.Host, Prefix: u.Path,
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
	}, nil
}

// Open opens the store at an address:
//
//	mem:                         a new store in this process's memory
//	file:///absolute/folder      a folder, made if absent
//	s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1
//	                             a bucket; prefix, endpoint (Amazon) and region are optional
//
// Credentials for S3 come from the environment alone: AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. An address that is none of these, or
// has a part that is not understood, is an error.
func Open(ctx context.Context, address string) (Store, error) {
	if address == "mem:" {
		return NewMemory(), nil
	}
	if u, err := url.Parse(address); err == nil && u.Scheme == "file" && u.Host == "" && u.Path != "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil {
		return NewDirectory(u.Path)
	}
	c, err := parseS3(address) // what is refused may hold a secret where none belongs, and is not shown
	if err != nil {
		return nil, fmt.Errorf("open %w", err)
	}
	return OpenS3(ctx, c)
}

const wantStore = "want mem:, file:///folder or s3://bucket[/prefix][?endpoint=…&region=…]"
