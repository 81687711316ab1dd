package radius

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// radSecConfig serves RadSec with a certificate that is its own authority, for
// server and clients.
func radSecConfig(t testing.TB) (cfg Config, client *tls.Config, cert, key string) {
	t.Helper()
	cert, key, pool := testenv.SelfSigned(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg = Config{
		MACAuth: &MACAuth{AllowedMACs: []string{"*"}, DefaultVLAN: 5},
		RadSec:  &RadSec{Port: new(0), Certificate: Certificate{CertPath: cert, KeyPath: key}, ClientCAPath: cert},
	}
	return cfg, &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{pair}}, cert, key
}

func radSecAddr(s *Server) string { return s.Addrs()[2].String() }

func dialRadSec(t testing.TB, s *Server, cfg *tls.Config) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", radSecAddr(s), cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(testPatience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func readPacket(t testing.TB, r io.Reader) datagram {
	t.Helper()
	b := make([]byte, 4096)
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		t.Fatal(err)
	}
	n := int(b[2])<<8 | int(b[3])
	if _, err := io.ReadFull(r, b[4:n]); err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// radsecproxy takes a NAS's packets by UDP and brings them to us by TLS.
func TestRadSecProxy(t *testing.T) {
	path := testenv.Need(t, "radsecproxy", "apt-get install radsecproxy")
	cfg, _, cert, key := radSecConfig(t)
	cfg.Limits.MaxConcurrent = 2
	end := make(chan struct{})
	s := startServer(t, cfg, WithAccountingSink(func(ctx context.Context, r *Record) error {
		if r.Session.ID == "stuck" {
			<-end
		}
		return nil
	}))
	t.Cleanup(func() { close(end) })
	_, port := split(t, radSecAddr(s))
	local := testenv.FreePort(t)
	dir := testenv.Folder(t)
	file := filepath.Join(dir, "radsecproxy.conf")
	conf := fmt.Sprintf(`
ListenUDP 127.0.0.1:%d
LogDestination file:///%s/log
tls default {
	CACertificateFile %[3]s
	CertificateFile %[3]s
	CertificateKeyFile %[4]s
}
client nas {
	host 127.0.0.1
	type udp
	secret "%[5]s"
}
server localhost {
	host 127.0.0.1
	port %[6]d
	type tls
	secret radsec
	statusserver on
}
realm * {
	server localhost
	accountingserver localhost
}
`, local, dir, cert, key, testSecret, port)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	p := testenv.Start(t, testenv.Opts{Dir: dir}, path, "-f", "-c", file)
	addr := fmt.Sprintf("127.0.0.1:%d", local)
	testenv.WaitFor(t, testPatience, func() error {
		select {
		case <-p.Done():
			t.Fatalf("radsecproxy has ended: %s", p.Output())
		default:
		}
		if s.Stats().RadSecConnections == 0 {
			return fmt.Errorf("it is not connected: %s", p.Output())
		}
		return nil
	})
	login := func() {
		t.Helper()
		out := radclient(t, addr, "auth", testSecret, `User-Name = "aabbccddeeff"`, `User-Password = "aabbccddeeff"`, `Calling-Station-Id = "aabbccddeeff"`, "Message-Authenticator = 0x00")
		if !strings.Contains(out, "Received Access-Accept") || !strings.Contains(out, `Tunnel-Private-Group-Id:0 = "5"`) {
			t.Error(out)
		}
	}
	login()
	out := radclient(t, addr, "acct", testSecret, `User-Name = "aabbccddeeff"`, "Acct-Status-Type = Start", `Acct-Session-Id = "1"`)
	if !strings.Contains(out, "Received Accounting-Response") || s.Stats().Sessions != 1 {
		t.Errorf("%d sessions; %s", s.Stats().Sessions, out)
	}
	// Records that wait for the sink hold up no login on their connection.
	before := s.Stats().Requests
	for range 5 {
		dialServer(t, addr).send(acct(StatusStart, "stuck", avp(rfc2865.UserName_Type, "alice")).encode(t))
	}
	testenv.WaitFor(t, testPatience, func() error {
		if n := s.Stats().Requests - before; n < 5 {
			return fmt.Errorf("%d records have come", n)
		}
		return nil
	})
	login()
}

