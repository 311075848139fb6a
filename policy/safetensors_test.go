package policy

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func ExampleEncodeSafetensors() {
	data := EncodeSafetensors([]Tensor{{Name: "w", Shape: []int{2}, Data: []float32{1, -2}}}, map[string]string{"format": "pt"})
	fmt.Printf("%d %q\n% x\n", binary.LittleEndian.Uint64(data), data[8:len(data)-8], data[len(data)-8:])
	// Output:
	// 88 "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   "
	// 00 00 80 3f 00 00 00 c0
}

func TestSafetensorsRoundTrip(t *testing.T) {
	tensors := []Tensor{
		{"matrix", []int{2, 3}, []float32{1, 2, 3, 4, 5, float32(math.Inf(1))}},
		{"scalar", []int{}, []float32{math.SmallestNonzeroFloat32}},
		{"empty", []int{0, 4}, []float32{}},
		{`<quoted> "name" & π`, []int{1}, []float32{float32(math.Copysign(0, -1))}},
	}
	for _, meta := range []map[string]string{nil, {"format": "pt", "a": "<b>"}} {
		got, gotMeta, err := DecodeSafetensors(EncodeSafetensors(tensors, meta))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tensors, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(meta, gotMeta); diff != "" {
			t.Error(diff)
		}
	}
	if got, _, err := DecodeSafetensors(EncodeSafetensors(nil, nil)); err != nil || len(got) != 0 {
		t.Errorf("no tensors: %v, %v", got, err)
	}
}

// raw is a safetensors file of the given header and data.
func raw(header, data string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+data...)
}

// Values that IEEE 754 fixes: the greatest and the least numbers, one third.
func TestDecodeHalfPrecision(t *testing.T) {
	for _, tc := range []struct {
		dtype string
		bits  uint16
		want  float64
	}{
		{"F16", 0x0000, 0}, {"F16", 0x0001, 0x1p-24}, {"F16", 0x03ff, 1023 * 0x1p-24}, {"F16", 0x0400, 0x1p-14},
		{"F16", 0x3555, 0.333251953125}, {"F16", 0x3c00, 1}, {"F16", 0xc000, -2}, {"F16", 0x7bff, 65504},
		{"F16", 0x7c00, math.Inf(1)}, {"F16", 0xfc00, math.Inf(-1)}, {"F16", 0x8001, -0x1p-24},
		{"BF16", 0x0000, 0}, {"BF16", 0x3f80, 1}, {"BF16", 0xc049, -3.140625}, {"BF16", 0x7f80, math.Inf(1)},
		{"BF16", 0x0001, 0x1p-133},
	} {
		data := string(binary.LittleEndian.AppendUint16(nil, tc.bits))
		got, _, err := DecodeSafetensors(raw(`{"x":{"dtype":"`+tc.dtype+`","shape":[1],"data_offsets":[0,2]}}`, data))
		if err != nil {
			t.Fatal(err)
		}
		if float64(got[0].Data[0]) != tc.want {
			t.Errorf("%s %04x is %v, want %v", tc.dtype, tc.bits, got[0].Data[0], tc.want)
		}
	}
	for dtype, bits := range map[string]uint16{"F16": 0x7e00, "BF16": 0x7fc0} {
		data := string(binary.LittleEndian.AppendUint16(nil, bits))
		got, _, err := DecodeSafetensors(raw(`{"x":{"dtype":"`+dtype+`","shape":[1],"data_offsets":[0,2]}}`, data))
		if err != nil || !math.IsNaN(float64(got[0].Data[0])) {
			t.Errorf("%s %04x is %v, %v, want NaN", dtype, bits, got, err)
		}
	}
}

