package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The value of a message is a version, the number of chunks, of each its size
// and checksum, the envelope, and the checksum of all that.
const storedVersion = 1

func appendMessage(b []byte, chunks []chunk, envelope []byte) []byte {
	b = append(b, storedVersion)
	b = binary.AppendUvarint(b, uint64(len(chunks)))
	for _, c := range chunks {
		b = binary.AppendUvarint(b, uint64(c.size))
		b = binary.LittleEndian.AppendUint32(b, c.crc)
	}
	b = append(b, envelope...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func parseMessage(b []byte) (envelope []byte, chunks []chunk, err error) {
	if len(b) > 0 && b[0] != storedVersion {
		return nil, nil, fmt.Errorf("%w (version %d)", ErrVersion, b[0])
	}
	if len(b) < 5 || crc32.Checksum(b[:len(b)-4], castagnoli()) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, errChecksum)
	}
	b = b[1 : len(b)-4]
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)) {
		return nil, nil, ErrDamaged
	}
	b = b[used:]
	for range n {
		size, used := binary.Uvarint(b)
		if used <= 0 || size > chunkSize || len(b) < used+4 {
			return nil, nil, ErrDamaged
		}
		chunks = append(chunks, chunk{int(size), binary.LittleEndian.Uint32(b[used:])})
		b = b[used+4:]
	}
	return b, chunks, nil
}
