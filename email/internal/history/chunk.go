package history

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// record is what is kept of a message.
type record struct {
	id       string
	finished int64 // milliseconds since 1970
	data     []byte
}

// chunkVersion is the first byte of a chunk. Behind it come the number of records,
// for each its name, time and length, and then the data of all, compressed: a start
// reads the names only.
const chunkVersion = 1

// Bounds of a chunk: it is full with either, and one record may go beyond.
const (
	chunkRecords = 512
	chunkBytes   = 512 << 10
)

// MaxData bounds the record of a message, in bytes.
const MaxData = 1 << 20

// maxID bounds its name.
const maxID = 255

var errChunk = errors.New("not a chunk of history")

func encodeChunk(records []record) ([]byte, error) {
	b := []byte{chunkVersion}
	b = binary.AppendUvarint(b, uint64(len(records)))
	for _, r := range records {
		b = binary.AppendUvarint(b, uint64(len(r.id)))
		b = append(b, r.id...)
		b = binary.AppendUvarint(b, uint64(r.finished))
		b = binary.AppendUvarint(b, uint64(len(r.data)))
	}
	buf := bytes.NewBuffer(b)
	z, err := flate.NewWriter(buf, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if _, err := z.Write(r.data); err != nil {
			return nil, err
		}
	}
	err = z.Close()
	return buf.Bytes(), err
}

// entry is a record's line in the index of a chunk.
type entry struct {
	id         string
	finished   time.Time
	start, end int // of its data
}

// readIndex returns what is in a chunk, and what follows the index.
func readIndex(b []byte) (list []entry, data []byte, err error) {
	if len(b) == 0 || b[0] != chunkVersion {
		return nil, nil, errChunk
	}
	b = b[1:]
	number := func(limit uint64) int {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > limit {
			err = errChunk
			return 0
		}
		b = b[size:]
		return int(n)
	}
	at := 0
	for range number(chunkRecords) {
		var e entry
		n := number(maxID)
		if n > len(b) {
			err = errChunk
		}
		if err != nil {
			return nil, nil, err
		}
		e.id, b = string(b[:n]), b[n:]
		e.finished = time.UnixMilli(int64(number(1 << 48)))
		e.start = at
		at += number(MaxData)
		e.end = at
		if err != nil || at > chunkBytes+MaxData {
			return nil, nil, errChunk
		}
		list = append(list, e)
	}
	return list, b, err
}

// readData returns the data of one record of a chunk.
func readData(b []byte, i int) ([]byte, error) {
	list, data, err := readIndex(b)
	if err != nil {
		return nil, err
	}
	if i >= len(list) {
		return nil, errChunk
	}
	z := flate.NewReader(bytes.NewReader(data))
	if _, err := io.CopyN(io.Discard, z, int64(list[i].start)); err != nil {
		return nil, fmt.Errorf("%w: %w", errChunk, err)
	}
	out := make([]byte, list[i].end-list[i].start)
	if _, err := io.ReadFull(z, out); err != nil {
		return nil, fmt.Errorf("%w: %w", errChunk, err)
	}
	return out, nil
}
