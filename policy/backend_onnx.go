//go:build onnx

package policy

import (
	"errors"
	"os"

	"github.com/gomlx/compute"
	_ "github.com/gomlx/compute-onnx" // registers "onnx"
)

// onnxLibrary names the environment variable with the path of libonnxruntime.
// GoMLX would download a library where it is not set; a training program must
// not.
const onnxLibrary = "ONNXRUNTIME_SHARED_LIBRARY_PATH"

func openONNX(options string) (compute.Backend, error) {
	if os.Getenv(onnxLibrary) == "" {
		return nil, errors.New(onnxLibrary + " is not set; want the path of libonnxruntime.so")
	}
	if options == "" {
		options = "cpu"
	}
	return compute.NewWithConfig("onnx:" + options)
}
