package radius

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

const (
	testSecret = "a secret of the tests"
	// testPatience is for what other programs do.
	testPatience = 20 * time.Second
)

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// startServer starts a Server on free ports of 127.0.0.1 that ends with the
// test. Without clients and secret everybody shares testSecret.
func startServer(t testing.TB, cfg Config, opts ...Option) *Server {
	t.Helper()
	testenv.Goroutines(t)
	if cfg.ListenHost == "" {
		cfg.ListenHost = "127.0.0.1"
	}
	if cfg.Port == nil {
		cfg.Port = new(0)
	}
	if cfg.AccountingPort == nil {
		cfg.AccountingPort = new(0)
	}
	if cfg.Secret == "" {
		cfg.Secret = testSecret
	}
	s, err := New(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped := s.current() == nil // by the test, which has seen what came of it
		if err := s.Stop(ctx); err != nil && !stopped {
			t.Error(err)
		}
	})
	return s
}

func openStore(t testing.TB, b storage.Backend) *storage.Store {
	t.Helper()
	store, err := storage.Open(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func authAddr(s *Server) string { return s.Addrs()[0].String() }
func acctAddr(s *Server) string { return s.Addrs()[1].String() }

// radclient sends one request and returns what it printed. kind is "auth",
// "acct" or "status".
func radclient(t testing.TB, addr, kind, secret string, attrs ...string) string {
	t.Helper()
	path := testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	cmd := exec.Command(path, "-x", "-t", "2", "-r", "2", addr, kind, secret)
	cmd.Stdin = strings.NewReader(strings.Join(attrs, "\n") + "\n")
	out, _ := cmd.CombinedOutput() // an error is a Reject too
	return string(out)
}

// request is what a NAS sends.
type request struct {
	code   layeh.Code
	secret string
	attrs  []layeh.AVP
	sign   bool
	user   string // User-Name and Calling-Station-Id
	pap    *string
	random []byte // authenticator
}

func avp(t layeh.Type, value string) layeh.AVP { return layeh.AVP{Type: t, Attribute: []byte(value)} }

// encode makes the packet.
func (q request) encode(t testing.TB) datagram {
	t.Helper()
	if q.secret == "" {
		q.secret = testSecret
	}
	if q.code == 0 {
		q.code = layeh.CodeAccessRequest
	}
	authenticator := make([]byte, 16)
	hasRandom := q.code == layeh.CodeAccessRequest || q.code == layeh.CodeStatusServer
	if hasRandom {
		rand.Read(authenticator)
	}
	if q.random != nil {
		authenticator = q.random
	}
	var id [1]byte
	rand.Read(id[:])
	p := newBuilder(nil, q.code, id[0], q.sign)
	if q.user != "" {
		p.add(rfc2865.UserName_Type, []byte(q.user))
		p.add(rfc2865.CallingStationID_Type, []byte(q.user))
	}
	if q.pap != nil {
		hidden, err := layeh.NewUserPassword([]byte(*q.pap), []byte(q.secret), authenticator)
		if err != nil {
			t.Fatal(err)
		}
		p.add(rfc2865.UserPassword_Type, hidden)
	}
	for _, a := range q.attrs {
		p.add(a.Type, a.Attribute)
	}
	d, err := p.sign([]byte(q.secret), authenticator, hasRandom)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// mab is a signed request for a device by PAP.
func mab(mac string) request { return request{user: mac, pap: &mac, sign: true} }

// nasSocket is a client's socket.
type nasSocket struct {
	t    testing.TB
	conn net.Conn
}

func dialServer(t testing.TB, addr string) *nasSocket {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &nasSocket{t, conn}
}

func (n *nasSocket) send(d []byte) {
	n.t.Helper()
	if _, err := n.conn.Write(d); err != nil {
		n.t.Fatal(err)
	}
}

// receive waits for an answer, which is nil if there is none.
func (n *nasSocket) receive(wait time.Duration) datagram {
	n.t.Helper()
	n.conn.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 4096)
	size, err := n.conn.Read(b)
	if err != nil {
		return nil
	}
	return datagram(b[:size])
}

// ask sends a packet and returns the answer, which must be authentic and, to an
// Access-Request, begin with a right Message-Authenticator.
func ask(t testing.TB, addr string, d datagram, secret string) *layeh.Packet {
	t.Helper()
	n := dialServer(t, addr)
	n.send(d)
	return parseReply(t, n, d, secret)
}

// dialFrom is dialServer from another address of this machine.
func dialFrom(t testing.TB, local, addr string) *nasSocket {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}
	conn, err := d.Dial("udp", addr)
	if err != nil {
		testenv.Lacks(t, "%s cannot be used here: %v", local, err)
	}
	t.Cleanup(func() { conn.Close() })
	return &nasSocket{t, conn}
}

func parseReply(t testing.TB, n *nasSocket, d datagram, secret string) *layeh.Packet {
	t.Helper()
	reply := n.receive(5 * time.Second)
	if reply == nil {
		t.Fatal("no answer")
	}
	checkReply(t, reply, d, secret)
	p, err := layeh.Parse(reply, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func checkReply(t testing.TB, reply, d datagram, secret string) {
	t.Helper()
	signed := d.code() == layeh.CodeAccessRequest
	if err := verifyReply(reply, d, []byte(secret), signed); err != nil {
		t.Fatal(err)
	}
	if signed && reply[headerLength] != 80 {
		t.Errorf("the answer begins with attribute %d, want Message-Authenticator", reply[headerLength])
	}
}

// silence checks that a packet gets no answer, and that it is counted so. It
// waits for the count, not for the time.
func silence(t testing.TB, s *Server, n *nasSocket, b []byte, why reason) {
	t.Helper()
	before := s.Stats().Dropped[why.String()]
	n.send(b)
	testenv.WaitFor(t, 5*time.Second, func() error {
		if got := s.Stats().Dropped[why.String()]; got != before+1 {
			return fmt.Errorf("%s is %d, want %d; all: %v", why, got, before+1, s.Stats().Dropped)
		}
		return nil
	})
	if d := n.receive(20 * time.Millisecond); d != nil {
		t.Errorf("%s: got an answer, %v", why, d.code())
	}
}

// outcome is an answer in short: its code, and the VLAN.
func outcome(p *layeh.Packet) string {
	text := p.Code.String()
	if _, vlan := rfc2868.TunnelPrivateGroupID_GetString(p); vlan != "" {
		text += " " + vlan
	}
	return text
}

func loopbackAddr() netip.Addr { return netip.MustParseAddr("127.0.0.1") }

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// listenUDP is a socket of another program's.
func listenUDP(t testing.TB) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}
