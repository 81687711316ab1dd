package dcrouter_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// guarded is a Router with a web site, mail for users and an operations API, all
// with the section blocking.
type guarded struct {
	*dcrouter.Router
	t   *testing.T
	web string
}

// guard starts one. The site can also be reached by way of 127.0.0.99, whose
// connections begin with a PROXY header.
func guard(t *testing.T, backing storage.Backend, blocking string) *guarded {
	t.Helper()
	site, web := backend(t, "hello"), testenv.FreePort(t)
	cert, key, _ := testenv.SelfSigned(t, "mx.example.com")
	cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"blocking": %s,
		"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": [{"name": "web", "match": {"ports": %d, "protocol": "http"},
			"action": {"type": "forward", "proxyProtocol": {"accept": ["127.0.0.99"]}, "targets": [{"host": %q, "port": %d}]}}]},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [{"port": 0, "mode": "submission"}], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}],
			"tls": {"certPath": %q, "keyPath": %q}, "auth": {"users": [{"username": "alice@example.com", "password": "wonderland"}]},
			"ipReputation": {"blockList": ["127.0.0.66"]}, "dataPath": %q,
			"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}]},
		"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, "clients": [{"name": "switch", "ip": "127.0.0.1", "secret": "a long shared secret"}]},
		"opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "hunter2hunter2"}}}`,
		blocking, web, site.Host, site.Port, cert, key, t.TempDir())))
	if err != nil {
		t.Fatal(err)
	}
	return &guarded{startRouter(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(backing)), t, fmt.Sprintf("http://127.0.0.1:%d/", web)}
}

// curl fetches the site from an address: the body and status, or how curl failed.
func (g *guarded) curl(from string, args ...string) string {
	g.t.Helper()
	tool := testenv.Need(g.t, "curl", "apt install curl")
	out, err := testenv.Command(g.t, tool, append([]string{"-sS", "-m", "20", "--interface", testenv.Loopback(g.t, from), "-w", " %{http_code}", g.web}, args...)...).CombinedOutput()
	if err != nil {
		return "refused"
	}
	return string(out)
}

const served = "hello 200"

// curlUntil waits for an answer.
func (g *guarded) curlUntil(from, want string) {
	g.t.Helper()
	testenv.WaitFor(g.t, time.Minute, func() error {
		if got := g.curl(from); got != want {
			return fmt.Errorf("%s got %q, want %q", from, got, want)
		}
		return nil
	})
}

