//go:build onnx

package policy

import (
	"maps"
	"slices"
	"testing"
)

func TestONNXAgreesWithGo(t *testing.T) {
	agreesWithGo(t, "onnx", DefaultLearning(), slices.Sorted(maps.Keys(tinyModels))...)
}
