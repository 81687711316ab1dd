package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkAdd makes messages of 4 KiB durable, on the disk of the temporary
// folder, and removes them behind.
func BenchmarkAdd(b *testing.B) {
	for _, callers := range []int{1, 40} {
		b.Run(fmt.Sprint("log/", callers), func(b *testing.B) {
			s := openTestLog(b, b.TempDir(), Options{})
			benchmarkAdd(b, callers, func(body []byte) error { return add(s, NewID(time.Now()), []byte("envelope"), body) })
			st := s.Stats()
			b.ReportMetric(float64(st.Records)/float64(st.Batches), "records/flush")
			b.ReportMetric(float64(st.LargestBatch), "largest-batch")
		})
		// What a server does that has a file for each message.
		b.Run(fmt.Sprint("file/", callers), func(b *testing.B) {
			folder := b.TempDir()
			var n atomic.Int64
			benchmarkAdd(b, callers, func(body []byte) error {
				f, err := os.Create(filepath.Join(folder, fmt.Sprint(n.Add(1))))
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := f.Write(body); err != nil {
					return err
				}
				return f.Sync()
			})
		})
	}
}

func benchmarkAdd(b *testing.B, callers int, add func([]byte) error) {
	body := pattern(1, 4<<10)
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := add(body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkOpen opens a log of 100,000 messages of 4 KiB.
func BenchmarkOpen(b *testing.B) {
	folder := b.TempDir()
	s := openTestLog(b, folder, Options{})
	body := pattern(1, 4<<10)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for range 1000 {
				if err := add(s, NewID(time.Now()), []byte("envelope"), body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.Logf("%+v", s.Stats())
	if err := s.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := openTestLog(b, folder, Options{})
		if n := s.Stats().Messages; n != 100_000 {
			b.Fatal(n)
		}
		if err := s.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
