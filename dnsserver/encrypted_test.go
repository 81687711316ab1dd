package dnsserver

import (
	"crypto/tls"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// run runs a client and returns what it printed.
func runClient(t testing.TB, tool, pkg string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testenv.Need(t, tool, "apt-get install "+pkg), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func hostPort(t testing.TB, addr string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// BIND's and Knot's clients get answers over every transport.
func TestPeers(t *testing.T) {
	testenv.Goroutines(t)
	cert, _, ca := certificate(t)
	s := start(t, Config{DoT: &EncryptedPort{Port: new(int)}, DoQ: &EncryptedPort{Port: new(int)}}, cert)
	if n := len(s.Addrs()); n != 4 {
		t.Errorf("addresses %v", s.Addrs())
	}
	for _, test := range []struct {
		tool, kind string
		args       []string
	}{
		{"dig", "udp", []string{"+notcp"}},
		{"dig", "tcp", []string{"+tcp"}},
		{"kdig", "udp", nil},
		{"kdig", "tcp", []string{"+tcp", "+keepopen"}},
		{"kdig", "tls", []string{"+tls-ca=" + ca, "+tls-hostname=localhost", "+keepopen"}},
		{"kdig", "quic", []string{"+tls-ca=" + ca, "+tls-hostname=localhost", "+quic"}},
	} {
		host, port := hostPort(t, addr(t, s, test.kind))
		pkg := map[string]string{"dig": "bind9-dnsutils", "kdig": "knot-dnsutils"}[test.tool]
		// What stands before the first name holds for all.
		args := append([]string{"@" + host, "-p", port, "+norecurse", "+timeout=5"}, test.args...)
		args = append(args, "a.example")
		if strings.Contains(strings.Join(args, " "), "+keepopen") {
			args = append(args, "b.example")
		}
		if out := runClient(t, test.tool, pkg, args...); !strings.Contains(out, "status: REFUSED") {
			t.Errorf("%s over %s printed\n%s", test.tool, test.kind, out)
		}
	}
	wantUDP(t, s, TransportStats{Queries: 2, Responses: 2})
	waitUntil(t, "the answer over QUIC to be counted", func() bool { return s.counters.snapshot().QUIC.Responses == 1 })
	st := s.counters.snapshot()
	if st.UDP.Responses != 2 || st.TCP.Responses != 3 || st.TLS.Responses != 2 || st.QUIC.Responses != 1 {
		t.Errorf("%+v", st)
	}
	if st.TLS.Connections != 1 || st.QUIC.Connections != 1 {
		t.Errorf("%+v", st)
	}
}

func TestTLS(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := start(t, Config{DoT: &EncryptedPort{Port: new(int)}, IdleTimeout: 500 * time.Millisecond}, cert)
	to := addr(t, s, "tls")
	for _, protocols := range [][]string{nil, {"dot"}, {"h2", "dot"}} {
		c := client.Clone()
		c.NextProtos = protocols
		conn, err := tls.Dial("tcp", to, c)
		if err != nil {
			t.Fatalf("%v: %v", protocols, err)
		}
		ask(t, conn, makeQuery(1, "a.example"))
		if got := conn.ConnectionState().NegotiatedProtocol; protocols != nil && got != "dot" {
			t.Errorf("%v: got %q", protocols, got)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("an idle connection: %v", err)
		}
		conn.Close()
	}
	other := client.Clone()
	other.NextProtos = []string{"h2"}
	if c, err := tls.Dial("tcp", to, other); err == nil {
		c.Close()
		t.Error("a client of another protocol was let in")
	}
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", to, old); err == nil {
		c.Close()
		t.Error("TLS 1.1 was spoken")
	}
	plain := dial(t, "tcp", to)
	plain.Write(framed(makeQuery(1, "a.example")))
	plain.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := readFrame(plain); err == nil || isTimeout(err) {
		t.Errorf("a client without TLS: %v", err)
	}
	silent := dial(t, "tcp", to)
	began := time.Now()
	wantClosed(t, silent, 15*time.Second)
	if took := time.Since(began); took < handshakeTime/2 {
		t.Errorf("a handshake was waited for %v", took)
	}
	waitUntil(t, "the books", func() bool {
		st := s.counters.snapshot().TLS
		return st.OpenConnections == 0 && st.Refused == 4 && st.Connections == 3
	})
}

// Stop ends connections that are idle at once, after what they have asked for.
func TestStopEndsIdleConnections(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := start(t, Config{DoT: &EncryptedPort{Port: new(int)}}, cert)
	plain := dial(t, "tcp", addr(t, s, "tcp"))
	ask(t, plain, makeQuery(1, "a.example"))
	secure, err := tls.Dial("tcp", addr(t, s, "tls"), client)
	if err != nil {
		t.Fatal(err)
	}
	defer secure.Close()
	ask(t, secure, makeQuery(1, "a.example"))
	silent := dial(t, "tcp", addr(t, s, "tls")) // in its handshake
	waitUntil(t, "three connections", func() bool { return s.limits.open.Load() == 3 })
	began := time.Now()
	stop(t, s)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
	wantClosed(t, plain, time.Second)
	wantClosed(t, silent, time.Second)
	secure.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := secure.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("TLS: %v", err)
	}
}
