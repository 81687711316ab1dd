package spool

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// TestDamage breaks bytes of a log that was closed: what is damaged is told,
// what is behind is there, and the file is kept.
func TestDamage(t *testing.T) {
	type place struct {
		name string
		at   func(header, int64) (off, n int64) // what to overwrite
		lost bool                               // at the start; otherwise when it is read
	}
	places := []place{
		{"salt", func(_ header, off int64) (int64, int64) { return off, 1 }, true},
		{"header", func(_ header, off int64) (int64, int64) { return off + 40, 8 }, true},
		{"envelope", func(_ header, off int64) (int64, int64) { return off + headerSize + 1, 1 }, true},
		{"body", func(h header, off int64) (int64, int64) { return off + headerSize + h.meta() + 5, 1 }, false},
		{"page", func(h header, off int64) (int64, int64) { return off &^ 4095, 4096 }, true},
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			folder := t.TempDir()
			opts := Options{SegmentSize: 64 << 10}
			s := openTestLog(t, folder, opts)
			var all []ID
			for i := range 8 {
				all = append(all, mustAdd(t, s, []byte("envelope"), pattern(uint64(i), 5000)))
			}
			victim := all[3]
			k, _ := victim.key()
			e := s.index[k]
			h, _, err := readRecord(e.seg, int64(e.off), k, int(e.envelope))
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(folder, e.seg.name())
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			off, n := p.at(h, int64(e.off))
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for i := off; i < off+n; i++ {
				data[i] ^= 0x55
			}
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}

			var log bytes.Buffer
			opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s = openTestLog(t, folder, opts)
			_, getErr := s.Get(t.Context(), victim)
			_, bodyErr := s.Body(t.Context(), victim)
			if p.lost {
				if !errors.Is(getErr, ErrNotFound) || s.Stats().Damaged == 0 || !strings.Contains(log.String(), "damaged") {
					t.Errorf("%v, %+v, %s", getErr, s.Stats(), &log)
				}
			} else if getErr != nil || !errors.Is(bodyErr, ErrDamaged) {
				t.Errorf("%v, %v", getErr, bodyErr)
			}
			for i, id := range all {
				if err := check(s, id, []byte("envelope"), nil, pattern(uint64(i), 5000)); err != nil && id != victim && !(p.name == "page" && id == all[2]) {
					t.Errorf("message %d of 8: %v", i, err)
				}
			}
			// It all goes, but the damaged file does not.
			for i := range 200 {
				id := mustAdd(t, s, nil, pattern(uint64(i), 5000))
				if err := s.Remove(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			testenv.WaitFor(t, 20*time.Second, func() error {
				_, err := os.Stat(name + damagedSuffix)
				return err
			})
			if _, err := s.Get(t.Context(), victim); !errors.Is(err, ErrNotFound) {
				t.Errorf("the message that was given up: %v", err)
			}
			if n := s.Stats().Damaged; n != 1 && p.name != "page" {
				t.Errorf("%d places are said to be damaged", n)
			}
			for i, id := range all {
				if err := check(s, id, []byte("envelope"), nil, pattern(uint64(i), 5000)); err != nil && id != victim && !(p.name == "page" && id == all[2]) {
					t.Errorf("message %d of 8, copied: %v", i, err)
				}
			}
		})
	}
}

// TestDamageKeepsBodies: the file of a body whose record is lost is kept, whether
// that is found at the start or later.
func TestDamageKeepsBodies(t *testing.T) {
	opts := Options{SegmentSize: 64 << 10}
	big := pattern(1, maxDraftMemory+1) // has a file of its own
	begin := func(t *testing.T, folder string) (s *fileLog, k key, segment string, spoil func()) {
		t.Helper()
		s = openTestLog(t, folder, opts)
		k, _ = mustAdd(t, s, []byte("envelope"), big).key()
		e := s.index[k]
		segment = filepath.Join(folder, e.seg.name())
		return s, k, segment, func() {
			t.Helper()
			data, err := os.ReadFile(segment)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(segment, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{data[e.off+20] ^ 1}, int64(e.off)+20); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantKept := func(t *testing.T, folder string, k key) {
		t.Helper()
		if err := openTestLog(t, folder, opts).Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(folder, bodyName(k)+damagedSuffix))
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes are kept, %v", len(got), err)
		}
	}
	t.Run("start", func(t *testing.T) {
		folder := t.TempDir()
		s, k, _, spoil := begin(t, folder)
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		spoil()
		wantKept(t, folder, k)
	})
	t.Run("cleaning", func(t *testing.T) {
		folder := t.TempDir()
		s, k, segment, spoil := begin(t, folder)
		spoil()
		for i := range 200 {
			if err := s.Remove(t.Context(), mustAdd(t, s, nil, pattern(uint64(i), 5000))); err != nil {
				t.Fatal(err)
			}
		}
		testenv.WaitFor(t, 20*time.Second, func() error {
			_, err := os.Stat(segment + damagedSuffix)
			return err
		})
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantKept(t, folder, k)
	})
}

// TestForgedRecord: a body that looks like records is none, also not where
// damage makes the reader look for the next.
func TestForgedRecord(t *testing.T) {
	folder := t.TempDir()
	s := openTestLog(t, folder, Options{SegmentSize: 64 << 10})
	first := mustAdd(t, s, nil, pattern(1, 100))
	k, _ := first.key()
	e := s.index[k]
	forged, _ := NewID(time.Now()).key()
	var body []byte
	for range 20 { // with what can be known: the salt of another segment
		h := header{kind: kindMessage, key: forged}
		body = appendHeader(body, newSalt(), &h)
	}
	mustAdd(t, s, nil, body)
	last := mustAdd(t, s, nil, pattern(2, 100))
	name := filepath.Join(folder, e.seg.name())
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(name)
	second := int64(e.off) + e.record()
	clear(data[second : second+headerSize])
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openTestLog(t, folder, Options{SegmentSize: 64 << 10})
	if got := ids(t, s); !slices.Equal(got, []ID{first, last}) || s.Stats().Damaged != 1 {
		t.Errorf("%v, %+v", got, s.Stats())
	}
}

// TestDamageAtTheEnd: the last batch of a segment may be torn only if the log
// ends there.
func TestDamageAtTheEnd(t *testing.T) {
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	var first *segment
	var last key
	var n int
	for first == nil || s.Stats().Segments < 3 {
		id := mustAdd(t, s, nil, pattern(1, 3000))
		n++
		k, _ := id.key()
		if e := s.index[k]; first == nil || e.seg == first {
			first, last = e.seg, k
		}
	}
	e := s.index[last]
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.names[first.name()].data[e.off+20] ^= 1
	s, err = openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if got := len(ids(t, s)); got != n-1 {
		t.Errorf("%d messages of %d", got, n)
	}
	if n := s.Stats().Damaged; n != 1 {
		t.Errorf("%d places are said to be damaged", n)
	}
}

// TestVersion: what a newer version wrote is not touched.
func TestVersion(t *testing.T) {
	folder := t.TempDir()
	s := openTestLog(t, folder, Options{SegmentSize: minSegmentSize})
	mustAdd(t, s, nil, nil)
	name := filepath.Join(folder, s.active.name())
	salt := s.active.salt
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(name)
	b := appendHeader(nil, salt, &header{kind: kindMark})
	b[9] = recordVersion + 1
	copy(data, reseal(b))
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(folder, Options{}); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
}
