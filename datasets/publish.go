package datasets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Named is a version of a published problem set.
type Named struct {
	Name     string
	Version  int // from 1; the highest is the current one
	Ref      Ref
	Modified time.Time // when it was published
}

// Names with a colon would read as Refs, with an at sign as versions.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// versionKey is where a version is recorded: six digits sort as numbers.
func versionKey(name string, version int) string {
	return fmt.Sprintf("problems/%s/%06d.json", name, version)
}

// Publish gives the table at r a name in the store. Publishing the current version
// again changes nothing; another Ref becomes the next version, and earlier versions
// stay reachable as name@version. Concurrent calls each get a version of their own.
func Publish(ctx context.Context, s Store, name string, r Ref) error {
	if err := publish(ctx, s, name, r); err != nil {
		return fmt.Errorf("publish %.120q: %w", name, err)
	}
	return nil
}

func publish(ctx context.Context, s Store, name string, r Ref) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("want up to 100 letters, digits, dots, dashes or underscores, with a letter or digit first")
	}
	if err := r.check(); err != nil {
		return err
	}
	switch found, err := s.List(ctx, r.object()); {
	case err != nil:
		return err
	case len(found) == 0:
		return fmt.Errorf("%s: %w", r.object(), ErrNotFound)
	}
	data, err := marshal(r)
	if err != nil {
		return err
	}
	for {
		version := 1
		switch current, err := current(ctx, s, name); {
		case err == nil && current.Ref == r:
			return nil
		case err == nil:
			version = current.Version + 1
		case !errors.Is(err, ErrNotFound):
			return err
		}
		if err := s.PutOnce(ctx, versionKey(name, version), data); !errors.Is(err, ErrExists) {
			return err
		}
	}
}

// Resolve returns the Ref of a published name (its current version), of name@version,
// or of a Ref in the form of [Ref.String]. A name nobody published is ErrNotFound.
func Resolve(ctx context.Context, s Store, nameOrRef string) (Ref, error) {
	if strings.Contains(nameOrRef, ":") {
		return ParseRef(nameOrRef)
	}
	n, err := resolve(ctx, s, nameOrRef)
	if err != nil {
		return Ref{}, fmt.Errorf("resolve problem set %.120q: %w", nameOrRef, err)
	}
	return n.Ref, nil
}

func resolve(ctx context.Context, s Store, nameVersion string) (Named, error) {
	name, digits, pinned := strings.Cut(nameVersion, "@")
	if !nameForm.MatchString(name) {
		return Named{}, errors.New("want a published name, name@version or kind:rows:bytes:hash")
	}
	if !pinned {
		return current(ctx, s, name)
	}
	version, err := strconv.Atoi(digits)
	if err != nil || version < 1 {
		return Named{}, fmt.Errorf("version %.20q is not a number from 1 up", digits)
	}
	return readNamed(ctx, s, Object{Key: versionKey(name, version)})
}

// current reads the latest version of name.
func current(ctx context.Context, s Store, name string) (Named, error) {
	versions, err := s.List(ctx, "problems/"+name+"/")
	if err != nil {
		return Named{}, err
	}
	if len(versions) == 0 {
		return Named{}, fmt.Errorf("in %s: %w", s, ErrNotFound)
	}
	return readNamed(ctx, s, versions[len(versions)-1])
}

// Published returns the current version of every published name, sorted by name.
func Published(ctx context.Context, s Store) ([]Named, error) {
	objects, err := s.List(ctx, "problems/")
	if err != nil {
		return nil, fmt.Errorf("published problem sets: %w", err)
	}
	latest := map[string]Object{}
	for _, o := range objects { // in ascending order, so that the last one stays
		if parts := strings.Split(o.Key, "/"); len(parts) == 3 {
			latest[parts[1]] = o
		}
	}
	var all []Named
	for _, o := range latest {
		n, err := readNamed(ctx, s, o)
		if err != nil {
			return nil, fmt.Errorf("published problem sets: %w", err)
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func readNamed(ctx context.Context, s Store, o Object) (Named, error) {
	n := Named{Modified: o.Modified}
	parts := strings.Split(o.Key, "/")
	n.Name = parts[1]
	version, err := strconv.Atoi(strings.TrimSuffix(parts[2], ".json"))
	if err != nil {
		return Named{}, fmt.Errorf("%s: %w: not a version", o.Key, ErrCorrupt)
	}
	n.Version = version
	data, err := s.Get(ctx, o.Key)
	if err != nil {
		return Named{}, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&n.Ref); err != nil {
		return Named{}, fmt.Errorf("%s: %w: %v", o.Key, ErrCorrupt, err)
	}
	if err := n.Ref.check(); err != nil {
		return Named{}, fmt.Errorf("%s: %w: %v", o.Key, ErrCorrupt, err)
	}
	return n, nil
}
