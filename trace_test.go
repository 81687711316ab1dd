package dcrouter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// lines is a log whose lines can be looked up.
type lines struct {
	mu  sync.Mutex
	all []map[string]any
}

func (l *lines) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	return len(p), nil
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// find returns the lines with these attributes, given as name and value by turns.
func (l *lines) find(attrs ...string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for _, line := range l.all {
		is := true
		for i := 0; i < len(attrs); i += 2 {
			is = is && fmt.Sprint(line[attrs[i]]) == attrs[i+1]
		}
		if is {
			found = append(found, line)
		}
	}
	return found
}

// await waits for a line and returns it.
func (l *lines) await(t testing.TB, attrs ...string) map[string]any {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() error {
		if len(l.find(attrs...)) == 0 {
			return fmt.Errorf("no line with %q", attrs)
		}
		return nil
	})
	return l.find(attrs...)[0]
}

// One id leads from the proxy's log to all that becomes of a message: the spool,
// its failed delivery, the bounce and the delivery of that.
func TestOneIDForMail(t *testing.T) {
	testenv.Goroutines(t)
	next := startRouter(t, loadConfig(t, `{"emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.net",
		"routes": [{"action": {"type": "reject", "reject": {"message": "Nobody here"}}}]}}`))
	_, port, _ := strings.Cut(next.Addrs()["email"][0], ":")
	dir, log := t.TempDir(), new(lines)
	r := startRouter(t, loadConfig(t, fmt.Sprintf(`{"storage": {"fsPath": %q}, "smartProxyConfig": {"listenHost": "127.0.0.1", "accessLog": {}},
		"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": %q}},
		"emailConfig": {"ports": [0], "useSocketHandler": true, "hostname": "mx.example.com", "domains": [{"domain": "example.com"}],
			"smartHost": {"host": "127.0.0.1", "port": %s}, "resolvers": ["127.0.0.1:%d"], "queue": {"paused": true},
			"routes": [{"name": "in", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}},
				{"name": "out", "match": {"clientIp": "127.0.0.1"}, "action": {"type": "process"}}]}}`,
		dir, opsSection().Admin.Password.Reveal(), port, testenv.FreePort(t))), dcrouter.WithLogger(log.logger()))
	if out, err := swaks(t, r.Addrs()["proxy"][0], "--from", "a@example.com", "--to", "x@example.net"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	id := fmt.Sprint(log.await(t, "msg", "stream", "route", "mail-any-0")["conn_id"])
	received := log.await(t, "msg", "mail received", "conn_id", id)
	message := fmt.Sprint(received["msg_id"])

	var waiting []email.QueuedMessage
	for m, err := range r.Email().Queue(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, m)
	}
	if len(waiting) != 1 || waiting[0].ConnID != id || waiting[0].ID != message {
		t.Errorf("in the queue: %+v, want that of %s", waiting, id)
	}
	o := signIn(t, r)
	if body := o.call("getEmailQueue", map[string]any{"search": id}, nil); !strings.Contains(body, `"connId":"`+id+`"`) {
		t.Errorf("the operator sees %s", body)
	}
	if err := r.Email().ResumeQueue(); err != nil {
		t.Fatal(err)
	}
	log.await(t, "msg", "mail failed", "conn_id", id, "msg_id", message)
	var boxes []string
	testenv.WaitFor(t, time.Minute, func() error {
		if boxes, _ = filepath.Glob(filepath.Join(dir, "mail/example.com/a/new/*")); len(boxes) != 1 {
			return errors.New("the bounce is not there yet")
		}
		return nil
	})
	log.await(t, "msg", "mail delivered", "conn_id", id) // which comes after the file
	var bounce string
	for _, line := range log.find("msg", "mail delivered", "conn_id", id) {
		bounce = fmt.Sprint(line["msg_id"])
	}
	if bounce == "" || bounce == message {
		t.Fatalf("the bounce is not logged with %s: %v", id, log.find("msg", "mail delivered"))
	}
	for _, about := range []string{message, bounce} {
		testenv.WaitFor(t, time.Minute, func() error { // it is remembered once it has left the spool
			st, err := r.Email().EmailStatus(t.Context(), about)
			if err == nil && st.ConnID != id {
				err = fmt.Errorf("message %s is of connection %q, want %s", about, st.ConnID, id)
			}
			return err
		})
	}
	var shown struct {
		Entries []struct{ Component, Message string }
	}
	o.call("getLogs", map[string]any{"correlation": id, "limit": 1000}, &shown)
	text := fmt.Sprint(shown.Entries)
	for _, want := range []string{"stream", "mail connected", "mail received", "mail failed", "mail delivered"} {
		if !strings.Contains(text, want) {
			t.Errorf("asked for %s the operator sees %s, and not %q", id, text, want)
		}
	}
}

// A request has one id for its client, its target and the log, also where it is
// one of DNS over HTTPS.
func TestOneIDForRequests(t *testing.T) {
	testenv.Goroutines(t)
	testenv.Need(t, "curl", "apt install curl")
	var mu sync.Mutex
	var atTarget string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		atTarget = req.Header.Get("X-Request-Id")
		io.WriteString(w, "hi")
	}))
	t.Cleanup(web.Close)
	_, port, _ := strings.Cut(web.Listener.Addr().String(), ":")
	hook, ca := certificates(t, "dns.example.com")
	log, http, doh := new(lines), testenv.FreePort(t), testenv.FreePort(t)
	startRouter(t, loadConfig(t, fmt.Sprintf(`{"smartProxyConfig": {"listenHost": "127.0.0.1", "requestId": {}, "accessLog": {},
			"routes": [{"name": "web", "match": {"ports": %d, "protocol": "http"}, "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": %s}]}}]},
		"dnsDomain": "dns.example.com", "dohPort": %d,
		"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0, "records": [{"name": "www.example.com", "type": "A", "value": "192.0.2.1"}]}}`, http, port, doh)),
		hook, dcrouter.WithLogger(log.logger()))
	idOf := func(args ...string) string {
		t.Helper()
		out, err := testenv.Command(t, "curl", append([]string{"-sS", "-D", "-", "-o", "/dev/null"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for line := range bytes.Lines(out) {
			if name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": "); strings.EqualFold(name, "X-Request-Id") {
				return value
			}
		}
		t.Fatalf("no id in\n%s", out)
		return ""
	}
	id := idOf(fmt.Sprintf("http://127.0.0.1:%d/", http))
	if line := log.await(t, "msg", "request", "request_id", id); line["route"] != "web" || line["conn_id"] == nil {
		t.Errorf("%v", line)
	}
	mu.Lock()
	if atTarget != id {
		t.Errorf("the target was told %q, the client %q", atTarget, id)
	}
	mu.Unlock()
	id = idOf("--cacert", ca, "--resolve", fmt.Sprintf("dns.example.com:%d:127.0.0.1", doh), fmt.Sprintf("https://dns.example.com:%d/resolve?name=www.example.com&type=A", doh))
	if line := log.await(t, "msg", "request", "request_id", id); line["host"] == nil || line["status"] != 200.0 || line["conn_id"] == nil {
		t.Errorf("%v", line)
	}
}
