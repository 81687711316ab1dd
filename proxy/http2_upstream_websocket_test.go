package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// There is no Upgrade in HTTP/2, so targets are asked in HTTP/1.1.
func TestUpstreamHTTP2WebSocket(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		s := httptest.NewUnstartedServer(wsEcho(t))
		if protocol == H2 {
			pair, _ := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
			s.TLS, s.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}}, true
			s.StartTLS()
		} else {
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(true)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
		}
		t.Cleanup(s.Close)
		a := forwardTo(targetOf(s.Listener.Addr()))
		a.UpstreamProtocol = protocol
		_, addrs := h2Front(t, nil, files, a)
		secure := &tls.Config{ServerName: "a.test", RootCAs: pool}
		h := h2Dial(t, addrs["h2"], secure, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
		h.WriteWindowUpdate(0, 1<<24)
		ws, head := h.openWebSocket(t, 1, "a.test", "/")
		if head[":status"] != "200" {
			t.Fatalf("%s: %v", protocol, head)
		}
		ws.talk(t)
		ws, resp := wsDial(t, tls.Client(wireDial(t, addrs["h2"]), secure), "a.test", "")
		if resp.StatusCode != 101 {
			t.Fatalf("%s: %v", protocol, resp)
		}
		ws.talk(t)
	}
}

func TestUpstreamHTTP2NotSpoken(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	pair, _ := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	a := forwardTo(wireServer(t, func(c net.Conn) {
		io.Copy(io.Discard, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}))
	a.UpstreamProtocol = H2
	p, addrs := h2Front(t, nil, files, a)
	if status, _ := get(t, client(t, addrs["h2"], pool), "https://a.test/"); status != 502 {
		t.Errorf("%d, want 502", status)
	}
	if e := p.Stats().Targets[0].LastError; !strings.Contains(e, "does not speak HTTP/2") {
		t.Errorf("last error %q", e)
	}
	// Without TLS the answer is no HTTP/2 either.
	_, plain := backend(t, says("x"))
	a = forwardTo(plain)
	a.UpstreamProtocol = H2C
	p = start(t, oneRoute(a))
	if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != 502 {
		t.Errorf("%d, want 502", status)
	}
}