func TestDecodeSafetensorsRefuses(t *testing.T) {
	good := `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`
	if _, _, err := DecodeSafetensors(raw(good, "12345678")); err != nil {
		t.Fatal(err)
	}
	with := func(old, new string) []byte { return raw(strings.Replace(good, old, new, 1), "12345678") }
	for _, tc := range []struct {
		want string
		data []byte
	}{
		{"file of 0 bytes, want at least the 8", nil},
		{"file of 7 bytes, want at least the 8", make([]byte, 7)},
		{"header of 50 bytes, but only 2 follow: truncated file", append(binary.LittleEndian.AppendUint64(nil, 50), "{}"...)},
		{"header of 18446744073709551615 bytes, want at most 104857600", binary.LittleEndian.AppendUint64(nil, math.MaxUint64)},
		{"header: not a JSON object", raw("[]", "")},
		{"header: not a JSON object", raw("", "")},
		{"header: the JSON object is not closed", raw(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`, "")},
		{"text after the JSON object", raw(`{} {}`, "")},
		{"text after the JSON object", raw(`{} x`, "")},
		{"__metadata__: ", raw(`{"__metadata__":{"a":1}}`, "")},
		{"tensor a: listed twice", with(`"b"`, `"a"`)},
		{"tensor a: listed twice", with(`"b"`, `"\u0061"`)},
		{`tensor a: dtype is "F64", want F32, F16 or BF16`, with("F32", "F64")},
		{"tensor a: shape [-1]", with("[1]", "[-1]")},
		{"tensor a: shape [4611686018427387904 4611686018427387904]", with("[1]", "[4611686018427387904,4611686018427387904]")},
		{"tensor a: data_offsets span 4 bytes, want 8 for F32 of shape [2]", with("[1]", "[2]")},
		{"tensor a: data_offsets are [4 0], want [begin, end]", with("[0,4]", "[4,0]")},
		{"tensor a: data_offsets are [0], want [begin, end]", with("[0,4]", "[0]")},
		{"tensor a: data_offsets are [-4 0], want", with("[0,4]", "[-4,0]")},
		{"tensor b: data_offsets start at 0, want 4", with("[4,8]", "[0,4]")},
		{"tensor b: data_offsets start at 5, want 4", with("[4,8]", "[5,9]")},
		{"tensor b: data_offsets start at 2, want 4", with("[4,8]", "[2,6]")},
		{"tensor b: data_offsets end at 8, but the file holds 7 bytes of data: truncated file", raw(good, "1234567")},
		{"1 bytes after the last tensor, want none", raw(good, "123456789")},
		{"tensor a: json", with(`"F32"`, "5")},
	} {
		if _, _, err := DecodeSafetensors(tc.data); err == nil || !strings.HasPrefix(err.Error(), "safetensors: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: error %v, want one with %q", tc.data, err, tc.want)
		}
	}
}

func TestEncodeSafetensorsPanicsOnMisuse(t *testing.T) {
	for name, tensors := range map[string][]Tensor{
		"shape": {{"a", []int{2}, []float32{1}}},
		"twice": {{"a", []int{1}, []float32{1}}, {"a", []int{1}, []float32{1}}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			EncodeSafetensors(tensors, nil)
		}()
	}
}

// What decodes is well formed, and encodes to what decodes to the same.
func FuzzDecodeSafetensors(f *testing.F) {
	f.Add(EncodeSafetensors([]Tensor{{"a", []int{2}, []float32{1, 2}}, {"b", []int{0}, nil}}, map[string]string{"format": "pt"}))
	f.Add(raw(`{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[],"data_offsets":[2,4]}}`, "abcd"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tensors, meta, err := DecodeSafetensors(data)
		if err != nil {
			return
		}
		for _, x := range tensors {
			if len(x.Data) != elements(x.Shape) {
				t.Fatalf("tensor %s: %d elements for shape %v", x.Name, len(x.Data), x.Shape)
			}
		}
		again, againMeta, err := DecodeSafetensors(EncodeSafetensors(tensors, meta))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tensors, again, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(meta, againMeta, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func BenchmarkSafetensors(b *testing.B) {
	c := tiny()
	c.VocabSize, c.HiddenSize, c.IntermediateSize, c.NumHiddenLayers = 64, 128, 384, 4
	w := NewWeights(c, 1)
	data := EncodeSafetensors(w, nil)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			EncodeSafetensors(w, nil)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, _, err := DecodeSafetensors(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
