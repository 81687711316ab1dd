package email

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/spool"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A hundred thousand messages that wait must not keep the server from starting,
// nor take its memory.
func TestMemoryOfALongQueue(t *testing.T) {
	if testing.Short() || testenv.Race {
		t.Skip("takes long, or other memory with the race detector")
	}
	const messages = 100_000
	folder := t.TempDir()
	now := time.Now()
	store, err := spool.OpenLog(folder+"/spool", spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const writers = 100 // share the flushes of the disk
	for w := range writers {
		wg.Go(func() {
			for i := w; i < messages; i += writers {
				env := &queued{
					From:       fmt.Sprintf("sender%d@example.com", i%50),
					Recipients: []recipient{{Address: fmt.Sprintf("somebody.or.other%d@domain%d.example.net", i, i%5000), Route: "out"}},
					Prefix:     []byte("Received: from client.example.net (unknown [192.0.2.1])\r\n\tby mx.example.com with ESMTP id 0123456789;\r\n\tMon, 2 Nov 2026 10:00:00 +0000\r\n"),
					Arrived:    now, ConnID: "0123456789", Mode: SMTP, Helo: "client.example.net",
				}
				text, err := env.encode()
				if err != nil {
					t.Error(err)
					return
				}
				d, err := store.Draft(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				d.Write([]byte(hi))
				id := spool.NewID(now)
				if err := store.Add(t.Context(), id, text, d); err != nil {
					t.Error(err)
					return
				}
				if i%2 == 0 {
					p := &progress{Recipients: []state{{Reply: "450 4.2.1 Not today", Status: "4.2.1", Host: "mx.example.net"}}, Tries: 3, Next: now.Add(time.Hour),
						Steps: []step{{At: now, Kind: EventDeferred, Text: "450 4.2.1 Not today", Host: "mx.example.net"}}}
					state, err := p.encode()
					if err != nil {
						t.Error(err)
						return
					}
					if err := store.SetState(t.Context(), id, state); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if err := store.Close(t.Context()); err != nil || t.Failed() {
		t.Fatal(err)
	}

	heap := func() int64 {
		runtime.GC()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, begin := heap(), time.Now()
	s := start(t, Config{
		DataPath: folder, Queue: Queue{Paused: true},
		Routes: []Route{{Name: "out", Match: Match{ClientIP: []string{"192.0.2.0/24"}}, Action: Action{Type: Process}}},
	}, quiet())
	took := time.Since(begin)
	took, used := took, heap()-before
	t.Logf("%d messages: started in %v, %d MB, %d bytes a message", messages, took, used>>20, used/messages)
	if st := s.Stats().Spool; st.Messages != messages {
		t.Errorf("%d messages in the spool", st.Messages)
	}
	if took > 20*time.Second { // five on a quiet machine
		t.Errorf("the start took %v", took)
	}
	if used > 200<<20 {
		t.Errorf("%d MB of memory", used>>20)
	}
}
