package datasets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// zstdBlock is the most bytes that a Zstd block stands for.
const zstdBlock = 128 << 10

var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxDecoded))
		if err != nil {
			panic(err)
		}
		return d
	}}
	huffmen = sync.Pool{New: func() any { return &huff0.Scratch{Reuse: huff0.ReusePolicyNone} }}
)

// pack is a buffer as a batch of Arrow's Zstd compression has it: its size and a Zstd
// frame, or -1 and the bytes themselves. It is a function of the bytes alone. What
// becomes less than an eighth smaller stays as it is, which is the rule for floats
// and for offsets of texts; numbers whose bytes repeat, but not in sequence, such as
// tokens, get a frame of Huffman codes, which is made and read several times faster
// than what a search for repetitions gives, and not larger.
func pack(b []byte) []byte {
	const little = 64
	if len(b) == 0 {
		return nil
	}
	out := make([]byte, 8, 8+len(b)+len(b)/64+little)
	binary.LittleEndian.PutUint64(out, uint64(len(b)))
	if len(b) >= little {
		e := encoders.Get().(*zstd.Encoder)
		defer encoders.Put(e)
		sequences, sample := true, b
		if len(b) > 2*zstdBlock {
			sample = b[len(b)/2:][:zstdBlock]
			found, counted := len(e.EncodeAll(sample, out)), len(huffman(out, sample))
			if min(found, counted)-8 > zstdBlock/8*7 {
				sample = nil
			}
			sequences = found < counted
		}
		switch {
		case sample == nil:
		case sequences:
			out = e.EncodeAll(b, out)
		default:
			out = huffman(out, b)
		}
		if n := len(out) - 8; n > 0 && n <= len(b)/8*7 {
			return out
		}
	}
	binary.LittleEndian.PutUint64(out, ^uint64(0))
	return append(out[:8], b...)
}

// huffman appends b as a Zstd frame (RFC 8878) whose blocks are literals only.
func huffman(out, b []byte) []byte {
	const raw, rle, compressed = 0, 1, 2
	s := huffmen.Get().(*huff0.Scratch)
	defer huffmen.Put(s)
	out = append(out, 0x28, 0xb5, 0x2f, 0xfd, 3<<6, 7<<3) // with the content's size in 8 bytes, and a window of 128 KiB
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b)))
	block := func(kind, size, n int) {
		h := kind<<1 | size<<3
		if n == len(b) {
			h |= 1 // the last
		}
		out = append(out, byte(h), byte(h>>8), byte(h>>16))
	}
	for len(b) > 0 {
		n := min(len(b), zstdBlock)
		codes, _, err := huff0.Compress4X(b[:n], s)
		switch {
		case errors.Is(err, huff0.ErrUseRLE):
			block(rle, n, n)
			out = append(out, b[0])
		case err != nil || len(codes)+6 >= n: // too even, or too little
			block(raw, n, n)
			out = append(out, b[:n]...)
		default:
			const fourStreams = 3 // and 18 bits for each size
			block(compressed, 5+len(codes)+1, n)
			h := uint64(compressed | fourStreams<<2 | n<<4 | len(codes)<<22)
			out = append(out, byte(h), byte(h>>8), byte(h>>16), byte(h>>24), byte(h>>32))
			out = append(append(out, codes...), 0) // no sequences
		}
		b = b[n:]
	}
	return out
}

// packed looks at a buffer as pack makes it: its plain bytes, nil where it is
// compressed, and how many bytes it becomes.
func packed(data []byte) (plain []byte, size int, err error) {
	if len(data) < 8 {
		return nil, 0, fmt.Errorf("damaged file: a compressed buffer of %d bytes", len(data))
	}
	n := int64(binary.LittleEndian.Uint64(data))
	if n == -1 {
		return data[8:], len(data) - 8, nil
	}
	if n < 0 || n > MaxDecoded || n > mostRatio*int64(len(data)+1) {
		return nil, 0, fmt.Errorf("damaged file: %d bytes that become %d", len(data), n)
	}
	return nil, int(n), nil
}

// unpack fills out from a buffer that is compressed by Zstd, or by LZ4 as others do it.
func unpack(out, data []byte, codec int) error {
	if codec == codecLZ4 {
		_, err := io.ReadFull(lz4.NewReader(bytes.NewReader(data[8:])), out)
		return err
	}
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	got, err := d.DecodeAll(data[8:], out[:0:len(out)])
	if err == nil && len(got) != len(out) {
		err = fmt.Errorf("damaged file: a buffer of %d bytes, want %d", len(got), len(out))
	}
	return err
}
