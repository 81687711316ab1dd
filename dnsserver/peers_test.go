package dnsserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// testServer is a server on a port of 127.0.0.1, and what is in it.
type testServer struct {
	server    *Server
	zones     *zones
	responder *responder
	transfers *transfers
	port      int
	stop      func()
}

func (s *testServer) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// testServerOf serves a configuration; a port of 0 is any. It has no patience
// with primaries.
func testServerOf(t testing.TB, store *storage.Store, cfg Config, port int, opts ...Option) *testServer {
	t.Helper()
	cfg.Port = &port
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	server := newServer(t, cfg, append(opts, WithStorage(store), WithLogger(log))...)
	s := &testServer{server: server, zones: &server.contents, responder: &server.responder, transfers: server.transfers}
	s.transfers.minRefresh, s.transfers.firstRetry = time.Second, 50*time.Millisecond
	mustStart(t, server)
	_, text, _ := net.SplitHostPort(strings.TrimSuffix(server.Addrs()[0], "/udp"))
	fmt.Sscan(text, &s.port)
	s.stop = func() { stop(t, server) }
	return s
}

const (
	testSecret  = "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgb2N0ZXRzISE="
	otherSecret = "YW5vdGhlciBzZWNyZXQgb2YgMzIgb2N0ZXRzLCBvaw=="
)

func testKeys() []TSIGKey {
	return []TSIGKey{
		{Name: "test.key", Secret: testSecret},
		{Name: "other.key", Secret: otherSecret, Algorithm: "hmac-sha512"},
	}
}

// tool runs a program and returns what it prints.
func tool(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out)
}

func (s *testServer) dig(t testing.TB, args ...string) string {
	t.Helper()
	dig := testenv.Need(t, "dig", "apt-get install dnsutils")
	return tool(t, "", dig, append([]string{"@127.0.0.1", "-p", fmt.Sprint(s.port), "+tries=1", "+time=5"}, args...)...)
}

// dump returns the contents of a zone as lines.
func (s *testServer) dump(name string) []string {
	wire, _ := wireName(name)
	z := s.zones.get(wire)
	if z == nil || z.ref.current.Load() == nil {
		return nil
	}
	var list []string
	for r := range z.ref.current.Load().records() {
		list = append(list, r.text())
	}
	return list
}

func (s *testServer) serial(name string) uint32 {
	wire, _ := wireName(name)
	if z := s.zones.get(wire); z != nil {
		if v := z.ref.current.Load(); v != nil {
			return v.serial()
		}
	}
	return 0
}

// axfr fetches a zone by miekg's client.
func axfr(t testing.TB, addr, zone, key, secret string) ([]dns.RR, error) {
	t.Helper()
	m := new(dns.Msg).SetAxfr(zone)
	tr := new(dns.Transfer)
	if key != "" {
		tr.TsigSecret = map[string]string{key: secret}
		m.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
	}
	ch, err := tr.In(m, addr)
	if err != nil {
		return nil, err
	}
	var list []dns.RR
	for e := range ch {
		if e.Error != nil {
			return nil, e.Error
		}
		list = append(list, e.RR...)
	}
	return list, nil
}
