package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// testServer answers over UDP and TCP on a port of 127.0.0.1, until the test
// ends or stop is called.
type testServer struct {
	zones     *zones
	responder *responder
	transfers *transfers
	port      int
	stop      func()
}

func (s *testServer) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// testServerOf serves a configuration; a port of 0 is any.
func testServerOf(t testing.TB, store *storage.Store, cfg Config, port int) *testServer {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := &testServer{responder: &responder{authoritative: true, udpSize: 1232, idle: func() time.Duration { return 10 * time.Second }}}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	s.zones = &zones{responder: s.responder, store: store, log: log, now: time.Now, list: make(map[string]*servedZone)}
	s.transfers = newTransfers(s.zones)
	if err := s.zones.loadAll(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	var udp net.PacketConn
	var tcp net.Listener
	testenv.WaitFor(t, 5*time.Second, func() error {
		var err error
		if udp, err = net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			return err
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err != nil {
			udp.Close()
		}
		return err
	})
	s.port = udp.LocalAddr().(*net.UDPAddr).Port
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		sc, buf := s.responder.newScratch(), make([]byte, maxMessage)
		for {
			n, from, err := udp.(*net.UDPConn).ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if out := s.responder.respond(sc, nil, buf[:n], &asker{addr: from, transport: overUDP}); len(out) > 0 {
				udp.WriteTo(out, net.UDPAddrFromAddrPort(from))
			}
		}
	})
	work.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				s.serveTCP(ctx, conn)
			})
		}
	})
	s.transfers.start()
	s.stop = sync.OnceFunc(func() {
		cancel()
		udp.Close()
		tcp.Close()
		work.Wait()
		s.transfers.stop()
	})
	t.Cleanup(s.stop)
	return s
}

func (s *testServer) serveTCP(ctx context.Context, conn net.Conn) {
	sc := s.responder.newScratch()
	for {
		query, err := readFrame(conn)
		if err != nil {
			return
		}
		from := &asker{addr: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), transport: overTCP}
		if err := s.responder.exchange(ctx, sc, query, from, func(msg []byte) error {
			conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			return writeFrame(conn, msg)
		}); err != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFrame(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
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

func keyFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "key")
	text := fmt.Sprintf("key \"test.key\" { algorithm hmac-sha256; secret %q; };\n", testSecret)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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
