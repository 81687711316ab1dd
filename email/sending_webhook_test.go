package email

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// receiver writes what it is told into a file, if the signature is right by
// Python's own HMAC; otherwise it says 400.
const receiver = `
import base64, hashlib, hmac, http.server, sys
port, secret, path = int(sys.argv[1]), base64.b64decode(sys.argv[2].removeprefix("whsec_")), sys.argv[3]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = b".".join([self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), body])
        want = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        ok = want in self.headers["webhook-signature"].split(" ")
        if ok:
            with open(path, "ab") as f:
                f.write(self.headers["webhook-id"].encode() + b" " + body + b"\n")
        self.send_response(204 if ok else 400)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
`

// webhookEvent is what a webhook is told.
type webhookEvent struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      Event     `json:"data"`
}

// A receiver in another language is told what becomes of a message. What happens
// while it is down it is told when it is up again, also by the next process.
func TestWebhooksTellOfSendEmail(t *testing.T) {
	python := testenv.Need(t, "python3", "apt-get install python3")
	secret := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	path, port := filepath.Join(t.TempDir(), "events"), testenv.FreePort(t)
	receive := func() *testenv.Process {
		return testenv.Start(t, testenv.Opts{Ready: fmt.Sprintf("127.0.0.1:%d", port), Timeout: time.Minute}, python, "-c", receiver, fmt.Sprint(port), secret, path)
	}
	told := func() (list []webhookEvent) {
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		seen := make(map[string]bool)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			id, body, _ := strings.Cut(lines.Text(), " ")
			if seen[id] { // twice is allowed
				continue
			}
			seen[id] = true
			var e webhookEvent
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			list = append(list, e)
		}
		return list
	}
	kinds := func(id string) []string {
		var list []string
		for _, e := range told() {
			if e.Data.MessageID == id {
				list = append(list, e.Type)
			}
		}
		slices.Sort(list)
		return list
	}

	next := moody(t, func(_ int, command string) string {
		if strings.HasPrefix(command, "RCPT TO:<nobody@") {
			return "550 5.1.1 no such user"
		}
		return ""
	})
	cfg := sender()
	cfg.Webhooks = []Webhook{{URL: fmt.Sprintf("http://127.0.0.1:%d/hook", port), Secret: Secret(secret)}}
	store := inMemory(t)
	boot := func() *server {
		return start(t, cfg, WithStorage(store), toPorts(map[string]int{"192.0.2.2": next.Port}),
			WithResolver(resolver(t, "b.example. 60 IN MX 10 mx.b.example.\nmx.b.example. 60 IN A 192.0.2.2")))
	}
	mail := Email{From: "ann@a.example", To: []string{"bob@b.example", "nobody@b.example"}, Subject: "Grüße", Text: "Hello", Metadata: map[string]string{"order": "17"}}

	first := receive()
	s := boot()
	id, err := s.SendEmail(t.Context(), mail)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{EventDelivered, EventFailed, EventReceived}
	testenv.WaitFor(t, time.Minute, func() error {
		if got := kinds(id); !slices.Equal(got, want) {
			return fmt.Errorf("told of %q", got)
		}
		return nil
	})
	for _, e := range told() {
		if e.Data.Metadata["order"] != "17" || e.Data.From != "ann@a.example" || e.Data.Kind != e.Type || !e.Timestamp.Equal(e.Data.Time) || e.Timestamp.IsZero() {
			t.Errorf("%+v", e)
		}
		if e.Type == EventFailed && (e.Data.Recipients[0] != "nobody@b.example" || e.Data.Status != "5.1.1" || e.Data.Class != "hard" || e.Data.Reason != "550 5.1.1 no such user") {
			t.Errorf("%+v", e)
		}
	}

	first.Stop()
	mail.To = []string{"bob@b.example"}
	if id, err = s.SendEmail(t.Context(), mail); err != nil {
		t.Fatal(err)
	}
	waitForStatus(t, s, id, StatusDelivered)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kinds(id); len(got) != 0 {
		t.Fatalf("told of %q while it was down", got)
	}
	receive()
	s = boot()
	testenv.WaitFor(t, time.Minute, func() error {
		if got := kinds(id); !slices.Equal(got, []string{EventDelivered, EventReceived}) {
			return fmt.Errorf("told of %q after the restart", got)
		}
		return nil
	})
	if st, err := s.EmailStatus(t.Context(), id); err != nil || st.Status != StatusDelivered {
		t.Errorf("after the restart: %+v, %v", st, err)
	}
}

// Whatever a server says, and however long the recipients are: webhooks are told of
// all of them.
func TestWebhooksAreToldOfLongEvents(t *testing.T) {
	told := make(chan Event, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e webhookEvent
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		told <- e.Data
	}))
	defer hook.Close()
	cfg := relay("a.example")
	cfg.Webhooks = []Webhook{{URL: hook.URL, Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}
	s := start(t, cfg, WithMailbox(newMailbox(nil).take))
	var want, got []string
	for i := range 150 {
		want = append(want, fmt.Sprintf(`"%s%03d"@b.example`, strings.Repeat("<", 200), i)) // 6 bytes each in JSON
	}
	reply := "550-" + strings.Repeat("<", 30<<10)
	s.event(Event{Kind: EventFailed, MessageID: "1", Recipients: want, Reason: reply})
	for len(got) < len(want) {
		e := testenv.Receive(t, told)
		got = append(got, e.Recipients...)
		if e.MessageID != "1" || len(e.Reason) < 500 || len(e.Reason) > 2000 || !strings.HasPrefix(reply, e.Reason[:500]) {
			t.Errorf("of message %q: %.50s, %d bytes", e.MessageID, e.Reason, len(e.Reason))
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("told of %q", got)
	}
}
