package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// exchange3 makes one request on a connection of its own, with the fields just
// as they are, and returns status and body.
func exchange3(t testing.TB, addr string, cfg *tls.Config, fields ...string) (string, string, error) {
	t.Helper()
	c, err := quicOpen(t, addr, cfg)
	if err != nil {
		return "", "", err
	}
	defer c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	return ask3(t, c, fields...)
}

// ask3 does the same on a connection.
func ask3(t testing.TB, c *quic.Conn, fields ...string) (string, string, error) {
	t.Helper()
	str, err := c.OpenStreamSync(t.Context())
	if err != nil {
		return "", "", err
	}
	str.SetDeadline(time.Now().Add(10 * time.Second))
	str.Write(headersFrame3(fields...))
	str.Close()
	got, body, err := reply3(str)
	return got[":status"], body, err
}

// A name goes by one set of rules in QUIC's server name and in :authority,
// however it is written, and it is the same as over TCP.
func TestHTTP3Names(t *testing.T) {
	open, _ := tlsFiles(t, "open.test", "same.test", "closed.test")
	other, _ := tlsFiles(t, "other.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	pass := Route{Name: "pass", Match: Match{Ports: Ports(0), Domains: []string{"pass.test"}},
		Action: Action{Type: Forward, Targets: []Target{{Host: "127.0.0.1", Port: 1}}, TLS: &TLS{Mode: Passthrough}}}
	stream := tlsRoute("stream", open, forwardTo(tlsEcho(t)), "stream.test")
	stream.Match.Protocol = "tcp"
	routes := []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test", "*.open.test"),
		tlsRoute("same", open, Action{Handler: says("same")}, "same.test"),
		tlsRoute("closed", &closed, Action{Handler: says("closed")}, "closed.test", "*.closed.test"),
		tlsRoute("other", other, Action{Handler: says("other")}, "other.test"),
		handlerRoute("plain", Match{Domains: []string{"plain.test"}}),
		pass, stream,
	}
	p := start(t, with3(routes...))
	fallback := start(t, with3(append(slices.Clone(routes), tlsRoute("any", open, Action{Handler: says("any")}))...))
	misdirected := 0
	for _, test := range []struct {
		p              *Proxy
		sni, authority string
		status         string // "" for the alert unrecognized_name
		body           string
	}{
		{p, "open.test", "open.test", "200", "open"},
		{p, "OPEN.Test", "open.test", "200", "open"},
		{p, "open.test", "OPEN.test.:443", "200", "open"},
		{p, "x.open.test", "open.test", "200", "open"},
		{p, "open.test", "x.open.test", "200", "open"},
		{p, "open.test", "same.test", "200", "same"},
		{p, "open.test", "closed.test", "421", ""},
		{p, "open.test", "CLOSED.TEST", "421", ""},
		{p, "open.test", "closed.test.", "421", ""},
		{p, "open.test", "closed.test:8443", "421", ""},
		{p, "open.test", "x.closed.test", "421", ""},
		{p, "open.test", "other.test", "421", ""},
		{p, "open.test", "pass.test", "421", ""},
		{p, "open.test", "plain.test", "404", ""},
		{p, "open.test", "unknown.test", "404", ""},
		{p, "other.test", "open.test", "421", ""},
		{p, "open.test", "open.test:x", "400", ""},
		{p, "open.test", "open test", "400", ""},
		{p, "unknown.test", "open.test", "", ""},
		{p, "y.x.open.test", "open.test", "", ""},
		{p, "pass.test", "open.test", "", ""},
		{p, "stream.test", "open.test", "", ""},
		{p, "plain.test", "open.test", "", ""},
		{p, "", "open.test", "", ""},
		{fallback, "", "closed.test", "421", ""},
		{fallback, "", "any.test", "200", "any"},
		{fallback, "unknown.test", "closed.test", "421", ""},
		{fallback, "unknown.test", "open.test", "200", "open"},
		{fallback, "pass.test", "any.test", "", ""},
	} {
		before := test.p.Stats().Refused["unknownName"]
		status, body, err := exchange3(t, addr(t, test.p, 0), &tls.Config{ServerName: test.sni, InsecureSkipVerify: true},
			":method", "GET", ":scheme", "https", ":authority", test.authority, ":path", "/")
		if test.status == "" {
			var alert *quic.TransportError
			if !errors.As(err, &alert) || alert.ErrorCode != 0x100+alertUnrecognizedName || !alert.Remote {
				t.Errorf("server name %q: %s %q %v, want the alert unrecognized_name", test.sni, status, body, err)
			}
			eventually(t, "counted", func() bool { return test.p.Stats().Refused["unknownName"] == before+1 })
			continue
		}
		if test.status == "421" && test.p == p {
			misdirected++
		}
		if err != nil || status != test.status || test.body != "" && body != test.body {
			t.Errorf("server name %q, authority %q: %s %q %v, want %s %q", test.sni, test.authority, status, body, err, test.status, test.body)
		}
	}
	if n := p.Stats().Refused["misdirected"]; n != uint64(misdirected) {
		t.Errorf("misdirected: %d, want %d", n, misdirected)
	}
}

