package webhook

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// pythonReceiver verifies with Python's own HMAC: 204 for what is right.
const pythonReceiver = `
import base64, hashlib, hmac, http.server, json, sys, time
port, secret = int(sys.argv[1]), base64.b64decode(sys.argv[2].removeprefix("whsec_"))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signed = b".".join([self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), body])
        want = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        event = json.loads(body)
        ok = (want in self.headers["webhook-signature"].split(" ") and abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
            and event["type"] == "delivered" and event["timestamp"].endswith("Z") and event["data"] == {"to": "<jörg@example.com>"}
            and self.headers["content-type"] == "application/json")
        self.send_response(204 if ok else 400)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
`

// TestPython has a receiver in another language verify the signatures, by the
// secret and by the one before, and refuse another's.
func TestPython(t *testing.T) {
	testenv.Goroutines(t)
	python := testenv.Need(t, "python3", "apt-get install python3")
	for name, test := range map[string]struct {
		endpoint func(ours conf.Secret) Endpoint
		ok       bool
	}{
		"secret":   {func(s conf.Secret) Endpoint { return Endpoint{Secret: s} }, true},
		"previous": {func(s conf.Secret) Endpoint { return Endpoint{Secret: NewSecret(), PreviousSecret: s} }, true},
		"other":    {func(conf.Secret) Endpoint { return Endpoint{Secret: NewSecret()} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			secret, port := NewSecret(), testenv.FreePort(t)
			addr := fmt.Sprintf("127.0.0.1:%d", port)
			testenv.Start(t, testenv.Opts{Ready: addr, Timeout: time.Minute}, python, "-c", pythonReceiver, fmt.Sprint(port), secret.Reveal())
			e := test.endpoint(secret)
			e.URL = "http://" + addr + "/hook"
			s := start(t, Config{Endpoints: []Endpoint{e}})
			if err := s.Send(Event{Type: "delivered", Data: json.RawMessage(`{"to":"<jörg@example.com>"}`)}); err != nil {
				t.Fatal(err)
			}
			testenv.WaitFor(t, time.Minute, func() error {
				st := s.Stats()[0]
				if st.Sent == 0 && st.LastError == "" {
					return fmt.Errorf("%+v", st)
				}
				return nil
			})
			if st := s.Stats()[0]; st.Sent == 1 != test.ok || !test.ok && !strings.Contains(st.LastError, "400") {
				t.Errorf("%+v", st)
			}
		})
	}
}