func TestRadSecClients(t *testing.T) {
	cfg, client, cert, key := radSecConfig(t)
	cfg.Clients = []Client{{IP: "127.0.0.1", CertificateNames: []string{"switch.example.com", "localhost"}}}
	cfg.RadSec.MaxConnections = 2
	cfg.RadSec.Certificate = Certificate{Auto: true}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	s := startServer(t, cfg, WithLogger(log.logger()), WithGetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }))
	conn := dialRadSec(t, s, client)
	for _, q := range []request{mab("aabbccddeeff"), acct(StatusStart, "x"), {code: layeh.CodeStatusServer, sign: true}} {
		q.secret = radSecSecret
		d := q.encode(t)
		conn.Write(d)
		checkReply(t, readPacket(t, conn), d, radSecSecret)
	}
	// Two packets in one record, and one in two.
	q := mab("aabbccddeeff")
	q.secret = radSecSecret
	one, two := q.encode(t), q.encode(t)
	conn.Write(append(append([]byte{}, one...), two[:30]...))
	checkReply(t, readPacket(t, conn), one, radSecSecret)
	conn.Write(two[30:])
	checkReply(t, readPacket(t, conn), two, radSecSecret)

	gone := func(what string, conn *tls.Conn) {
		t.Helper()
		var timeout net.Error
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: got %d octets and %v in place of the end", what, n, err)
		}
	}
	// Another secret, and no packet at all: the stream is of no use any more.
	conn.Write(mab("aabbccddeeff").encode(t))
	gone("wrong secret", conn)
	conn = dialRadSec(t, s, client)
	conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	gone("no packet", conn)
	// Without a certificate, or with one that is not the client's.
	bare := client.Clone()
	bare.Certificates = nil
	if conn, err := tls.Dial("tcp", radSecAddr(s), bare); err == nil {
		conn.SetDeadline(time.Now().Add(testPatience))
		gone("no certificate", conn)
		conn.Close()
	}
	foreign := client.Clone()
	otherCert, otherKey, _ := testenv.SelfSigned(t)
	otherPair, err := tls.LoadX509KeyPair(otherCert, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	foreign.Certificates = []tls.Certificate{otherPair}
	if conn, err := tls.Dial("tcp", radSecAddr(s), foreign); err == nil {
		conn.SetDeadline(time.Now().Add(testPatience))
		gone("a foreign certificate", conn)
		conn.Close()
	}
	testenv.WaitFor(t, testPatience, func() error {
		if n := s.Stats().RadSecConnections; n != 0 {
			return fmt.Errorf("%d connections are left", n)
		}
		return nil
	})
	dialRadSec(t, s, client)
	dialRadSec(t, s, client)
	if conn, err := tls.Dial("tcp", radSecAddr(s), client); err == nil {
		t.Error("there is a third connection")
		conn.Close()
	}
	if got := s.Stats().Dropped[radSecBusy.String()]; got != 1 {
		t.Errorf("tooManyRadSecConnections is %d", got)
	}
}

func TestRadSecCertificateName(t *testing.T) {
	cfg, client, _, _ := radSecConfig(t)
	cfg.Clients = []Client{{IP: "127.0.0.1", CertificateNames: []string{"switch.example.com"}}}
	s := startServer(t, cfg)
	if _, err := dialRadSec(t, s, client).Read(make([]byte, 1)); err == nil {
		t.Error("a certificate of another name is taken")
	}
	if got := s.Stats().Dropped[badRadSec.String()]; got != 1 {
		t.Errorf("badRadSec is %d", got)
	}
}

