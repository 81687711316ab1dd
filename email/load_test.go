package email

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// slowClient sends a byte at a time.
type slowClient struct {
	net.Conn
	left string
}

// Who is idle or slow does not keep others from being served.
func TestIdleAndSlowConnections(t *testing.T) {
	idle, slow := 2000, 200
	if testing.Short() {
		idle, slow = 200, 20
	}
	m := newMailbox(nil)
	s := start(t, Config{Routes: []Route{{Name: "here", Action: Action{Type: Deliver}}}}, WithMailbox(m.take), quiet())
	for range idle {
		connect(t, s)
	}
	var clients []*slowClient
	for i := range slow {
		conn := connect(t, s)
		before, left := "", "EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\n"
		if i%2 == 1 { // within a body
			before = "EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
			left = hi + "\r\n.\r\n"
		}
		if _, err := io.WriteString(conn, before); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, &slowClient{conn, left})
	}
	waitFor(t, func() bool { return s.Stats().Connections.Open == int64(idle+slow) })

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	worst := time.Duration(0)
	for range 4 {
		for _, c := range clients {
			if _, err := io.WriteString(c, c.left[:1]); err != nil {
				t.Fatal(err)
			}
			c.left = c.left[1:]
		}
		for range 5 {
			begin := time.Now()
			c := s.dial().hello()
			if reply := c.send("someone@example.net", "other@example.com", hi); !strings.HasPrefix(reply, "250 ") {
				t.Fatal(reply)
			}
			c.say("QUIT", "221")
			worst = max(worst, time.Since(begin))
		}
		<-tick.C
	}
	t.Logf("the others took %v at most", worst)
	if worst > 10*time.Second {
		t.Errorf("others had to wait for %v", worst)
	}

	// Nobody was cut off, and what came slowly is complete.
	before := len(m.all())
	for _, c := range clients {
		if _, err := io.WriteString(c, c.left); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return len(m.all()) == before+slow/2 })
	for _, got := range m.all()[before:] {
		if !strings.HasSuffix(got.content, hi+"\r\n") {
			t.Errorf("a slow message is not as it was sent: %q", got.content)
		}
	}
	if open := s.Stats().Connections.Open; open != int64(idle+slow) {
		t.Errorf("%d connections are left, want %d", open, idle+slow)
	}
}

// quiet keeps the log of a test short.
func quiet() Option { return WithLogger(nil) }

// connect opens a connection and reads no more than the greeting.
func connect(t testing.TB, s *server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	var greeting [64]byte
	if n, err := conn.Read(greeting[:]); err != nil || !bytes.HasPrefix(greeting[:n], []byte("220 ")) {
		t.Fatalf("%q, %v", greeting[:n], err)
	}
	return conn
}

// inUse is the memory of the heap, with garbage, and of goroutines, in bytes.
func inUse() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	sum := int64(0)
	for _, v := range s {
		sum += int64(v.Value.Uint64())
	}
	return sum
}

// resident is what the process holds in memory, in bytes, or 0 if the system does
// not tell.
func resident() int64 {
	data, _ := os.ReadFile("/proc/self/statm")
	var size, pages int64
	fmt.Sscan(string(data), &size, &pages)
	return pages * int64(os.Getpagesize())
}

// A connection that waits for its client, between commands, costs little. The
// client's end counts, too, and the test's.
func TestMemoryOfIdleConnections(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector needs memory itself")
	}
	const connections = 2000
	const most = 28 << 10
	s := start(t, Config{Routes: []Route{{Name: "all", Action: Action{Type: Process}}}, Queue: Queue{Paused: true}}, quiet())
	connect(t, s)
	s.dial().hello().send("a@example.net", "b@example.com", hi)
	runtime.GC()
	before := inUse()
	for range connections {
		conn := connect(t, s)
		io.WriteString(conn, "EHLO client.example.net\r\n")
		var reply [512]byte
		if n, err := conn.Read(reply[:]); err != nil || !bytes.HasPrefix(reply[:n], []byte("250-")) {
			t.Fatalf("%q, %v", reply[:n], err)
		}
	}
	runtime.GC()
	each := (inUse() - before) / connections
	t.Logf("%d bytes a connection", each)
	if each > most {
		t.Errorf("%d bytes a connection, want %d at most", each, most)
	}
}

// A large message costs no more memory than a small one, but for a bit, whether
// it is scanned or not.
func TestMemoryOfLargeMessages(t *testing.T) {
	if testenv.Race {
		t.Skip("the race detector needs memory itself")
	}
	const most = 4 << 20
	for _, test := range []struct {
		name     string
		scanners []Scanner
	}{
		{"unscanned", nil},
		{"scanned", []Scanner{{Type: SpamScanner}, {Type: VirusScanner}, {Type: AttachmentScanner, BlockedExtensions: []string{".exe"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, Config{
				DataPath: t.TempDir(), Scanners: test.scanners, Queue: Queue{Paused: true},
				Routes: []Route{{Name: "all", Action: Action{Type: Process, Process: &ProcessAction{Scan: test.scanners != nil}}}},
			}, quiet())
			c := s.dial().hello()
			send := func(size int) {
				c.SetDeadline(time.Now().Add(5 * time.Minute))
				c.say("MAIL FROM:<a@example.net>", "250")
				c.say("RCPT TO:<b@example.com>", "250")
				c.say("DATA", "354")
				writeLarge(t, c, size)
				c.want("the message", "250")
			}
			send(1 << 10)
			debug.FreeOSMemory()
			before, beforeRSS := inUse(), resident()
			stop, peaks := make(chan struct{}), make(chan [2]int64)
			go func() {
				var peak [2]int64
				for ticks := time.NewTicker(2 * time.Millisecond); ; {
					peak[0], peak[1] = max(peak[0], inUse()), max(peak[1], resident())
					select {
					case <-ticks.C:
					case <-stop:
						ticks.Stop()
						peaks <- peak
						return
					}
				}
			}()
			send(49 << 20)
			close(stop)
			peak := <-peaks
			t.Logf("%d KiB more, %d KiB resident", (peak[0]-before)>>10, (peak[1]-beforeRSS)>>10)
			if more := peak[0] - before; more > most {
				t.Errorf("%d bytes, want %d at most", more, most)
			}
			waitFor(t, func() bool { return s.Stats().Spool.Messages == 2 })
		})
	}
}

// writeLarge sends a message with an attachment of about that size.
func writeLarge(t *testing.T, w io.Writer, size int) {
	t.Helper()
	b := bufio.NewWriterSize(w, 64<<10)
	io.WriteString(b, strings.TrimSuffix(hi, "\r\n\r\nHello.")+"\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"+
		"--x\r\nContent-Type: text/plain\r\n\r\nHello.\r\n"+
		"--x\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=data.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	const line = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3\r\n"
	for range size / len(line) {
		io.WriteString(b, line)
	}
	io.WriteString(b, "--x--\r\n.\r\n")
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkReceive is one client that sends small messages on one connection,
// with the spool on disk.
func BenchmarkReceive(b *testing.B) {
	s := start(b, Config{DataPath: b.TempDir(), Routes: []Route{{Name: "all", Action: Action{Type: Process}}}, Queue: Queue{Paused: true}}, quiet())
	content := hi + strings.Repeat("\r\n"+strings.Repeat("0123456789", 7), 56)
	messages := 0
	var c *client
	b.ReportAllocs()
	for b.Loop() {
		if messages%900 == 0 {
			c = s.dial().hello()
		}
		messages++
		if reply := c.send("a@example.net", "b@example.com", content); !strings.HasPrefix(reply, "250 ") {
			b.Fatal(reply)
		}
	}
}
