package policy

import (
	"fmt"
	"os"
	"testing"
)

func TestZZ(t *testing.T) {
	os.RemoveAll("/tmp/pycheck/ckpt")
	s := trained(t)
	s.Tokenizer = mustTokenizer(t, alphabet)
	s.Config.VocabSize = s.Tokenizer.Size()
	s.Weights, s.Moments1, s.Moments2 = NewWeights(s.Config, 1), NewWeights(s.Config, 2), NewWeights(s.Config, 3)
	if err := WriteDir("/tmp/pycheck/ckpt", s); err != nil {
		t.Fatal(err)
	}
	f, _ := os.Create("/tmp/pycheck/tok.txt")
	for _, text := range []string{"", "abc", alphabet, "e\u0301 é", "\r\n\n", "X日Y", "😀😀", "a  b", "\ufffd", " lead", "ÀÀ"} {
		ids, _ := s.Tokenizer.Encode(text)
		fmt.Fprintf(f, "%q\t%v\t%q\n", text, ids, s.Tokenizer.Decode(ids))
	}
	f.Close()
	os.WriteFile("/tmp/pycheck/odd.safetensors", EncodeSafetensors([]Tensor{{"z<é>\"", []int{}, []float32{3}}, {"e", []int{0, 2}, nil}, {"a", []int{1, 2}, []float32{1, 2}}}, map[string]string{"k": "<v>"}), 0o644)
	if data, err := os.ReadFile("/tmp/pycheck/py.safetensors"); err == nil {
		ts, meta, err := DecodeSafetensors(data)
		fmt.Println(ts, meta, err)
		d2, _ := os.ReadFile("/tmp/pycheck/py_state.safetensors")
		ts2, _, err2 := DecodeSafetensors(d2)
		w, err3 := s.Config.Arrange(ts2)
		same := true
		for i := range w {
			for j := range w[i].Data {
				same = same && w[i].Data[j] == s.Weights[i].Data[j]
			}
		}
		fmt.Println(len(ts2), err2, err3, same)
	}
}
