package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// reseal gives a header that was changed the right checksum.
func reseal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli()))
	return b
}

func TestID(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 123456000, time.UTC)
	var list []ID
	for i := range 2000 {
		list = append(list, NewID(now.Add(time.Duration(i)*time.Microsecond)))
	}
	if !slices.IsSorted(list) {
		t.Error("later IDs do not sort behind earlier ones")
	}
	if id := list[0]; !id.Time().Equal(now) || len(id) != 20 {
		t.Errorf("%s is of %v, want %v", id, id.Time(), now)
	}
	seen := make(map[ID]bool)
	for range 10_000 {
		seen[NewID(now)] = true // all at the same moment
	}
	if len(seen) != 10_000 {
		t.Errorf("%d IDs of 10,000 differ", len(seen))
	}
	any := func() key { return key{rand.Uint64() >> (12 + rand.IntN(52)), rand.Uint64() >> (16 + rand.IntN(48))} }
	for range 1000 {
		a, b := any(), any()
		if back, err := a.id().key(); err != nil || back != a || (a.compare(b) < 0) != (a.id() < b.id()) {
			t.Errorf("%v is %s, which is %v (%v); %v is %s", a, a.id(), back, err, b, b.id())
		}
	}
	for _, s := range []string{"", "x", "0123456789abcdefghji", "0123456789abcdefghj\n", "0123456789abcdefghjkm"} {
		if _, err := ParseID(s); !errors.Is(err, ErrInvalidID) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzScan reads a segment of any bytes.
func FuzzScan(f *testing.F) {
	const salt = 0x1122334455667788
	var whole []byte
	for i, h := range []header{
		{kind: kindMark},
		{kind: kindMessage, key: key{1, 2}, envelope: 5, state: 3, body: 20, batch: 0},
		{kind: kindState, key: key{1, 2}, state: 9, batch: 64},
		{kind: kindMessage, own: true, key: key{3, 4}, envelope: 1, body: 1 << 40, batch: 64},
		{kind: kindDone, key: key{1, 2}, batch: 64},
	} {
		content := pattern(uint64(i), int(h.size())-headerSize)
		h.metaCRC = crc32.Checksum(content[:h.meta()], castagnoli())
		whole = append(appendHeader(whole, salt, &h), content...)
	}
	f.Add(whole)
	f.Add(append(whole[:100:100], whole...))
	f.Add(bytes.Repeat(whole[:64], 5))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// What looks like a header gets a right checksum, so that the fuzzer
		// comes further than that.
		for off := 0; off+headerSize <= len(data); off += recordAlign {
			if data[off]%4 == 1 {
				binary.LittleEndian.PutUint64(data[off:], salt)
				reseal(data[off : off+headerSize])
			}
		}
		d := newSimDisk()
		name := segmentName(1, salt)
		d.names[name] = &simFile{disk: d, name: name, data: data}
		s, err := openLog(d, Options{Headroom: -1, SegmentSize: minSegmentSize})
		if errors.Is(err, ErrVersion) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		scan := newScanner(&segment{salt: salt, file: d.names[name], size: int64(len(data))})
		var end int64
		for {
			rec, ok, err := scan.next()
			if err != nil || !ok {
				break
			}
			if rec.off < end || rec.off+rec.size() > int64(len(data)) {
				t.Fatalf("a record from %d to %d, after one that ends at %d", rec.off, rec.off+rec.size(), end)
			}
			end = rec.off + rec.size()
		}
		for msg, err := range s.All(t.Context()) {
			if err != nil {
				continue
			}
			if b, err := s.Body(t.Context(), msg.ID); err == nil {
				b.Close()
			}
			s.SetState(t.Context(), msg.ID, []byte("x"))
			if err := s.Remove(t.Context(), msg.ID); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Stats(); n.Messages != 0 && n.Damaged == 0 {
			t.Fatalf("%+v", n)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
