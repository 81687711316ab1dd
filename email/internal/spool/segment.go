package spool

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// segment is a file of the log. What is below the line is guarded by the
// log's mutex.
type segment struct {
	number uint64
	salt   uint64 // begins every record
	file   file
	size   int64
	filled int64 // up to where the file has blocks that were written; only the writer uses it

	end      int64 // of what was written
	live     int64 // bytes of records that are needed
	messages int   // that are alive here
	readers  int   // who read from the file
	damaged  bool  // so it is never removed
	failed   bool  // to write it, so it is not used again
	closed   bool
}

// position is where the log is whole up to: before it nothing is missing,
// behind it there may be the rest of a batch that was never finished.
type position struct {
	segment uint64
	end     int64
}

const (
	segmentSuffix = ".log"
	damagedSuffix = ".damaged" // added to the name of a segment or body that is kept for somebody to look at
	sparePrefix   = "spare-"   // a segment that has no name yet, and its salt
	bodySuffix    = ".body"
	draftPrefix   = "draft-"
)

func segmentName(number, salt uint64) string {
	return fmt.Sprintf("%016x-%016x%s", number, salt, segmentSuffix)
}

func (s *segment) name() string { return segmentName(s.number, s.salt) }

// newSpare describes a spare segment under a name that was never used.
func newSpare(size, filled int64) *segment {
	return &segment{salt: newSalt(), size: size, filled: filled}
}

func (s *segment) spareName() string { return fmt.Sprintf("%s%016x", sparePrefix, s.salt) }

func parseSegmentName(name string) (number, salt uint64, ok bool) {
	a, b, found := strings.Cut(strings.TrimSuffix(name, segmentSuffix), "-")
	if !found {
		return 0, 0, false
	}
	number, err1 := strconv.ParseUint(a, 16, 64)
	salt, err2 := strconv.ParseUint(b, 16, 64)
	return number, salt, err1 == nil && err2 == nil && number > 0 && name == segmentName(number, salt)
}

// newSalt returns a salt whose bytes are all of them not 0, so that it is
// found nowhere in what was never written.
func newSalt() uint64 {
	var b [8]byte
	for i := range b {
		b[i] = byte(1 + rand.IntN(255))
	}
	return binary.LittleEndian.Uint64(b[:])
}

func bodyName(k key) string { return string(k.id()) + bodySuffix }
