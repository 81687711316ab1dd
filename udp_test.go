package dcrouter_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A route for UDP from the file to the metrics.
func TestUDPRoute(t *testing.T) {
	testenv.Goroutines(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"smartProxyConfig":{"listenHost":"127.0.0.1","maxUdpSessions":5,"timeouts":{"udpIdle":"5s"},
		"routes":[{"name":"dns","match":{"ports":0,"protocol":"udp"},"action":{"type":"forward","targets":{"host":"127.0.0.1","port":%d}}}]}}`,
		server.LocalAddr().(*net.UDPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Proxy.Timeouts.UDPIdle != 5*time.Second || cfg.Proxy.MaxUDPSessions != 5 {
		t.Errorf("%+v", cfg.Proxy)
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.Stop(t.Context())
	addrs := r.Addrs()["proxy"]
	if len(addrs) != 1 || !strings.HasSuffix(addrs[0], "/udp") {
		t.Fatalf("listens on %v", addrs)
	}
	c, err := net.Dial("udp", strings.TrimSuffix(addrs[0], "/udp"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	buf := make([]byte, 10)
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.Collector())
	metrics, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		if m.GetName() == "dcrouter_proxy_udp_sessions" && m.GetMetric()[0].GetGauge().GetValue() == 1 {
			return
		}
	}
	t.Errorf("no session in the metrics: %v", metrics)
}
