package proxy

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A client of another house (ngtcp2 and nghttp3), also over a network that
// loses packets, with another address, new keys, a session from before.
func TestHTTP3Ngtcp2(t *testing.T) {
	client := testenv.Need(t, "gtlsclient", "apt-get install ngtcp2-client")
	files, _ := tlsFiles(t, "localhost")
	clientCert, clientKey, _ := testenv.SelfSigned(t, "client")
	closed := *files
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MB
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "POST":
			hash := sha256.New()
			n, err := io.Copy(hash, r.Body)
			fmt.Fprintf(w, "%d %x %v", n, hash.Sum(nil), err)
		case r.URL.Path == "/late":
			time.Sleep(time.Second)
			w.Write(content)
		case r.URL.Path == "/slow":
			for part := content; len(part) > 0; {
				n := min(len(part), 64<<10)
				if _, err := w.Write(part[:n]); err != nil {
					return
				}
				part = part[n:]
				time.Sleep(20 * time.Millisecond)
			}
		default:
			w.Write(content)
		}
	})
	secret := tlsRoute("closed", &closed, forwardTo(target), "localhost")
	secret.Match.Ports = Ports(testenv.FreePort(t))
	p := start(t, with3(tlsRoute("open", files, forwardTo(target), "localhost"), secret))
	open, shut := targetOf(p.PacketAddr(0)).Port, secret.Match.Ports[0].From
	dir := testenv.Folder(t)
	upload := filepath.Join(dir, "upload")
	if err := os.WriteFile(upload, content, 0o600); err != nil {
		t.Fatal(err)
	}
	session, params := filepath.Join(dir, "session"), filepath.Join(dir, "params")
	lossy := 0 // clients that lose packets
	for i, test := range []struct {
		name string
		port int
		path string
		args []string
		ok   bool
	}{
		{"download", open, "/file", nil, true},
		{"five at once", open, "/file", []string{"-n", "5"}, true},
		{"another version", open, "/file", []string{"-v", "0x1a2a3a4a", "--preferred-versions", "v1"}, true},
		{"packets lost", open, "/file", []string{"-t", "0.05", "-r", "0.05"}, true},
		// The proxy changes keys after 100 packets, and so shortly after that this
		// client cannot, and gives up: it has to be the first.
		{"keys changed", open, "/late", []string{"--key-update", "100ms"}, true},
		{"another port", open, "/slow", []string{"--change-local-addr", "100ms"}, true},
		{"first session", open, "/file", []string{"--session-file", session, "--tp-file", params}, true},
		{"session and early data", open, "/file", []string{"--session-file", session, "--tp-file", params}, true},
		{"another group", open, "/file", []string{"--groups", "-GROUP-ALL:+GROUP-SECP384R1"}, true},
		{"a client certificate", shut, "/file", []string{"--cert", clientCert, "--key", clientKey}, true},
		{"no client certificate", shut, "/file", nil, false},
		{"a session without certificate", shut, "/file", []string{"--session-file", session, "--tp-file", params}, false},
		{"an unknown name", open, "/file", []string{"127.1"}, false},
		{"upload", open, "/sum", []string{"-m", "POST", "-d", upload}, true},
		{"upload, packets lost", open, "/sum", []string{"-m", "POST", "-d", upload, "-t", "0.05", "-r", "0.05"}, true},
	} {
		into := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(into, 0o755); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close", "--timeout", "20s", "--download", into}, test.args...)
		if !slices.Contains(args, "127.1") { // no address to this client, and a server name
			args = append(args, "127.0.0.1") // for which it sends localhost
		}
		args = append(args, strconv.Itoa(test.port), "https://localhost"+test.path)
		if slices.Contains(test.args, "-t") {
			lossy++
		}
		before := p.Stats()
		cmd := testenv.Command(t, client, args...)
		out, err := cmd.CombinedOutput()
		got, _ := os.ReadFile(filepath.Join(into, filepath.Base(test.path)))
		want := string(content)
		if test.path == "/sum" {
			want = fmt.Sprintf("%d %x <nil>", len(content), sha256.Sum256(content))
		}
		if ok := string(got) == want; ok != test.ok {
			out = out[max(0, len(out)-3000):]
			t.Errorf("%s: %d bytes of %d, %v\n%s", test.name, len(got), len(want), err, out)
		}
		if !test.ok {
			if after := p.Stats(); after.Requests != before.Requests {
				t.Errorf("%s: a request got through", test.name)
			}
		}
		if test.name == "session and early data" && !bytes.Contains(out, []byte("Early data was rejected")) {
			t.Errorf("%s: the client does not say that early data was rejected", test.name)
		}
	}
	// Who loses packets may lose the one that says that it goes.
	eventually(t, "nothing else is left", func() bool { return p.Stats().ActiveConnections <= lossy })
}
