package dnsserver

import (
	"encoding/binary"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Datagrams that wait together are read by one call and answered by one.
func TestBatches(t *testing.T) {
	s := newServer(t, Config{})
	pc := listenPacket(t).(*net.UDPConn)
	defer pc.Close()
	w := &udpWorker{run: newRun(s), pc: pc, sc: s.newScratch(), stats: s.counters.shard(overUDP)}
	b, err := newUDPBatch(w, pc)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, "udp", pc.LocalAddr().String())
	for id := range uint16(batchSize + 3) {
		c.Write(makeQuery(id, "a.example"))
	}
	var sizes []int
	b.raw.Control(func(fd uintptr) {
		for {
			n, errno := b.receive(fd)
			if errno != 0 {
				if errno != syscall.EAGAIN {
					t.Error(errno)
				}
				return
			}
			sizes = append(sizes, n)
			b.answerBatch(fd, n)
		}
	})
	if len(sizes) != 2 || sizes[0] != batchSize || sizes[1] != 3 {
		t.Errorf("read in batches of %v", sizes)
	}
	buf := make([]byte, 512)
	for id := range uint16(batchSize + 3) {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, buf[:n], makeQuery(id, "a.example"))
	}
	// With nothing to read it goes back to the poller, and likewise after fewer
	// than it could have read.
	c.Write(makeQuery(1, "a.example"))
	b.raw.Control(func(fd uintptr) {
		if b.answerAll(fd) {
			t.Error("does not wait for more")
		}
	})
	if q := s.counters.snapshot().UDP; q.Queries != batchSize+4 || q.Responses != batchSize+4 {
		t.Errorf("%+v", q)
	}
}

// No answer goes to port 0, and none to a place that cannot be reached costs
// the others of its batch theirs.
func TestSourcesThatCannotBeAnswered(t *testing.T) {
	testenv.Goroutines(t)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_UDP)
	if err != nil {
		testenv.Lacks(t, "no raw sockets: %v", err)
	}
	defer syscall.Close(fd)
	s := start(t, Config{})
	_, port := hostPort(t, addr(t, s, "udp"))
	to, _ := net.LookupPort("udp", port)
	query := makeQuery(1, "a.example")
	forged := make([]byte, 8, 64) // source port 0, no checksum
	binary.BigEndian.PutUint16(forged[2:], uint16(to))
	binary.BigEndian.PutUint16(forged[4:], uint16(8+len(query)))
	forged = append(forged, query...)
	c := dial(t, "udp", addr(t, s, "udp"))
	for range 20 {
		if err := syscall.Sendto(fd, forged, 0, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, c, query)
	wantUDP(t, s, TransportStats{Queries: 21, Responses: 1, Dropped: 20})
}

// What comes between bind and the first read is answered from the right address
// too.
func TestDestinationFromTheBeginning(t *testing.T) {
	testenv.Loopback(t, "127.0.0.9")
	for _, host := range []string{"", "0.0.0.0"} {
		pcs, err := listenUDP(t.Context(), host, testenv.FreePort(t))
		if err != nil {
			t.Fatal(err)
		}
		_, port := hostPort(t, pcs[0].LocalAddr().String())
		c := dial(t, "udp", net.JoinHostPort("127.0.0.9", port))
		c.Write(makeQuery(1, "a.example"))
		s := newServer(t, Config{})
		for _, pc := range pcs {
			w := &udpWorker{run: newRun(s), pc: pc, sc: s.newScratch(), stats: s.counters.shard(overUDP)}
			b, err := newUDPBatch(w, pc.(*net.UDPConn))
			if err != nil {
				t.Fatal(err)
			}
			b.raw.Control(func(fd uintptr) { b.answerAll(fd) })
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 512)); err != nil {
			t.Errorf("%q: %v", host, err)
		}
		for _, pc := range pcs {
			pc.Close()
		}
	}
}

// A destination that the kernel refuses is skipped.
func TestSendSkipsWhatFails(t *testing.T) {
	s := newServer(t, Config{})
	pc := listenPacket(t).(*net.UDPConn)
	defer pc.Close()
	w := &udpWorker{run: newRun(s), pc: pc, sc: s.newScratch(), stats: s.counters.shard(overUDP)}
	b, err := newUDPBatch(w, pc)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, "udp", pc.LocalAddr().String())
	for id := range uint16(3) {
		c.Write(makeQuery(id, "a.example"))
	}
	b.raw.Control(func(fd uintptr) {
		n, errno := b.receive(fd)
		if n != 3 || errno != 0 {
			t.Fatalf("%d, %v", n, errno)
		}
		for i := range n {
			b.out[i].hdr.Name, b.out[i].hdr.Namelen = b.in[i].hdr.Name, b.in[i].hdr.Namelen
			b.outVec[i].Base = &b.queries[i][0]
			b.outVec[i].SetLen(int(b.in[i].n))
		}
		b.names[1].Port = 0
		if sent := b.send(fd, n); sent != 2 {
			t.Errorf("sent %d", sent)
		}
	})
}
