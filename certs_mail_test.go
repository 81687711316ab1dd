package dcrouter_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// Mail without a certificate encrypts with a self-signed one, which stays the same,
// and says so.
func TestMailWithoutCertificate(t *testing.T) {
	testenv.Need(t, "swaks", "apt install swaks")
	openssl := testenv.Need(t, "openssl", "apt install openssl")
	for mode, says := range mailModes() {
		t.Run(mode, func(t *testing.T) {
			testenv.Goroutines(t)
			plain, submission, smtps := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
			cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"storage": {"fsPath": %q}, "smartProxyConfig": {"listenHost": "127.0.0.1"},
				"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "hunter2hunter2"}},
				"emailConfig": {"listenHost": "127.0.0.1", "hostname": "MX.example.com", %s "domains": [{"domain": "example.com", "policies": {"mtaSts": "enforce"}}],
				"ports": [%d, {"port": %d, "mode": "submission"}, {"port": %d, "mode": "smtps"}],
				"routes": [{"action": {"type": "reject"}}]}}`, t.TempDir(), says[0], plain, submission, smtps)))
			if err != nil {
				t.Fatal(err)
			}
			var shown []string
			for range 2 {
				var log safeBuffer
				r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				for port, args := range map[int]string{plain: "--tls", submission: "--tls", smtps: "--tls-on-connect"} {
					out, _ := swaks(t, fmt.Sprintf("127.0.0.1:%d", port), args, "--quit-after", "EHLO")
					if !strings.Contains(out, "=== TLS started") {
						t.Errorf("%d: %s", port, out)
					}
				}
				out, _ := exec.Command("sh", "-c", fmt.Sprintf(`%s s_client -connect 127.0.0.1:%d </dev/null 2>/dev/null | %s x509 -noout -fingerprint -subject -ext subjectAltName`,
					openssl, smtps, openssl)).CombinedOutput()
				if shown = append(shown, string(out)); !strings.Contains(string(out), "DNS:mx.example.com") {
					t.Errorf("the certificate: %s", out)
				}
				if n := strings.Count(log.String(), "a self-signed one is used"); n != 1 {
					t.Errorf("said %d times:\n%s", n, log.String())
				}
				if n := strings.Count(log.String(), "does not deliver to a self-signed certificate"); n != 1 {
					t.Errorf("that a policy is at odds with it is said %d times:\n%s", n, log.String())
				}
				o := signIn(t, r)
				if health := o.call("getHealthStatus", nil, nil); !strings.Contains(health, `"status":"healthy"`) || !strings.Contains(health, "self-signed: set emailConfig.tls") {
					t.Errorf("health: %s", health)
				}
				if list := o.call("getCertificates", nil, nil); !strings.Contains(list, `"name":"mx.example.com","source":"self-signed","state":"valid"`) {
					t.Errorf("certificates: %s", list)
				}
				if status, body := o.try("renewCertificate", map[string]any{"name": "mx.example.com"}); status != 400 {
					t.Errorf("renewed: %d %s", status, body)
				}
				stop(t, r)
			}
			if shown[0] != shown[1] {
				t.Errorf("another certificate after a restart: %v", shown)
			}
		})
	}
}

// Whoever gives the mail system alone a certificate has that one.
func TestMailWithItsOwnCertificate(t *testing.T) {
	cert, key, _ := testenv.SelfSigned(t, "mx.example.com")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	for what, opts := range map[string][]dcrouter.Option{
		"mail's":     {dcrouter.WithEmail(smtpsOnly(), email.WithGetCertificate(get))},
		"everyone's": {dcrouter.WithEmail(smtpsOnly()), dcrouter.WithGetCertificate(get)},
	} {
		var log safeBuffer
		r := start(t, append(opts, dcrouter.WithStorage(storage.Memory()), dcrouter.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))...)
		if out, err := swaks(t, r.Addrs()["email"][0], "--tls-on-connect", "--tls-verify", "--tls-ca-path", cert, "--tls-sni", "mx.example.com", "--quit-after", "EHLO"); err != nil {
			t.Errorf("%s: %s", what, out)
		}
		if strings.Contains(log.String(), "self-signed") {
			t.Errorf("%s: %s", what, log.String())
		}
	}
}

func smtpsOnly() email.Config {
	return email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0, Mode: email.SMTPS}}, Hostname: "mx.example.com",
		Routes: []email.Route{{Action: email.Action{Type: email.Reject}}}}
}
