package recipes

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/gradus-rl/gradus/datasets"
)

// ErrUnknown is the error of an option that a plan does not have.
var ErrUnknown = errors.New("unknown option")

// decode decodes a JSON object over *into. Its error names the option that does not
// fit as a user writes it, path before it, and what was expected.
func decode(path string, raw json.RawMessage, into any) error {
	err := datasets.DecodeStrict(raw, into)
	if err == nil {
		return nil
	}
	if misfit := misfit(path, raw, reflect.TypeOf(into).Elem()); misfit != nil {
		return misfit
	}
	return fmt.Errorf("plan: %w", err) // no JSON
}

// misfit finds the first value that a type cannot take.
func misfit(path string, raw json.RawMessage, t reflect.Type) error {
	if datasets.DecodeStrict(raw, reflect.New(t).Interface()) == nil {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var members map[string]json.RawMessage
	var entries []json.RawMessage
	switch {
	case t.Kind() == reflect.Struct && json.Unmarshal(raw, &members) == nil:
		names := fields(t)
		for _, name := range slices.Sorted(maps.Keys(members)) {
			at := join(path, name)
			i := slices.Index(names, name)
			if i < 0 {
				for j := range names {
					names[j] = join(path, names[j])
				}
				return fmt.Errorf("%w %q%s", ErrUnknown, at, suggest(at, names))
			}
			if err := misfit(at, members[name], t.Field(i).Type); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Slice && json.Unmarshal(raw, &entries) == nil:
		for i, e := range entries {
			if err := misfit(fmt.Sprintf("%s[%d]", path, i), e, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%s is %.100s; it must be %s", path, raw, wanted(raw, t))
}

func join(path, name string) string { return strings.TrimPrefix(path+"."+name, ".") }

// wanted is what a type takes, in words, where raw was given.
func wanted(raw json.RawMessage, t reflect.Type) string {
	if t == reflect.TypeFor[Verifier]() {
		return "the name of a verifier, or an object of its settings"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "text"
	case reflect.Slice:
		if list := "[" + string(raw) + "]"; misfit("", json.RawMessage(list), t) == nil {
			return "a list such as " + list
		}
		return "a list, each entry " + wanted(raw, t.Elem())
	}
	return "an object with the keys " + strings.Join(fields(t), ", ")
}
