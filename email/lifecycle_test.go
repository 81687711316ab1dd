package email

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// What is being received when the Server stops is received to its end; who waits
// is told to come back.
func TestStopWaitsForMessages(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	idle := s.dial().hello()
	busy := s.dial().hello()
	busy.say("MAIL FROM:<a@example.net>", "250")
	busy.say("RCPT TO:<b@example.com>", "250")
	busy.say("DATA", "354")
	fmt.Fprint(busy, "From: a@example.net\r\n")
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	idle.want("Stop", "421")
	fmt.Fprint(busy, "\r\nHi\r\n.\r\n")
	busy.want("the content", "250")
	busy.want("the end", "421")
	if err := <-stopped; err != nil || len(m.all()) != 1 {
		t.Errorf("%v, %d messages", err, len(m.all()))
	}
	if _, err := net.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("a port is open that should not be")
	}
}

func TestStopLosesPatience(t *testing.T) {
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(func(ctx context.Context, _ *Delivery) error {
		<-ctx.Done()
		return ctx.Err()
	}))
	s.impatient = true
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("DATA", "354")
	fmt.Fprint(c, hi, "\r\n.\r\n")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil {
		t.Error("no error")
	}
	if line, _ := c.r.ReadString('\n'); strings.HasPrefix(line, "2") {
		t.Errorf("what nobody took was acknowledged: %q", line)
	}
}

func TestStartAgain(t *testing.T) {
	port := testenv.FreePort(t)
	s := start(t, Config{Ports: Ports(port), Routes: toMailboxes}, WithMailbox(newMailbox(nil).take))
	for range 20 {
		if err := s.Start(t.Context()); err != ErrRunning {
			t.Fatal(err)
		}
		c := s.dial().hello()
		stopped := make(chan error, 1)
		go func() { stopped <- s.Stop(t.Context()) }()
		c.want("Stop", "421")
		c.Close()
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := New(Config{ListenHost: "127.0.0.1", Ports: append(Ports(0), Port{Port: port}), Hostname: "x.example.com", Routes: toMailboxes}, WithMailbox(newMailbox(nil).take))
	if err != nil {
		t.Fatal(err)
	}
	if err := taken.Start(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprint("cannot listen on 127.0.0.1:", port)) {
		t.Error(err)
	}
}

// The spool may be in the storage of the host.
func TestSpoolInStorage(t *testing.T) {
	backend := storage.Memory()
	store, err := storage.Open(t.Context(), backend)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Routes: routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process"}}]`)}
	cfg.Queue.Paused = true
	s := start(t, cfg, WithStorage(store))
	if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	s.Stop(t.Context())
	s = start(t, cfg, WithStorage(store))
	n := 0
	for q, err := range s.Queue(t.Context()) {
		if n++; err != nil || q.From != "a@example.net" || q.Recipients[0].Address != "b@example.com" {
			t.Errorf("%+v, %v", q, err)
		}
	}
	if n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestNewFindsMistakes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = New(Config{Ports: []Port{{Port: 465}, {Port: 25}}, Hostname: "x.example.com",
		Auth: &Auth{Users: []User{{Username: "u", Password: "$argon2id$nonsense"}}}}, WithListener("127.0.0.1:26", ln))
	if err == nil || err.Error() != "no port uses the listener for 127.0.0.1:26" {
		t.Error(err)
	}
	nowhere := Config{Ports: append(Ports(25), Port{Port: 465}), Hostname: "x.example.com", Routes: []Route{{Name: "ok", Action: Action{Type: Deliver, Deliver: &DeliverAction{LMTP: "/lmtp"}}}, {Action: Action{Type: Deliver}}}}
	unready, err := New(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{unready.Unready(), unready.Start(t.Context())} {
		for _, want := range []string{"ports[1]: mode smtps needs a certificate", "routes[1].action: there is no place for mailboxes"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v lacks %q", err, want)
			}
		}
	}
	nobody, err := New(Config{Ports: Ports(25), Hostname: "x.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.UpdateRoutes(t.Context(), nowhere.Routes); err == nil || !strings.HasPrefix(err.Error(), "routes[1].action: ") || len(nobody.Routes()) != 0 {
		t.Error(err)
	}
	nowhere.DataPath, nowhere.Ports = t.TempDir(), Ports(25)
	if ready, err := New(nowhere); err != nil || ready.Unready() != nil {
		t.Errorf("%v, %v", err, ready.Unready())
	}
	_, err = New(Config{Ports: Ports(25), Hostname: "x.example.com", Auth: &Auth{Users: []User{{Username: "u", Password: "$argon2id$hunter2"}}}})
	if err == nil || !strings.HasPrefix(err.Error(), "auth.users[0].password: ") || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
	s, err := New(Config{Ports: Ports(25), Hostname: "x.example.com", TLS: &TLS{"/nowhere", "/nowhere"}, Routes: routes(t,
		`[{"name":"f","action":{"type":"forward","forward":{"host":"x","tls":{"caPath":"/nowhere"}}}}]`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err == nil || !strings.Contains(err.Error(), "tls.certPath: ") || !strings.Contains(err.Error(), "routes[0].action.forward.tls.caPath: ") {
		t.Error(err)
	}
}

// A port that nobody can use is no mistake in the configuration, but somebody
// should know.
func TestPortsForNobodyAreToldOf(t *testing.T) {
	users := &Auth{Users: []User{{Username: "u", Password: "p"}}}
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{Ports: []Port{{Mode: Submission}}}, "auth.users is empty"},
		{Config{Ports: []Port{{Mode: Submission}}, Auth: users}, "there is no certificate"},
		{Config{Ports: Ports(0), Auth: users}, ""},
	} {
		var log bytes.Buffer
		s := start(t, test.cfg, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		s.Stop(t.Context())
		if got := log.String(); strings.Contains(got, "nobody can send mail") != (test.want != "") || !strings.Contains(got, test.want) {
			t.Errorf("%+v: %s", test.cfg, got)
		}
	}
}