// Stop waits for answers that are under way, also of requests that wait for others.
func TestRadSecStop(t *testing.T) {
	s, client, _, proceed := startTurns(t)
	conn := dialRadSec(t, s, client)
	dialRadSec(t, s, client) // an idle one
	q := request{user: "alice", secret: radSecSecret, sign: true, random: make([]byte, 16)}
	d := q.encode(t)
	for range 3 {
		conn.Write(d)
	}
	waitForLogins(t, s, 3)
	stopped := make(chan error)
	go func() { stopped <- s.Stop(context.Background()) }()
	testenv.WaitFor(t, testPatience, func() error {
		if s.current() != nil {
			return fmt.Errorf("it does not stop")
		}
		return nil
	})
	close(proceed)
	for range 3 {
		checkReply(t, readPacket(t, conn), d, radSecSecret)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestRadSecConfigMistakes(t *testing.T) {
	for want, cfg := range map[string]Config{
		"radSec.certificate: missing":   {Secret: testSecret, RadSec: &RadSec{ClientCAPath: "x"}},
		`radSec.certificate: "auto"`:    {Secret: testSecret, RadSec: &RadSec{Certificate: Certificate{Auto: true}, ClientCAPath: "x"}},
		"radSec.clientCaPath: missing":  {Secret: testSecret, RadSec: &RadSec{Certificate: Certificate{CertPath: "x", KeyPath: "y"}}},
		"certPath and keyPath go":       {Secret: testSecret, RadSec: &RadSec{Certificate: Certificate{CertPath: "x"}, ClientCAPath: "x"}},
		"radSec.port: 70000 is not a p": {Secret: testSecret, RadSec: &RadSec{Port: new(70000), Certificate: Certificate{CertPath: "x", KeyPath: "y"}, ClientCAPath: "x"}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	s, err := New(Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: testSecret,
		RadSec: &RadSec{Port: new(0), Certificate: Certificate{CertPath: "/nowhere", KeyPath: "/nowhere"}, ClientCAPath: "/nowhere"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"Check": s.Check(), "Start": s.Start(context.Background())} {
		if err == nil || !strings.Contains(err.Error(), "radSec.certificate") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Whatever renews certificates need not tell anybody.
func TestRadSecCertificateReplaced(t *testing.T) {
	cfg, client, cert, key := radSecConfig(t)
	s := startServer(t, cfg)
	newCert, newKey, pool := testenv.SelfSigned(t, "new.test")
	client.RootCAs, client.ServerName = pool, "new.test"
	for dst, src := range map[string]string{cert: newCert, key: newKey} {
		if err := os.Rename(src, dst); err != nil {
			t.Fatal(err)
		}
	}
	testenv.WaitFor(t, time.Minute, func() error {
		conn, err := tls.Dial("tcp", radSecAddr(s), client)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// The host's own setting of TLS stands in for all files.
func TestRadSecWithTLSConfig(t *testing.T) {
	cfg, client, _, _ := radSecConfig(t)
	cfg.RadSec.Certificate, cfg.RadSec.ClientCAPath = Certificate{}, ""
	host := &tls.Config{Certificates: client.Certificates, ClientCAs: client.RootCAs}
	s := startServer(t, cfg, WithTLSConfig(host))
	conn := dialRadSec(t, s, client)
	q := mab("aabbccddeeff")
	q.secret = radSecSecret
	d := q.encode(t)
	if _, err := conn.Write(d); err != nil {
		t.Fatal(err)
	}
	if got := readPacket(t, conn).code(); got != layeh.CodeAccessAccept {
		t.Errorf("code %d", got)
	}
	stranger := client.Clone()
	stranger.Certificates = nil
	if c, err := tls.Dial("tcp", radSecAddr(s), stranger); err == nil {
		c.SetDeadline(time.Now().Add(testPatience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a client without certificate was let in")
		}
		c.Close()
	}
	if host.ClientAuth != tls.NoClientCert {
		t.Error("the host's setting was changed")
	}
}
