//go:build !onnx

package policy

import (
	"errors"

	"github.com/gomlx/compute"
)

func openONNX(string) (compute.Backend, error) {
	return nil, errors.New("this program was built without ONNX Runtime; build it with -tags onnx")
}