// scan sends requests that are malformed, and waits until they have been counted,
// which is when their connections are closed.
func (g *guarded) scan(from string, n int) {
	g.t.Helper()
	for range n {
		g.curl(from, "-H", "Host: a b")
	}
	testenv.WaitFor(g.t, time.Minute, func() error {
		if n := g.Stats().Proxy.ActiveConnections; n > 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}

// behindProxy is the answer to a client of the proxy in front.
func (g *guarded) behindProxy(client, host string) string {
	g.t.Helper()
	return g.behind("127.0.0.99", "TCP4 "+client+" 203.0.113.99 4711 80", host)
}

// behind is the answer to what a proxy at that address says in its header.
func (g *guarded) behind(proxy, header, host string) string {
	g.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(testenv.Loopback(g.t, proxy))}}
	c, err := d.DialContext(g.t.Context(), "tcp", strings.Trim(g.web, "htp:/"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "PROXY %s\r\nGET / HTTP/1.0\r\nHost: %s\r\n\r\n", header, host)
	answer, _ := io.ReadAll(c) // a reset is a way to refuse
	return string(answer)
}

// signIn is what swaks saw when it signed in to the mail system from an address.
func (g *guarded) signIn(from, password string) string {
	g.t.Helper()
	out, _ := swaks(g.t, g.Addrs()["email"][0], "--local-interface", testenv.Loopback(g.t, from), "--tls", "--auth", "PLAIN", "--auth-user", "alice@example.com",
		"--auth-password", password, "--quit-after", "AUTH")
	return out
}

// An address that fails to sign in to the mail system is refused by the proxy,
// one that sends malformed requests to the proxy by the mail system; those on the
// allow list are not; and an operator sees it all, blocks others and lifts
// blocks, which outlast a restart.
func TestBlockedInOnePlaceRefusedInAll(t *testing.T) {
	testenv.Goroutines(t)
	folder := t.TempDir()
	const section = `{"allowList": ["127.0.0.1", "127.0.0.50"], "events": 3}`
	g := guard(t, storage.Dir(folder), section)
	for _, from := range []string{"127.0.0.2", "127.0.0.50"} {
		for range 3 {
			if out := g.signIn(from, "wrong"); !strings.Contains(out, "535 5.7.8") {
				t.Fatal(out)
			}
		}
	}
	if got := g.curl("127.0.0.2"); got != "refused" {
		t.Errorf("an address that guesses passwords of mail gets %q from the proxy", got)
	}
	if got := g.curl("127.0.0.50"); got != served {
		t.Errorf("an address that is never blocked gets %q", got)
	}
	g.scan("127.0.0.3", 3)
	if out := g.signIn("127.0.0.3", "wonderland"); !strings.Contains(out, "421 4.7.1 127.0.0.3 is blocked for a while") {
		t.Errorf("an address that scans the proxy gets from the mail system:\n%s", out)
	}
	if out := g.signIn("127.0.0.4", "wonderland"); !strings.Contains(out, "235 ") {
		t.Errorf("an address that has done nothing:\n%s", out)
	}

	o := signIn(t, g.Router)
	if list := o.call("getBlocks", map[string]any{}, nil); !strings.Contains(list, `"address":"127.0.0.2","source":"email","reason":"email: sign-in-failed"`) ||
		!strings.Contains(list, `"address":"127.0.0.3","source":"proxy","reason":"proxy: badRequest"`) {
		t.Error(list)
	}
	o.call("addBlock", map[string]any{"address": "127.0.0.4", "reason": "asked for it"}, nil)
	if out := g.signIn("127.0.0.4", "wonderland"); !strings.Contains(out, "554 5.7.1 127.0.0.4 is blocked") {
		t.Errorf("an address that an operator has blocked for good:\n%s", out)
	}
	for address, why := range map[string]string{"127.0.0.1": "your own address", "127.0.0.0/24": "your own address", "127.0.0.50": "never blocked", "nobody": "not an IP address"} {
		if status, body := o.try("addBlock", map[string]any{"address": address}); status != http.StatusBadRequest || !strings.Contains(string(body), why) {
			t.Errorf("blocking %s: %d %s", address, status, body)
		}
	}
	events := o.call("getSecurityEvents", map[string]any{"limit": 1000}, nil)
	for _, want := range []string{`"kind":"proxy_bad_request","component":"proxy","severity":"warning","address":"127.0.0.3"`, `"kind":"blocked","component":"blocking","severity":"warning","address":"127.0.0.2"`,
		`by proxy: proxy: badRequest","correlation":"`, `"kind":"mail_sign_in_failed"`} {
		if !strings.Contains(events, want) {
			t.Errorf("no event with %s in\n%s", want, events)
		}
	}

	stop(t, g.Router)
	g = guard(t, storage.Dir(folder), section)
	o = signIn(t, g.Router)
	for _, from := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"} {
		if got := g.curl(from); got != "refused" {
			t.Errorf("%s gets %q after a restart", from, got)
		}
		o.call("removeBlock", map[string]any{"address": from}, nil)
		if got := g.curl(from); got != served {
			t.Errorf("%s gets %q after the block was lifted", from, got)
		}
	}
	if status, _ := o.try("removeBlock", map[string]any{"address": "127.0.0.2"}); status != http.StatusNotFound {
		t.Errorf("lifting what is not blocked: %d", status)
	}
	if s := g.Stats().Blocking; s == nil || s.Active != 0 || s.Made != 0 || s.Refused["proxy"] != 3 {
		t.Errorf("%+v", s)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(g.Collector())
	if families, err := registry.Gather(); err != nil || !strings.Contains(fmt.Sprint(families), "dcrouter_blocks_refused_total") {
		t.Error(err)
	}
	stop(t, g.Router)
	g = guard(t, storage.Dir(folder), section)
	if got := g.curl("127.0.0.2"); got != served {
		t.Errorf("what was lifted is blocked after a restart: %q", got)
	}
}

// What anybody can have a server hand on, a large provider's for example, does not
// have it blocked.
func TestMailThatIsHandedOnDoesNotBlock(t *testing.T) {
	testenv.Goroutines(t)
	g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1"], "events": 2}`)
	const from = "127.0.0.7"
	for range 3 {
		out, _ := swaks(t, g.Addrs()["email"][0], "--local-interface", testenv.Loopback(t, from), "--tls", "--auth", "PLAIN", "--auth-user", "alice@example.com",
			"--auth-password", "wonderland", "--from", "somebody@example.net", "--to", "bob@example.org")
		if !strings.Contains(out, "<~* 5") {
			t.Fatalf("mail in the name of another is taken:\n%s", out)
		}
	}
	if got := g.curl(from); got != served {
		t.Errorf("who hands on mail that is refused gets %q from the proxy", got)
	}
}

// A block ends, and the next one lasts longer.
func TestBlockExpires(t *testing.T) {
	g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1"], "events": 1, "duration": "1s", "maxDuration": "1h"}`)
	g.scan("127.0.0.2", 1)
	g.curlUntil("127.0.0.2", served)
	g.scan("127.0.0.2", 1)
	g.curlUntil("127.0.0.2", served)
	if s := g.Stats().Blocking; s.Made != 2 || s.Active != 0 {
		t.Errorf("%+v", s)
	}
	testenv.WaitFor(t, time.Minute, func() error { // it is remembered after its end
		kept, err := g.Store().Get(t.Context(), "security/blocks/127.0.0.2_32")
		if err == nil && !strings.Contains(string(kept), `"times":2`) {
			err = errors.New(string(kept))
		}
		return err
	})
}

// Behind a PROXY header the client is blocked, not the proxy; loopback is not,
// unless the configuration says so; who counts and refuses is configured.
func TestBlockingByConfiguration(t *testing.T) {
	t.Run("proxy in front", func(t *testing.T) {
		g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1"], "events": 2}`)
		for range 2 {
			if got := g.behindProxy("203.0.113.7", "a b"); !strings.Contains(got, " 400 Bad Request") {
				t.Errorf("%q", got)
			}
		}
		// What is so malformed is counted when its connection has been closed.
		testenv.WaitFor(t, time.Minute, func() error {
			if got := g.behindProxy("203.0.113.7", "a.test"); got != "" {
				return fmt.Errorf("who has misbehaved gets %q", got)
			}
			return nil
		})
		if got := g.behindProxy("203.0.113.8", "a.test"); !strings.HasPrefix(got, "HTTP/1.0 200") {
			t.Errorf("another client gets %q", got)
		}
	})
	t.Run("proxy in front that comes later", func(t *testing.T) {
		g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1"]}`)
		signIn(t, g.Router).call("addBlock", map[string]any{"address": "127.0.0.98"}, nil)
		for _, accept := range [][]string{{"127.0.0.99"}, {"127.0.0.98"}, {"127.0.0.99"}} {
			routes := g.Routes()
			routes[0].Action.ProxyProtocol.Accept = accept
			if err := g.UpdateRoutes(t.Context(), routes); err != nil {
				t.Fatal(err)
			}
			if got, served := g.behind("127.0.0.98", "UNKNOWN", "a.test"), accept[0] == "127.0.0.98"; strings.HasPrefix(got, "HTTP/1.0 200") != served {
				t.Errorf("with %s trusted it gets %q", accept, got)
			}
		}
	})
	t.Run("loopback", func(t *testing.T) {
		g := guard(t, storage.Memory(), `{"events": 1, "blockList": ["127.0.0.5"]}`)
		g.scan("127.0.0.2", 3)
		for _, from := range []string{"127.0.0.2", "127.0.0.5"} {
			if got := g.curl(from); got != served {
				t.Errorf("loopback gets %q", got)
			}
		}
	})
	t.Run("lists", func(t *testing.T) {
		g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1", "127.0.0.17"], "blockList": ["127.0.0.16/28"]}`)
		for from, want := range map[string]string{"127.0.0.18": "refused", "127.0.0.17": served, "127.0.0.2": served} {
			if got := g.curl(from); got != want {
				t.Errorf("%s gets %q", from, got)
			}
		}
		if status, body := signIn(t, g.Router).try("removeBlock", map[string]any{"address": "127.0.0.18"}); status != http.StatusBadRequest || !strings.Contains(string(body), "127.0.0.16/28") {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("count and refuse", func(t *testing.T) {
		g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.1"], "events": 1, "count": ["email"], "refuse": ["email"]}`)
		g.scan("127.0.0.2", 3)
		if out := g.signIn("127.0.0.2", "wrong"); !strings.Contains(out, "535 ") {
			t.Errorf("what does not count has:\n%s", out)
		}
		if out := g.signIn("127.0.0.2", "wonderland"); !strings.Contains(out, "421 ") {
			t.Errorf("what counts has not:\n%s", out)
		}
		if got := g.curl("127.0.0.2"); got != served {
			t.Errorf("the proxy, which is not to refuse, answers %q", got)
		}
	})
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint("reputation ", on), func(t *testing.T) {
			g := guard(t, storage.Memory(), fmt.Sprintf(`{"allowList": ["127.0.0.1"], "events": 2, "reputation": %t}`, on))
			for range 3 {
				g.signIn("127.0.0.66", "wonderland")
			}
			if got := g.curl("127.0.0.66"); (got == "refused") != on {
				t.Errorf("an address of bad reputation gets %q", got)
			}
		})
	}
	t.Run("mistakes", func(t *testing.T) {
		_, err := dcrouter.LoadConfig(strings.NewReader(`{"blocking": {"blockList": ["x"], "count": ["web"], "refuse": ["ops"], "events": -1, "duration": "48h", "reputation": true}}`))
		var list []string
		for _, e := range dcrouter.FieldErrors(err) {
			list = append(list, e.Path)
		}
		if got := strings.Join(list, " "); got != "blocking.blockList[0] blocking.count[0] blocking.refuse[0] blocking.events blocking.duration blocking.reputation" {
			t.Error(err)
		}
	})
}

// Packets of RADIUS, which anybody can forge, show as events and block nobody.
func TestForgeableEventsDoNotBlock(t *testing.T) {
	tool := testenv.Need(t, "radclient", "apt install freeradius-utils")
	g := guard(t, storage.Memory(), `{"allowList": ["127.0.0.50"], "events": 1}`)
	for range 3 {
		cmd := exec.Command(tool, "-r", "1", "-t", "0.2", strings.TrimSuffix(g.Addrs()["radius"][0], "/udp"), "auth", "not the secret at all")
		cmd.Stdin = strings.NewReader("User-Name=alice,User-Password=x,Message-Authenticator=0x00\n")
		_ = cmd.Run() // there is no answer
	}
	stranger := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(testenv.Loopback(t, "127.0.0.2"))}}
	c, err := stranger.DialContext(t.Context(), "udp", strings.TrimSuffix(g.Addrs()["radius"][0], "/udp"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	events := ""
	o := signIn(t, g.Router)
	testenv.WaitFor(t, 20*time.Second, func() error {
		if events = o.call("getSecurityEvents", map[string]any{"search": "radius"}, nil); !strings.Contains(events, `"kind":"radius_bad_message_authenticator","component":"radius","severity":"warning","address":"127.0.0.1","subject":"switch"`) ||
			!strings.Contains(events, `"kind":"radius_unknown_client","component":"radius","severity":"warning","address":"127.0.0.2"`) {
			return errors.New(events)
		}
		return nil
	})
	if strings.Count(events, "radius_bad_message_authenticator") != 1 {
		t.Errorf("a flood of them shows: %s", events)
	}
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		if got := g.curl(from); got != served {
			t.Errorf("%s, who may not have sent them, gets %q", from, got)
		}
	}
}

// A switch whose certificate has run out is not blocked, with a name in the
// configuration or without. Where there is no list of clients, it is a stranger.
func TestRADIUSClientsAreNotBlocked(t *testing.T) {
	from := testenv.Loopback(t, "127.0.0.66")
	for name, test := range map[string]struct {
		clients string
		blocked int
	}{
		"a name":     {`"clients": [{"name": "switch", "ip": "127.0.0.0/8", "secret": "a long shared secret"}],`, 0},
		"no name":    {`"clients": [{"ip": "127.0.0.0/8", "secret": "a long shared secret"}],`, 0},
		"no clients": {`"secret": "a long shared secret",`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key, _ := testenv.SelfSigned(t)
			r := startRouter(t, loadConfig(t, fmt.Sprintf(`{"blocking": {"allowList": ["127.0.0.1"], "events": 2},
				"radiusConfig": {"listenHost": "127.0.0.1", "port": 0, "accountingPort": 0, %s
					"radSec": {"port": 0, "certificate": {"certPath": %q, "keyPath": %q}, "clientCaPath": %q}}}`, test.clients, cert, key, cert)), dcrouter.WithStorage(storage.Memory()))
			for range 4 {
				d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
				c, err := d.DialContext(t.Context(), "tcp", strings.TrimSuffix(r.Addrs()["radius"][2], "/tcp"))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(c, "no TLS at all")
				c.SetDeadline(time.Now().Add(20 * time.Second))
				_, _ = io.Copy(io.Discard, c) // until it is closed, and that told
				c.Close()
			}
			if s := r.Stats().Blocking; s.Active != test.blocked {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Routers on one storage that tells of changes share blocks.
func TestBlocksAreShared(t *testing.T) {
	shared := storage.Memory()
	one, two := guard(t, shared, `{"allowList": ["127.0.0.1"], "events": 1}`), guard(t, shared, `{"allowList": ["127.0.0.1"], "events": 1}`)
	one.scan("127.0.0.2", 1)
	two.curlUntil("127.0.0.2", "refused")
	signIn(t, two.Router).call("removeBlock", map[string]any{"address": "127.0.0.2"}, nil)
	one.curlUntil("127.0.0.2", served)
}

// Mail that the proxy hands over is refused by the mail system, in its words.
func TestBlockedMailBehindTheProxy(t *testing.T) {
	port := testenv.FreePort(t)
	cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"blocking": {"allowList": ["127.0.0.1"], "blockList": ["127.0.0.2"]},
		"smartProxyConfig": {"listenHost": "127.0.0.1"},
		"emailConfig": {"useSocketHandler": true, "ports": [%d], "hostname": "mx.example.com", "domains": [{"domain": "example.com"}], "dataPath": %q,
			"routes": [{"name": "local", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}]}}`, port, t.TempDir())))
	if err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, dcrouter.WithConfig(cfg))
	for from, want := range map[string]string{"127.0.0.2": "554 5.7.1 127.0.0.2 is blocked", "127.0.0.3": "250 2."} {
		if out, _ := swaks(t, net.JoinHostPort("127.0.0.1", fmt.Sprint(port)), "--local-interface", testenv.Loopback(t, from)); !strings.Contains(out, want) {
			t.Errorf("%s, want %s:\n%s", from, want, out)
		}
	}
	if s := r.Stats().Blocking; s.Refused["email"] != 1 || s.Refused["proxy"] != 0 {
		t.Errorf("%+v", s)
	}
}

// A balancer in front of the mail ports that speaks for itself, as to see whether
// they are there, is not blocked for how it does that.
func TestBalancerOfMailIsNotBlocked(t *testing.T) {
	r := startRouter(t, loadConfig(t, `{"blocking": {"allowList": ["127.0.0.1"], "events": 1}, "emailConfig": {"listenHost": "127.0.0.1", "ports": [0], "hostname": "mx.example.com",
		"proxyProtocol": {"accept": ["127.0.0.2"]}, "connections": {"greetDelay": 300}, "routes": [{"action": {"type": "reject"}}]}}`))
	for _, test := range []struct{ header, want string }{
		{"PROXY UNKNOWN\r\nQUIT\r\n", "554 5.5.1 "}, {"PROXY UNKNOWN\r\n", "220 "}, // it has spoken too early
		{"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nQUIT\r\n", "554 5.5.1 "}, {"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", "421 4.7.1 "},
	} {
		if line, _ := greeted(t, testenv.Loopback(t, "127.0.0.2"), r.Addrs()["email"][0], test.header); !strings.HasPrefix(line, test.want) {
			t.Errorf("%q is answered %q, want %q", test.header, line, test.want)
		}
	}
}
