package proxy

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// testssl.sh finds nothing above LOW on the default TLS policy.
func TestTLSPolicyByTestssl(t *testing.T) {
	t.Parallel()
	testssl := testenv.Need(t, "testssl", "apt-get install testssl.sh")
	files, _ := tlsFiles(t, "localhost")
	// Without a domain, because some of its probes send no server name.
	cfg := Config{Routes: []Route{tlsRoute("r", files, Action{Handler: says("ok")})}}
	// Its probes wait until the server has lost patience.
	cfg.Timeouts.Route, cfg.Timeouts.RequestHead, cfg.Timeouts.KeepAlive = 2*time.Second, time.Second, time.Second
	p := startBare(t, cfg)
	_, port, _ := net.SplitHostPort(addr(t, p, 0))
	out := filepath.Join(testenv.Folder(t), "findings.json")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Protocols, cipher lists, forward secrecy, the server's preferences and
	// defaults, vulnerabilities; no look-ups, and the certificate is trusted.
	cmd := exec.CommandContext(ctx, testssl, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1",
		"--add-ca", files.Certificate.CertPath, "--openssl-timeout", "10", "--connect-timeout", "10",
		"-p", "-s", "-f", "-P", "-S", "-U", "--jsonfile", out, "https://localhost:"+port)
	cmd.Dir = filepath.Dir(out)
	cmd.WaitDelay = 5 * time.Second   // what it has started may hold its output
	text, err := cmd.CombinedOutput() // its exit status counts findings
	if ctx.Err() != nil {
		t.Fatalf("%v\n%s", ctx.Err(), text)
	}
	b, err2 := os.ReadFile(out)
	if err2 != nil {
		t.Fatalf("%v, %v\n%s", err, err2, text)
	}
	var findings []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(b, &findings); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	leftOut := map[string]string{
		"engine_problem":        "about the openssl program here",
		"cert_expirationStatus": "the test's certificate is good for a day",
		"cert_notAfter":         "the same",
		"cert_revocation":       "the test's certificate has no authority that could revoke it",
	}
	seen := make(map[string]string)
	for _, f := range findings {
		seen[f.ID] = f.Finding
		switch f.Severity {
		case "OK", "INFO", "LOW":
		default: // MEDIUM, HIGH, CRITICAL; WARN and FATAL, when it could not tell
			if leftOut[f.ID] == "" {
				t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
			}
		}
	}
	// It has looked at what matters.
	for id, want := range map[string]string{
		"SSLv3": "not offered", "TLS1": "not offered", "TLS1_1": "not offered", "TLS1_2": "offered", "TLS1_3": "offered with final",
		"cipherlist_AVERAGE": "not offered", "cipherlist_STRONG": "offered", "cert_keySize": "EC 256 bits",
		"heartbleed": "not vulnerable, no heartbeat extension", "LUCKY13": "not vulnerable", "secure_renego": "supported",
	} {
		if seen[id] != want {
			t.Errorf("%s: %q, want %q", id, seen[id], want)
		}
	}
}
