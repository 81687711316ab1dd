package proxy

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoder is a compressor of either kind.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// encoders lends out the compressors of a Proxy. The memory of those in use is
// bounded, as clients can make a response last.
type encoders struct {
	memory     atomic.Int64
	gzip, zstd [maxLevel + 1]sync.Pool
}

const (
	maxLevel         = 9
	maxEncoderMemory = 160 << 20

	// zstdWindow is what a client has to keep; 8 MiB would be allowed (RFC
	// 9659). Web pages gain little from more, and here it is memory too.
	zstdWindow = 512 << 10
)

// get returns a compressor that writes to w, or nil if there are too many.
func (e *encoders) get(coding string, level int, w io.Writer) encoder {
	size := encoderMemory(coding, level)
	if e.memory.Add(size) > maxEncoderMemory {
		e.memory.Add(-size)
		return nil
	}
	enc, ok := e.pool(coding, level).Get().(encoder)
	if !ok {
		enc = newEncoder(coding, level)
	}
	enc.Reset(w)
	return enc
}

// put takes it back.
func (e *encoders) put(coding string, level int, enc encoder) {
	enc.Reset(io.Discard) // it must not hold on to the response
	e.pool(coding, level).Put(enc)
	e.memory.Add(-encoderMemory(coding, level))
}

func (e *encoders) pool(coding string, level int) *sync.Pool {
	if coding == Gzip {
		return &e.gzip[level]
	}
	return &e.zstd[level]
}

// newEncoder makes a compressor. The options are right, so there is no error.
func newEncoder(coding string, level int) encoder {
	if coding == Gzip {
		enc, _ := gzip.NewWriterLevel(io.Discard, level)
		return enc
	}
	enc, _ := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(zstdLevel(level)), zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
	return enc
}

func zstdLevel(level int) zstd.EncoderLevel {
	switch {
	case level <= 3:
		return zstd.SpeedFastest
	case level <= 6:
		return zstd.SpeedDefault
	}
	return zstd.SpeedBetterCompression
}

// encoderMemory is what a compressor takes, as measured.
func encoderMemory(coding string, level int) int64 {
	switch {
	case coding == Gzip:
		return 1400 << 10
	case level <= 3:
		return 1250 << 10
	case level <= 6:
		return 2500 << 10
	}
	return 5500 << 10
}
