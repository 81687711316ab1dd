package dcrouter_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// mailRouter is a Router with mail and a proxy, and its data in dir.
func mailRouter(t *testing.T, dir, more string) *dcrouter.Router {
	t.Helper()
	cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"storage": {"fsPath": %q}, "smartProxyConfig": {"listenHost": "127.0.0.1"},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}], %s
		"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}]}}`, dir, more)))
	if err != nil {
		t.Fatal(err)
	}
	return startRouter(t, dcrouter.WithConfig(cfg))
}

func swaks(t *testing.T, addr string, args ...string) (string, error) {
	t.Helper()
	tool := testenv.Need(t, "swaks", "apt install swaks")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	host, port, _ := net.SplitHostPort(addr)
	out, err := exec.CommandContext(ctx, tool, append([]string{"--server", host, "--port", port, "--from", "a@example.net", "--to", "b@example.com"}, args...)...).CombinedOutput()
	return string(out), err
}

func TestMailInTheRouter(t *testing.T) {
	testenv.Goroutines(t)
	dir := t.TempDir()
	r := mailRouter(t, dir, "")
	if out, err := swaks(t, r.Addrs()["email"][0]); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if box, _ := filepath.Glob(filepath.Join(dir, "mail/example.com/b/new/*")); len(box) != 1 {
		t.Errorf("%d messages", len(box))
	}
	if s := r.Stats().Email; s == nil || s.Messages.Accepted != 1 {
		t.Errorf("%+v", s)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collector())
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}

	// Routes that change while it runs are there after a restart.
	err := r.UpdateDomainRules(t.Context(), []email.Route{{Name: "none", Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Message: "Closed for good"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := swaks(t, r.Addrs()["email"][0]); err == nil || !strings.Contains(out, "550 5.7.1 Closed for good") {
			t.Errorf("%v\n%s", err, out)
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err = r.UpdateDomainRules(t.Context(), []email.Route{{Action: email.Action{Type: "burn"}}})
	checkErrors(t, err, []string{"emailConfig.routes[0].action.type: "})
}

// The proxy owns the ports and hands connections over, and the two stop at once
// though a client is connected.
func TestMailThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	r := mailRouter(t, t.TempDir(), `"useSocketHandler": true,`)
	if list := r.Addrs()["email"]; len(list) != 0 {
		t.Errorf("mail listens on %v by itself", list)
	}
	if n := len(r.Routes()); n != 0 {
		t.Errorf("%d routes of the host's", n)
	}
	addr := r.Addrs()["proxy"][0]
	if out, err := swaks(t, addr); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	for _, say := range []string{"", "EHLO client.example.net\r\n", "MAIL FROM:<a@example.net>\r\n", "RCPT TO:<b@example.com>\r\n", "DATA\r\n", "From: a@example.net\r\n\r\nHi\r\n.\r\n"} {
		fmt.Fprint(conn, say)
		for {
			line, err := in.ReadString('\n')
			if err != nil || line[0] > '3' {
				t.Fatalf("to %q: %q, %v", say, line, err)
			}
			if line[3] == ' ' {
				break
			}
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("stopped after %v with a client connected: %v", time.Since(began), err)
	}
	if line, _ := in.ReadString('\n'); !strings.HasPrefix(line, "421 ") {
		t.Errorf("the client was told %q", line)
	}
}

func TestMailPortIsTaken(t *testing.T) {
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{"smartProxyConfig": {"routes": [{"match": {"ports": 2525}, "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": 1}]}}]},
		"emailConfig": {"ports": [2525], "useSocketHandler": true, "hostname": "mx.example.com", "routes": [{"name": "local", "action": {"type": "reject"}}]}}`))
	if err == nil {
		_, err = dcrouter.New(dcrouter.WithConfig(cfg))
	}
	checkErrors(t, err, []string{"emailConfig.ports[0]: its route in the proxy: "})
}
