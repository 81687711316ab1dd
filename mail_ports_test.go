package dcrouter_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// haproxy runs HAProxy with these sections until the test ends.
func haproxy(t testing.TB, ready, sections string) {
	t.Helper()
	tool := testenv.Need(t, "haproxy", "apt install haproxy")
	dir := testenv.Folder(t)
	file := filepath.Join(dir, "haproxy.cfg")
	const head = "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 60s\n  timeout server 60s\n"
	if err := os.WriteFile(file, []byte(head+sections), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: ready}, tool, "-db", "-f", file)
}

// mailModes are the ways in which the mail system comes by its connections: the
// JSON that says so, and the component whose addresses clients connect to.
func mailModes() map[string][2]string {
	return map[string][2]string{
		"traditional":    {"", "email"},
		"socket handler": {`"useSocketHandler": true,`, "proxy"},
	}
}

// greeted connects from an address and returns the line that the server begins
// with, "" if it says nothing, and the connection.
func greeted(t testing.TB, from, addr, say string) (string, net.Conn) {
	t.Helper()
	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(conn, say)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the server neither speaks nor hangs up")
	}
	return strings.TrimSpace(line), conn
}

// Behind HAProxy the mail system sees the true client, and whoever has the ports
// applies the same to it: what clients see is the same in both modes.
func TestMailBehindHAProxy(t *testing.T) {
	testenv.Goroutines(t)
	testenv.Need(t, "haproxy", "apt install haproxy")
	testenv.Need(t, "swaks", "apt install swaks")
	client, blocked, stranger, full := testenv.Loopback(t, "127.0.0.2"), testenv.Loopback(t, "127.0.0.66"), testenv.Loopback(t, "127.9.0.1"), testenv.Loopback(t, "127.0.0.5")
	names := startRouter(t, loadConfig(t, `{"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0,
		"records": [{"name": "example.net", "type": "TXT", "value": "v=spf1 ip4:127.0.0.2 -all"}]}}`))
	cert, key, _ := testenv.SelfSigned(t, "mx.example.com")
	seen := map[string]string{}
	for mode, how := range mailModes() {
		t.Run(mode, func(t *testing.T) {
			boxes, port, securePort := t.TempDir(), testenv.FreePort(t), testenv.FreePort(t)
			r := startRouter(t, loadConfig(t, fmt.Sprintf(`{"smartProxyConfig": {"listenHost": "127.0.0.1"}, "storage": {"fsPath": %q},
				"emailConfig": {"listenHost": "127.0.0.1", "ports": [%d, {"port": %d, "mode": "smtps"}], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}],
				%s "proxyProtocol": {"accept": ["127.0.0.1"]},
				"security": {"ipAllowList": ["127.0.0.0/16"], "ipBlockList": "127.0.0.64/26", "maxConnections": 2},
				"tls": {"certPath": %q, "keyPath": %q}, "resolvers": [%q], "auth": {"users": [{"username": "u@example.com", "password": "secret"}]},
				"routes": [{"name": "known", "match": {"recipients": "*@example.com", "clientIp": "127.0.0.2"}, "action": {"type": "deliver", "deliver": {"maildir": %q}}},
					{"name": "unknown", "action": {"type": "reject", "reject": {"message": "Who are you"}}}]}}`,
				t.TempDir(), port, securePort, how[0], cert, key, strings.TrimSuffix(names.Addrs()["dns"][0], "/udp"), filepath.Join(boxes, "{user}"))))
			plain, tls := fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", securePort)
			v1, v2, secure := freeAddr(t), freeAddr(t), freeAddr(t)
			haproxy(t, v2, fmt.Sprintf("listen a\n  bind %s\n  server s %s send-proxy\nlisten b\n  bind %s\n  server s %s send-proxy-v2\nlisten c\n  bind %s\n  server s %s send-proxy-v2\n",
				v1, plain, v2, plain, secure, tls))

			var says strings.Builder
			for i, addr := range []string{v1, v2} {
				if out, err := swaks(t, addr, "--local-interface", client); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				mails, _ := filepath.Glob(filepath.Join(boxes, "b", "new", "*"))
				if len(mails) != i+1 {
					t.Fatalf("%d messages", len(mails))
				}
				for _, m := range mails {
					text, _ := os.ReadFile(m)
					if !strings.Contains(string(text), "["+client+"])") || !strings.Contains(string(text), "spf=pass") || strings.Contains(string(text), "127.0.0.1") {
						t.Errorf("the message does not have its client:\n%s", text)
					}
				}
				out, err := swaks(t, addr, "--local-interface", full)
				if err == nil || !strings.Contains(out, "Who are you") {
					t.Errorf("the route is not by the true client: %v\n%s", err, out)
				}
				for _, from := range []string{blocked, stranger} {
					line, _ := greeted(t, from, addr, "")
					fmt.Fprintf(&says, "%s: %q\n", from, line)
				}
			}
			out, err := swaks(t, secure, "--local-interface", client, "--tls-on-connect", "--from", "u@example.com", "--auth", "PLAIN", "--auth-user", "u@example.com", "--auth-password", "secret")
			if err != nil {
				t.Errorf("over TLS from the first byte: %v\n%s", err, out)
			}
			// Directly: the balancer without its header, and others who must not have one.
			line, _ := greeted(t, "127.0.0.1", plain, "EHLO x\r\n")
			fmt.Fprintf(&says, "no header: %q\n", line)
			line, conn := greeted(t, client, plain, "")
			fmt.Fprintf(&says, "directly: %q\n", line)
			conn.Close()
			line, conn = greeted(t, client, plain, "PROXY TCP4 127.0.0.3 127.0.0.1 1 25\r\n")
			fmt.Fprintf(&says, "a forged header: %.4q\n", line)
			conn.Close()

			// A port takes two, and the third once one has gone.
			var held []net.Conn
			testenv.WaitFor(t, 30*time.Second, func() error { // those of before may still be on their way out
				for _, c := range held {
					c.Close()
				}
				held = nil
				for range 2 {
					line, c := greeted(t, client, v2, "")
					if held = append(held, c); line == "" {
						return errors.New("there is no room for two")
					}
				}
				return nil
			})
			line, _ = greeted(t, client, v2, "")
			fmt.Fprintf(&says, "the third: %q\n", line)
			held[0].Close()
			testenv.WaitFor(t, 30*time.Second, func() error {
				if line, c := greeted(t, client, v2, ""); line == "" {
					return errors.New("there is no room again")
				} else {
					c.Close()
				}
				return nil
			})
			seen[mode] = says.String()
			want := map[string]string{"blocked": "blocked", "port-full": "routeFull", "proxy-header": "badProxyHeader"}
			s := r.Stats()
			for byMail, byProxy := range want {
				if n := s.Email.Refused[byMail]; (n > 0) != (how[1] == "email") {
					t.Errorf("mail counts %d of %s", n, byMail)
				}
				if n := s.Proxy.Refused[byProxy]; (n > 0) != (how[1] == "proxy") {
					t.Errorf("the proxy counts %d of %s", n, byProxy)
				}
			}
		})
	}
	if seen["traditional"] != seen["socket handler"] {
		t.Errorf("clients of one mode see\n%s\nand of the other\n%s", seen["traditional"], seen["socket handler"])
	}
	if !strings.Contains(seen["traditional"], "127.0.0.66: \"\"") || !strings.Contains(seen["traditional"], "directly: \"220 ") || !strings.Contains(seen["traditional"], "the third: \"\"") {
		t.Error(seen["traditional"])
	}
}

func loadConfig(t testing.TB, text string) dcrouter.Option {
	t.Helper()
	c, err := dcrouter.LoadConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return dcrouter.WithConfig(c)
}

func freeAddr(t testing.TB) string { return fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t)) }

// What is wrong with the lists is told at their fields, once.
func TestMailPortsMistakes(t *testing.T) {
	for _, mode := range mailModes() {
		_, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"emailConfig": {"ports": [2525], %s "hostname": "mx.example.com", "routes": [{"action": {"type": "reject"}}],
			"proxyProtocol": {"accept": ["here"]}, "security": {"ipAllowList": "10.0.0.0/33", "ipBlockList": ["x"], "maxConnections": -1}}}`, mode[0])))
		checkErrors(t, err, []string{
			"emailConfig.security.ipAllowList[0]: ", "emailConfig.security.ipBlockList[0]: ", "emailConfig.security.maxConnections: ", "emailConfig.proxyProtocol.accept[0]: ",
		})
	}
}
