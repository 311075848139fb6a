package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/gradus-rl/gradus/datasets"
)

// chunkSize is how many bytes of JSON lines make a batch: enough to keep a processor
// busy, and little enough to stay in its cache.
const chunkSize = 1 << 20

// chunk is whole lines, with pad bytes of zero behind them.
type chunk struct {
	data []byte
	line int // number of the first line
}

// pad is how far behind its input the scanner may look.
const pad = 16

// chunker cuts a stream into chunks.
type chunker struct {
	r    io.Reader
	rest []byte // begun line
	line int
	end  bool
}

func newChunker(r io.Reader) *chunker { return &chunker{r: r, line: 1} }

// next returns the next chunk of about size bytes in buf, or io.EOF.
func (c *chunker) next(buf []byte, size int) (chunk, error) {
	buf = append(buf[:0], c.rest...)
	c.rest = c.rest[:0]
	for from := 0; !c.end; size *= 2 {
		size = max(size, len(buf)+chunkSize/2)
		if cap(buf) < size+pad {
			buf = append(make([]byte, 0, size+pad), buf...)
		}
		n, err := io.ReadFull(c.r, buf[len(buf):size])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.end = true
			break
		}
		if err != nil {
			return chunk{}, err
		}
		if at := bytes.LastIndexByte(buf[from:], '\n'); at >= 0 {
			cut := from + at + 1
			c.rest = append(c.rest, buf[cut:]...)
			buf = buf[:cut]
			break
		}
		if from = len(buf); from > datasets.MaxRow {
			return chunk{}, fmt.Errorf("line %d: want a row of at most %d bytes, got more", c.line, datasets.MaxRow)
		}
	}
	if len(buf) == 0 {
		return chunk{}, io.EOF
	}
	out := chunk{data: buf, line: c.line}
	if c.line == 1 {
		out.data = bytes.TrimPrefix(buf, bom)
	}
	c.line += bytes.Count(buf, []byte("\n"))
	return out, nil
}

// padded is the chunk's data with zeros behind it, which stay out of its length.
func (c chunk) padded() []byte {
	n := len(c.data)
	data := append(c.data, make([]byte, pad)...)
	return data[:n]
}

// jsonl parses chunks on all processors and gives the batches in the file's order.
type jsonl struct {
	schema *arrow.Schema
	queue  chan chan parsed // one result each, in order
	stop   context.CancelFunc
	all    sync.WaitGroup
	in     io.Closer
}

type parsed struct {
	rec arrow.Record
	err error
}

// openJSONL reads one JSON object per line. Its columns are the fields of the rows of
// the sample, in the order of their first appearance, each of the narrowest type that
// all its values there have: whole numbers, numbers, booleans, lists and objects of
// these, else text, in which other values stand as they are written in the file.
// Absent fields are null. What does not fit the columns is an error.
func openJSONL(ctx context.Context, f File, o Options) (Reader, error) {
	shape := &shape{kind: kindStruct}
	in, err := f.Stream()
	if err != nil {
		return nil, err
	}
	chunks := newChunker(in)
	limit := o.Sample
	first, err := chunks.next(nil, max(chunkSize, limit))
	for c := first; err == nil; {
		if err = shape.learn(c); err != nil || limit >= 0 {
			break
		}
		if c, err = chunks.next(make([]byte, 0, chunkSize), chunkSize); errors.Is(err, io.EOF) {
			err = nil
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("an empty file, want one JSON object per line")
	}
	if err == nil && len(shape.fields) == 0 {
		err = errors.New("no field in any row")
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	if limit < 0 { // all of it was read; now for its rows
		if err := in.Close(); err != nil {
			return nil, err
		}
		if in, err = f.Stream(); err != nil {
			return nil, err
		}
		chunks, first = newChunker(in), chunk{}
	}
	ctx, stop := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	j := &jsonl{schema: shape.schema(), queue: make(chan chan parsed, 2*workers), stop: stop, in: in}
	type job struct {
		chunk
		out chan parsed
	}
	jobs := make(chan job)
	free := make(chan []byte, 3*workers)
	j.all.Go(func() {
		defer close(j.queue)
		defer close(jobs)
		send := func(c chunk, out chan parsed) bool {
			select {
			case j.queue <- out:
			case <-ctx.Done():
				return false
			}
			select {
			case jobs <- job{c, out}:
				return true
			case <-ctx.Done():
				out <- parsed{err: ctx.Err()}
				return false
			}
		}
		for len(first.data) > 0 { // in pieces, for all processors
			c := first
			if len(c.data) > chunkSize {
				if at := bytes.IndexByte(c.data[chunkSize:], '\n'); at >= 0 {
					c.data = bytes.Clone(c.data[:chunkSize+at+1])
				}
			}
			first.data = first.data[len(c.data):]
			first.line += bytes.Count(c.data, []byte("\n"))
			if !send(c, make(chan parsed, 1)) {
				return
			}
		}
		first.data = nil
		for {
			var buf []byte
			select {
			case buf = <-free:
			default:
			}
			c, err := chunks.next(buf, chunkSize)
			out := make(chan parsed, 1)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				out <- parsed{err: err}
				select {
				case j.queue <- out:
				case <-ctx.Done():
				}
				return
			}
			if !send(c, out) {
				return
			}
		}
	})
	for range workers {
		j.all.Go(func() {
			p := parser{root: shape.column(""), sample: o.Sample}
			for job := range jobs {
				rec, err := p.parse(job.chunk, j.schema, o.Mem)
				select {
				case free <- job.data[:0]:
				default:
				}
				job.out <- parsed{rec, err}
			}
		})
	}
	return j, nil
}

func (j *jsonl) Schema() *arrow.Schema  { return j.schema }
func (j *jsonl) Place() (string, int64) { return "", 0 }

func (j *jsonl) Next() (arrow.Record, error) {
	for out := range j.queue {
		r := <-out
		if r.err != nil {
			j.stop()
			return nil, r.err
		}
		if r.rec.NumRows() > 0 {
			return r.rec, nil
		}
		r.rec.Release()
	}
	return nil, io.EOF
}

func (j *jsonl) Close() error {
	j.stop()
	for out := range j.queue {
		if r := <-out; r.rec != nil {
			r.rec.Release()
		}
	}
	j.all.Wait()
	return j.in.Close()
}
