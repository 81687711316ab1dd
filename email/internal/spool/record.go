package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A record is a header, then envelope, state and, unless it has its own file,
// body, and zeros up to a multiple of 8. All numbers are little-endian.
//
//	 0  salt of the segment, 8 bytes
//	 8  kind, version, 1 if the body has a file of its own, 0
//	12  where the batch begins that it was written with, in the segment
//	16  ID: time, random part
//	32  length of the envelope
//	36  length of the state
//	40  length of the body, 8 bytes
//	48  CRC-32C of envelope and state
//	52  CRC-32C of the body
//	56  0
//	60  CRC-32C of the header up to here
//
// The salt is random and nowhere but in the segment and its name. So a file
// that is used again needs no wiping, and nobody can send a message whose body
// passes for records where damage makes the reader look for the next one.
const (
	recordVersion = 1
	headerSize    = 64
	recordAlign   = 8
)

type recordKind byte

const (
	kindMessage recordKind = 1 // a message, new or moved; it takes the place of what the log has of it before
	kindState   recordKind = 2 // its new state
	kindDone    recordKind = 3 // it was removed
	kindMark    recordKind = 4 // the segment whose number is in key.micros is whole up to key.random
)

// header is the head of a record.
type header struct {
	kind            recordKind
	own             bool   // the body is in a file of its own
	batch           uint32 // offset of the batch
	key             key
	envelope, state uint32 // lengths
	body            int64
	metaCRC         uint32
	bodyCRC         uint32
}

// meta returns the length of what follows the header and is not body.
func (h *header) meta() int64 { return int64(h.envelope) + int64(h.state) }

// size returns the length of the whole record in the segment.
func (h *header) size() int64 {
	n := headerSize + h.meta()
	if !h.own {
		n += h.body
	}
	return align(n)
}

func align(n int64) int64 { return (n + recordAlign - 1) &^ (recordAlign - 1) }

func appendHeader(b []byte, salt uint64, h *header) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint64(b, salt)
	var own byte
	if h.own {
		own = 1
	}
	b = append(b, byte(h.kind), recordVersion, own, 0)
	b = binary.LittleEndian.AppendUint32(b, h.batch)
	b = binary.LittleEndian.AppendUint64(b, h.key.micros)
	b = binary.LittleEndian.AppendUint64(b, h.key.random)
	b = binary.LittleEndian.AppendUint32(b, h.envelope)
	b = binary.LittleEndian.AppendUint32(b, h.state)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.body))
	b = binary.LittleEndian.AppendUint32(b, h.metaCRC)
	b = binary.LittleEndian.AppendUint32(b, h.bodyCRC)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli()))
}

// parseHeader reads a header that is at offset off of a segment of the given
// size. ok is false if there is none. An error says that a newer version wrote
// it.
func parseHeader(b []byte, salt uint64, off, size int64) (h header, ok bool, err error) {
	le := binary.LittleEndian
	if len(b) < headerSize || le.Uint64(b) != salt || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli()) {
		return header{}, false, nil
	}
	if b[9] != recordVersion {
		return header{}, false, fmt.Errorf("%w (version %d)", ErrVersion, b[9])
	}
	h = header{
		kind: recordKind(b[8]), own: b[10] == 1, batch: le.Uint32(b[12:]),
		key:      key{le.Uint64(b[16:]), le.Uint64(b[24:])},
		envelope: le.Uint32(b[32:]), state: le.Uint32(b[36:]), body: int64(le.Uint64(b[40:])),
		metaCRC: le.Uint32(b[48:]), bodyCRC: le.Uint32(b[52:]),
	}
	ok = h.kind >= kindMessage && h.kind <= kindMark && b[10] <= 1 && int64(h.batch) <= off &&
		h.envelope <= MaxMeta && h.state <= MaxMeta && h.body >= 0 && (h.own || h.body <= size) && off+h.size() <= size
	return h, ok, nil
}
