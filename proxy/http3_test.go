package proxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/dcrouter/dcrouter/internal/quietudp"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// quicDial returns a dialler of QUIC to addr, whatever is asked for. Each
// connection has a socket of its own, that ends with the test.
func quicDial(t testing.TB, addr string) func(context.Context, string, *tls.Config, *quic.Config) (*quic.Conn, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, _ string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		tr := &quic.Transport{Conn: quietudp.Conn(pc)}
		t.Cleanup(func() {
			tr.Close()
			pc.Close()
		})
		return tr.Dial(ctx, to, tlsConf, conf)
	}
}

// client3 returns an HTTP/3 client whose connections all go to addr.
func client3(t testing.TB, addr string, pool *x509.CertPool) *http.Client {
	t.Helper()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Dial: quicDial(t, addr)}
	t.Cleanup(func() { tr.Close() })
	return &http.Client{Transport: tr, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// with3 turns HTTP/3 on.
func with3(routes ...Route) Config {
	return Config{HTTP3: HTTP3{Enabled: true}, Routes: routes}
}

func TestHTTP3(t *testing.T) {
	files, pool := tlsFiles(t, "a.test", "b.test", "c.test", "d.test", "down.test", "*.w.test")
	wild, wildPool := tlsFiles(t, "*.w.test")
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Alt-Svc", `h3=":1"`) // its own
		fmt.Fprintf(w, "%s %s %s %q %d %s te=%q", r.Proto, r.Method, r.Host, body, r.ContentLength, r.Header.Get("X-Forwarded-Proto"), r.TransferEncoding)
	})
	removes := tlsRoute("removes", files, forwardTo(target), "c.test")
	removes.Action.Headers.Response.Remove = []string{"Alt-Svc"}
	replaces := tlsRoute("replaces", files, forwardTo(target), "d.test")
	replaces.Action.Headers.Response.Set = map[string]string{"Alt-Svc": `h3=":443"`}
	p := start(t, with3(
		tlsRoute("a", files, forwardTo(target), "a.test"),
		tlsRoute("b", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, _ := ConnInfoFrom(r.Context())
			fmt.Fprintf(w, "%s %s %s %s %v %v %v %d", r.Proto, info.ALPN, info.ServerName, info.Route, info.TLS != nil && info.TLS.HandshakeComplete, r.TLS != nil, info.Client.Addr(), info.Local.Port())
		})}, "b.test"),
		tlsRoute("wild", wild, Action{Handler: says("wild")}, "*.w.test"),
		removes, replaces, tlsRoute("down", files, forwardTo(Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}), "down.test"),
		handlerRoute("plain", Match{Domains: []string{"plain.test"}}),
	))
	port := targetOf(p.Addr(0)).Port
	if udp := targetOf(p.PacketAddr(0)).Port; udp != port {
		t.Fatalf("TCP port %d, UDP port %d", port, udp)
	}
	c := client3(t, addr(t, p, 0), pool)
	if status, body := get(t, c, "https://a.test/x"); status != 200 || body != `HTTP/1.1 GET a.test "" 0 https te=[]` {
		t.Errorf("forwarded: %d %s", status, body)
	}
	resp, err := c.Post("https://a.test/x", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != `HTTP/1.1 POST a.test "hello" 5 https te=[]` || resp.ProtoMajor != 3 || resp.Header.Get("Alt-Svc") != fmt.Sprintf(`h3=":%d"; ma=86400`, port) {
		t.Errorf("%s, %s, %v", resp.Proto, body, resp.Header)
	}
	if status, body := get(t, c, "https://b.test/"); status != 200 || body != fmt.Sprintf("HTTP/3.0 h3 b.test b true true 127.0.0.1 %d", port) {
		t.Errorf("handler: %d %s", status, body)
	}
	if status, body := get(t, client3(t, addr(t, p, 0), wildPool), "https://x.w.test/"); status != 200 || body != "wild" {
		t.Errorf("wildcard: %d %s", status, body)
	}
	if status, _ := get(t, c, "https://b.test/"); status != 200 {
		t.Error(status)
	}
	if s := p.Stats(); s.Connections != 3 || s.ActiveConnections != 3 || s.Requests != 5 || s.Routes[1].Requests != 2 || s.Routes[0].BytesIn != 5 {
		t.Errorf("counters: %+v", s)
	}
	// Others hear of it, where the route does not say otherwise.
	for _, host := range []string{"a.test", "b.test", "c.test", "d.test", "down.test"} {
		h2, err := client(t, addr(t, p, 0), pool).Get("https://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		h2.Body.Close()
		conn, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: host, RootCAs: pool, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		h1, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, resp := range []*http.Response{h1, h2} {
			want := map[string][]string{"c.test": nil, "d.test": {`h3=":443"`}}[host]
			if host[0] < 'c' || host == "down.test" {
				want = []string{fmt.Sprintf(`h3=":%d"; ma=86400`, port)}
			}
			if got := resp.Header["Alt-Svc"]; !slices.Equal(got, want) {
				t.Errorf("%s over %s: Alt-Svc %q, want %q", host, resp.Proto, got, want)
			}
		}
	}
	// Without TLS it would be of no use, and without HTTP/3 it would be wrong.
	resp, err = client(t, addr(t, p, 0), nil).Get("http://plain.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header["Alt-Svc"]; got != nil {
		t.Errorf("without TLS: Alt-Svc %q", got)
	}
	off := start(t, Config{Routes: []Route{tlsRoute("a", files, forwardTo(target), "a.test")}})
	resp, err = client(t, addr(t, off, 0), pool).Get("https://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Alt-Svc"); got != `h3=":1"` {
		t.Errorf("HTTP/3 is off: Alt-Svc %q, want the target's", got)
	}
	if a := off.PacketAddr(0); a != nil {
		t.Errorf("HTTP/3 is off, and something listens at %v", a)
	}
}

// frame3 is a frame of HTTP/3 (RFC 9114 section 7.1).
func frame3(kind int, payload []byte) []byte {
	b := append(quicvarint.Append(nil, uint64(kind)), quicvarint.Append(nil, uint64(len(payload)))...)
	return append(b, payload...)
}

// fields3 is a field section of literals alone (RFC 9204 section 4.5.6); it
// takes names and values by turns, whatever they are.
func fields3(fields ...string) []byte {
	integer := func(b []byte, first byte, bits, n int) []byte {
		limit := 1<<bits - 1
		if n < limit {
			return append(b, first|byte(n))
		}
		b = append(b, first|byte(limit))
		for n -= limit; n >= 128; n >>= 7 {
			b = append(b, byte(n)|128)
		}
		return append(b, byte(n))
	}
	b := []byte{0, 0}
	for i := 0; i < len(fields); i += 2 {
		b = append(integer(b, 0x20, 3, len(fields[i])), fields[i]...)
		b = append(integer(b, 0, 7, len(fields[i+1])), fields[i+1]...)
	}
	return b
}

// headersFrame3 is a HEADERS frame.
func headersFrame3(fields ...string) []byte { return frame3(1, fields3(fields...)) }

// reply3 reads a response to its end.
func reply3(r io.Reader) (fields map[string]string, body string, err error) {
	fields = make(map[string]string)
	all, err := io.ReadAll(r)
	for len(all) > 0 {
		kind, n, err2 := quicvarint.Parse(all)
		if err2 != nil {
			return fields, body, cmp.Or(err, err2)
		}
		length, m, err2 := quicvarint.Parse(all[n:])
		if err2 != nil || uint64(len(all)-n-m) < length {
			return fields, body, cmp.Or(err, err2, io.ErrUnexpectedEOF)
		}
		payload := all[n+m:][:length]
		all = all[n+m+int(length):]
		switch kind {
		case 0:
			body += string(payload)
		case 1:
			for next := qpack.NewDecoder().Decode(payload); ; {
				f, err := next()
				if err != nil {
					break
				}
				fields[f.Name] = f.Value
			}
		}
	}
	return fields, body, err
}