// Client authentication holds, whatever a client has: no certificate, one of
// strangers, a session from before or of another name.
func TestHTTP3ClientAuth(t *testing.T) {
	open, _ := tlsFiles(t, "open.test", "closed.test")
	clientCert, clientKey, _ := testenv.SelfSigned(t, "client")
	strangerCert, strangerKey, _ := testenv.SelfSigned(t, "client")
	pair := func(cert, key string) []tls.Certificate {
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	routes := []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test"),
		tlsRoute("closed", &closed, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, _ := ConnInfoFrom(r.Context())
			io.WriteString(w, "closed "+info.TLS.PeerCertificates[0].Subject.CommonName+" "+r.TLS.PeerCertificates[0].Subject.CommonName)
		})}, "closed.test"),
	}
	p := start(t, with3(routes...))
	visit := func(name string, certs []tls.Certificate, cache tls.ClientSessionCache) (string, bool, error) {
		c, err := quicOpen(t, addr(t, p, 0), &tls.Config{ServerName: name, InsecureSkipVerify: true, Certificates: certs, ClientSessionCache: cache})
		if err != nil {
			return "", false, err
		}
		defer c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		status, body, err := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", name, ":path", "/")
		if err == nil && status != "200" {
			err = errors.New(status)
		}
		return body, c.ConnectionState().TLS.DidResume, err
	}
	mine, strangers := pair(clientCert, clientKey), pair(strangerCert, strangerKey)
	refused := func(what string, body string, resumed bool, err error) {
		t.Helper()
		var alert *quic.TransportError
		if !errors.As(err, &alert) || !alert.Remote || !alert.ErrorCode.IsCryptoError() || body != "" || resumed {
			t.Errorf("%s: %q, resumed %v, %v, want an alert", what, body, resumed, err)
		}
	}
	if body, _, err := visit("closed.test", mine, nil); body != "closed client client" || err != nil {
		t.Errorf("with a certificate: %q, %v", body, err)
	}
	body, resumed, err := visit("closed.test", nil, nil)
	refused("without a certificate", body, resumed, err)
	body, resumed, err = visit("closed.test", strangers, nil)
	refused("with a stranger's certificate", body, resumed, err)

	// Sessions: resumed under their own policy, and no other.
	cache := new(oneSession)
	for i := range 3 {
		if body, resumed, err := visit("open.test", nil, cache); body != "open" || resumed != (i > 0) || err != nil || cache.s == nil {
			t.Fatalf("visit %d: %q, resumed %v, %v, ticket %v", i, body, resumed, err, cache.s != nil)
		}
	}
	body, resumed, err = visit("closed.test", nil, cache)
	refused("with the session of an open name", body, resumed, err)
	if body, resumed, err := visit("closed.test", mine, cache); body != "closed client client" || resumed || err != nil {
		t.Errorf("with a session of an open name and a certificate: %q, resumed %v, %v", body, resumed, err)
	}
	member := new(oneSession)
	for i := range 2 {
		if body, resumed, err := visit("closed.test", mine, member); body != "closed client client" || resumed != (i > 0) || err != nil {
			t.Errorf("visit %d: %q, resumed %v, %v", i, body, resumed, err)
		}
	}
	// An update that does not touch the policy keeps them, one that asks for
	// another authority ends them.
	if err := p.UpdateRoutes(t.Context(), append(slices.Clone(routes), handlerRoute("more", Match{Path: "/more"}))); err != nil {
		t.Fatal(err)
	}
	if body, resumed, err := visit("closed.test", mine, member); body != "closed client client" || !resumed || err != nil {
		t.Errorf("after an update: %q, resumed %v, %v", body, resumed, err)
	}
	changed := slices.Clone(routes)
	stricter := closed
	stricter.ClientAuth = &ClientAuth{CAPath: strangerCert}
	changed[1].Action.TLS = &stricter
	if err := p.UpdateRoutes(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	body, resumed, err = visit("closed.test", mine, member)
	refused("after the authority has changed", body, resumed, err)

	// A session of TCP is as good as one of QUIC, under the same policy.
	overTCP := new(oneSession)
	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "open.test", InsecureSkipVerify: true, ClientSessionCache: overTCP, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	tlsGet(t, c, "open.test")
	c.Close()
	if body, resumed, err := visit("open.test", nil, overTCP); body != "open" || !resumed || err != nil {
		t.Errorf("with a session of TCP: %q, resumed %v, %v", body, resumed, err)
	}
	body, resumed, err = visit("closed.test", nil, overTCP)
	refused("with a session of TCP of an open name", body, resumed, err)
}

// A client that an update has made too weak for its name is told to come back.
func TestHTTP3PolicyChangesUnderConnection(t *testing.T) {
	open, pool := tlsFiles(t, "a.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	p := start(t, with3(tlsRoute("r", open, Action{Handler: says("ok")}, "a.test")))
	c := client3(t, addr(t, p, 0), pool)
	if status, _ := get(t, c, "https://a.test/"); status != 200 {
		t.Fatal(status)
	}
	if err := p.UpdateRoutes(t.Context(), []Route{tlsRoute("r", &closed, Action{Handler: says("ok")}, "a.test")}); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, c, "https://a.test/"); status != 421 {
		t.Errorf("after the update: %d %q, want 421", status, body)
	}
}

// A request is not served before the handshake is through: anybody could send
// it again.
func TestHTTP3NoEarlyData(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	p := start(t, with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")))
	cache := tls.NewLRUClientSessionCache(10)
	cfg := &tls.Config{ServerName: "a.test", RootCAs: pool, ClientSessionCache: cache, NextProtos: []string{"h3"}}
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := quic.DialAddrEarly(ctx, addr(t, p, 0), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		status, body, err := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/")
		if status != "200" || body != "ok" || err != nil {
			t.Errorf("visit %d: %s %q %v", i, status, body, err)
		}
		if state := c.ConnectionState(); state.Used0RTT || state.TLS.DidResume != (i > 0) {
			t.Errorf("visit %d: 0-RTT %v, resumed %v", i, state.Used0RTT, state.TLS.DidResume)
		}
		c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		cancel()
	}
}
