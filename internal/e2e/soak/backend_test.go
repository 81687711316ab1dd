package soak

import (
	"bufio"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// backend is a back end that is always well: a web server with and without TLS, and
// one that echoes, over TCP and UDP.
type backend struct {
	name              string
	web, secure, echo int // ports
	roots             *x509.CertPool
}

// passed is the name for which the back end does TLS itself.
const passed = "passed.test"

func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	b := &backend{name: name}
	server := httptest.NewServer(b)
	b.web = server.Listener.Addr().(*net.TCPAddr).Port
	certPath, keyPath, roots := testenv.SelfSigned(t, passed)
	cert, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(b)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	secure.StartTLS()
	b.secure, b.roots = secure.Listener.Addr().(*net.TCPAddr).Port, roots
	b.echo = testenv.FreePort(t)
	ln, err := net.Listen("tcp", address(b.echo))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", address(b.echo))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		datagram := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(datagram)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(datagram[:n], from)
		}
	}()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		pc.Close()
		for _, s := range []*httptest.Server{server, secure} {
			s.CloseClientConnections()
			testenv.Await(t, "a web server", s.Close)
		}
	})
	return b
}

func target(port int) proxy.Target { return proxy.Target{Host: "127.0.0.1", Port: port} }

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ws":
		b.webSocket(w, r)
	case "/upload":
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err == nil {
			fmt.Fprintf(w, "%x", sum.Sum(nil))
		}
	case "/big":
		_, _ = io.Copy(w, io.LimitReader(new(pattern), bigSize))
	default:
		_, _ = io.WriteString(w, b.name)
	}
}

// bigSize is how much /big is.
const bigSize = 1 << 20

// pattern is bytes of which each place has its own.
type pattern struct{ at uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.byteAt(p.at)
		p.at++
	}
	return len(b), nil
}

func (*pattern) byteAt(at uint64) byte { return byte((at * 0x9e3779b97f4a7c15) >> 56) }

// check reads n bytes and compares them with what comes next in the pattern.
func (p *pattern) check(r io.Reader, n int) error {
	b := make([]byte, n)
	if got, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("after %d bytes: %w", p.at+uint64(got), err)
	}
	for _, c := range b {
		if c != p.byteAt(p.at) {
			return fmt.Errorf("byte %d is wrong", p.at)
		}
		p.at++
	}
	return nil
}

// webSocket echoes frames (RFC 6455).
func (b *backend) webSocket(w http.ResponseWriter, r *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
	for rw.Flush() == nil {
		text, err := readFrame(rw.Reader)
		if err != nil || writeFrame(rw, text, false) != nil {
			return
		}
	}
}

// accept is the proof of a server that it has read the key.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// writeFrame writes a text of less than 64 KiB, masked as by a client or not.
func writeFrame(w io.Writer, text []byte, masked bool) error {
	head := []byte{0x81, 126, 0, 0}
	binary.BigEndian.PutUint16(head[2:], uint16(len(text)))
	if masked {
		key := []byte{1, 2, 3, 4}
		head[1] |= 0x80
		head = append(head, key...)
		text = append([]byte(nil), text...)
		for i := range text {
			text[i] ^= key[i%4]
		}
	}
	_, err := w.Write(append(head, text...))
	return err
}

// readFrame reads what writeFrame has written.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if head[0] != 0x81 || head[1]&0x7f != 126 {
		return nil, fmt.Errorf("the frame begins with %x", head)
	}
	key := make([]byte, 4)
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, key); err != nil {
			return nil, err
		}
	}
	text := make([]byte, binary.BigEndian.Uint16(head[2:]))
	_, err := io.ReadFull(r, text)
	for i := range text {
		text[i] ^= key[i%4]
	}
	return text, err
}

// dialWebSocket makes a WebSocket of a connection.
func dialWebSocket(c net.Conn, host string) (*bufio.Reader, error) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	if _, err := fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", host, key); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, errors.New(resp.Status)
	}
	if !strings.EqualFold(resp.Header.Get("Sec-WebSocket-Accept"), accept(key)) {
		return nil, errors.New("the accepting key is wrong")
	}
	return r, nil
}
