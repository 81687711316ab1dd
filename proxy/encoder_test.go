package proxy

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Each level gives back what it was given, also in pieces, and with nothing of
// the response before.
func TestEncoders(t *testing.T) {
	t.Parallel()
	var lend encoders
	text := prose(300_000)
	for _, coding := range []string{Gzip, Zstd} {
		for level := 1; level <= maxLevel; level++ {
			for _, want := range []string{text, text[:1000], "", text[5000:9000]} {
				for _, flush := range []bool{false, true} {
					var out bytes.Buffer
					enc := lend.get(coding, level, &out)
					if flush {
						enc.Flush()
					}
					for rest := want; len(rest) > 0; {
						n := min(len(rest), 70_000)
						io.WriteString(enc, rest[:n])
						if rest = rest[n:]; flush {
							enc.Flush()
							soFar := decoder(t, coding, bytes.NewReader(out.Bytes()))
							got := make([]byte, len(want)-len(rest))
							if _, err := io.ReadFull(soFar, got); err != nil || string(got) != want[:len(got)] {
								t.Fatalf("%s %d: %v after a flush", coding, level, err)
							}
						}
					}
					if err := enc.Close(); err != nil {
						t.Fatal(err)
					}
					lend.put(coding, level, enc)
					if got := decoded(t, coding, out.String()); got != want || out.Len() == 0 {
						t.Errorf("%s %d: %d bytes of %d", coding, level, len(got), len(want))
					}
				}
			}
		}
	}
	if n := lend.memory.Load(); n != 0 {
		t.Errorf("%d bytes are lent out", n)
	}
}

// The bound on memory is worth as much as what is thought of one compressor.
func TestMemoryOfEncoders(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector makes it slow, and takes memory of its own")
	}
	text := []byte(prose(1 << 20)) // more than any window
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, coding := range []string{Gzip, Zstd} {
		for _, level := range []int{1, 3, 4, 6, 7, 9} {
			var used [4]encoder
			before := heap()
			for i := range used {
				used[i] = newEncoder(coding, level)
				used[i].Reset(io.Discard)
				used[i].Write(text)
				used[i].Flush()
			}
			each := (heap() - before) / int64(len(used))
			runtime.KeepAlive(used)
			if most := encoderMemory(coding, level); each > most*11/10 {
				t.Errorf("%s %d takes %d KiB, more than %d", coding, level, each>>10, most>>10)
			}
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	var lend encoders
	text := []byte(prose(20_000))
	for _, coding := range []string{Gzip, Zstd} {
		for _, level := range []int{1, 3, 5, 9} {
			b.Run(fmt.Sprintf("%s %d", coding, level), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				var out bytes.Buffer
				for b.Loop() {
					out.Reset()
					enc := lend.get(coding, level, &out)
					enc.Write(text)
					enc.Close()
					lend.put(coding, level, enc)
				}
				b.ReportMetric(float64(len(text))/float64(out.Len()), "ratio")
			})
		}
	}
}
