package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// probedTLS is a server with TLS that counts connections.
func probedTLS(t *testing.T, handler http.HandlerFunc, config *tls.Config) (Target, *atomic.Int64) {
	probes := new(atomic.Int64)
	s := httptest.NewUnstartedServer(handler)
	s.TLS, s.EnableHTTP2 = config, true
	s.Config.ErrorLog = newNetLog(testLogger(t))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			probes.Add(1)
		}
	}
	s.StartTLS()
	closeAfter(t, s)
	return targetOf(s.Listener.Addr()), probes
}

// What is expected of a target by its address is the name that a client asks for. The
// check asks for none, so any certificate of the authority will do.
func TestHealthCheckOfTLS(t *testing.T) {
	t.Parallel()
	files, pool := tlsFiles(t, "a.test")
	foreign, _, _ := testenv.SelfSigned(t, "a.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		up      UpstreamTLS
		healthy bool
	}{
		{"by the name asked for", UpstreamTLS{CAPath: files.Certificate.CertPath}, true},
		{"by its own name", UpstreamTLS{CAPath: files.Certificate.CertPath, ServerName: "a.test"}, true},
		{"not verified", UpstreamTLS{InsecureSkipVerify: true}, true},
		{"wrong name", UpstreamTLS{CAPath: files.Certificate.CertPath, ServerName: "b.test"}, false},
		{"wrong authority", UpstreamTLS{CAPath: foreign}, false},
	} {
		for _, protocol := range []string{HTTP1, H2} {
			for _, path := range []string{"", "/health"} {
				t.Run(test.name+" "+protocol+" "+path, func(t *testing.T) {
					target, probes := probedTLS(t, says("ok"), &tls.Config{Certificates: []tls.Certificate{pair}})
					settings := *files
					settings.Mode, settings.Upstream = TerminateAndReencrypt, test.up
					r := checked(tlsRoute("r", &settings, forwardTo(target), "a.test"), HealthCheck{Path: path, Interval: 5 * time.Millisecond, UnhealthyAfter: 1, HealthyAfter: 1})
					r.Action.UpstreamProtocol = protocol
					p := startBare(t, Config{Routes: []Route{r}})
					if !test.healthy {
						eventually(t, "it is found unhealthy", func() bool { return !targetStats(p, target).Healthy })
						return
					}
					eventually(t, "it is probed", func() bool { return probes.Load() > 2 })
					if status, _ := get(t, client(t, addr(t, p, 0), pool), "https://a.test/"); status != 200 {
						t.Error(status)
					}
					if s := targetStats(p, target); !s.Healthy || s.LastError != "" {
						t.Errorf("%+v", s)
					}
				})
			}
		}
	}
}

// A server that knows nobody without a name is healthy by the one that the route has
// for it, and by no other.
func TestHealthCheckAsksForName(t *testing.T) {
	t.Parallel()
	files, _ := tlsFiles(t, "a.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, host string
		domains    []string
		healthy    bool
	}{
		{"the first of the domains", "", []string{"*.a.test", "192.0.2.1", "A.test.", "b.test"}, true},
		{"the host that is set", "a.test:80", []string{"b.test"}, true},
		{"another name", "", []string{"b.test"}, false},
		{"a host that depends on the request", "{host}", []string{"a.test"}, false},
		{"no name", "", []string{"*.a.test"}, false},
	} {
		for _, protocol := range []string{HTTP1, H2} {
			for _, path := range []string{"", "/health"} {
				t.Run(test.name+" "+protocol+" "+path, func(t *testing.T) {
					target, probes := probedTLS(t, func(w http.ResponseWriter, r *http.Request) {
						if host, _ := canonicalHost(r.Host); host != "a.test" {
							w.WriteHeader(http.StatusMisdirectedRequest)
						}
					}, &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
						if hello.ServerName != "a.test" {
							return nil, errUnknownName
						}
						return &pair, nil
					}})
					settings := *files
					settings.Mode, settings.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: files.Certificate.CertPath}
					r := checked(tlsRoute("r", &settings, forwardTo(target), test.domains...), HealthCheck{Path: path, Interval: 5 * time.Millisecond, UnhealthyAfter: 1, HealthyAfter: 1})
					if r.Action.UpstreamProtocol = protocol; test.host != "" {
						r.Action.Headers.Request.Set = map[string]string{"host": test.host}
					}
					p := startBare(t, Config{Routes: []Route{r}})
					if !test.healthy {
						eventually(t, "it is found unhealthy", func() bool { return !targetStats(p, target).Healthy })
						return
					}
					eventually(t, "it is probed", func() bool { return probes.Load() > 2 })
					if s := targetStats(p, target); !s.Healthy || s.LastError != "" {
						t.Errorf("%+v", s)
					}
				})
			}
		}
	}
}

// A certificate for another of the route's names is no reason to give a target up,
// where it has one for who asks for no name.
func TestHealthCheckWithOtherCertificate(t *testing.T) {
	t.Parallel()
	files, pool := tlsFiles(t, "a.test", "*.b.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	target, probes := probedTLS(t, says("ok"), &tls.Config{Certificates: []tls.Certificate{pair}})
	settings := *files
	settings.Mode, settings.Upstream = TerminateAndReencrypt, UpstreamTLS{CAPath: files.Certificate.CertPath}
	r := checked(tlsRoute("r", &settings, forwardTo(target), "b.test", "*.b.test"), HealthCheck{Interval: 5 * time.Millisecond, UnhealthyAfter: 1, HealthyAfter: 1})
	p := startBare(t, Config{Routes: []Route{r}})
	eventually(t, "it is probed", func() bool { return probes.Load() > 2 })
	if status, _ := get(t, client(t, addr(t, p, 0), pool), "https://x.b.test/"); status != 200 {
		t.Errorf("%d, %+v", status, p.Stats().Targets)
	}
}
