//go:build unix

package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// everything writes a configuration with all that listens. Mail has a port of its own,
// or is behind the proxy.
func everything(t *testing.T, web, stream int, behindProxy bool) (file, data string) {
	t.Helper()
	data = testenv.Folder(t)
	file = filepath.Join(testenv.Folder(t), "gateway.json")
	write(t, file, fmt.Sprintf(`{
  "smartProxyConfig": {"listenHost": "127.0.0.1", "routes": [
    {"name": "web", "match": {"ports": %d, "protocol": "http"}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": %d}}},
    {"name": "stream", "match": {"ports": %d}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": %d}}}]},
  "emailConfig": {"hostname": "mx.example.com", "listenHost": "127.0.0.1", "useSocketHandler": %t, "ports": [%d],
    "domains": [{"domain": "example.com", "dnsMode": "external-dns"}],
    "routes": [{"match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}}]},
  "dnsServerConfig": {"listenHost": "127.0.0.1", "port": %d, "records": [{"name": "www.example.org", "type": "A", "value": "192.0.2.1"}],
    "nameServers": ["ns1.example.org"], "zones": [{"name": "example.org"}]},
  "radiusConfig": {"listenHost": "127.0.0.1", "port": %d, "accountingPort": %d, "secret": "0123456789abcdef",
    "vlanAssignment": [{"match": {"mac": "aa:bb:cc:*"}, "vlan": 100}], "macAuth": {"enabled": true}},
  "opsServerConfig": {"port": 0, "admin": {"username": "admin", "password": "long enough"}},
  "storage": {"fsPath": %q}
}`, testenv.FreePort(t), web, testenv.FreePort(t), stream, behindProxy, testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t), data))
	return file, data
}

// load is clients that run through upgrades, and what went wrong for them.
type load struct {
	t       *testing.T
	ctx     context.Context
	workers sync.WaitGroup
	rounds  map[string]*atomic.Int64
	mu      sync.Mutex
	failed  map[string][]string
	longest map[string]time.Duration
}

func newLoad(t *testing.T) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{t: t, ctx: ctx, rounds: map[string]*atomic.Int64{}, failed: map[string][]string{}, longest: map[string]time.Duration{}}
	t.Cleanup(func() {
		cancel()
		l.workers.Wait()
	})
	return l
}

// keep has n workers do something all the time.
func (l *load) keep(name string, n int, do func(ctx context.Context) error) {
	count := new(atomic.Int64)
	l.rounds[name] = count
	for range n {
		l.workers.Go(func() {
			for l.ctx.Err() == nil {
				began := time.Now()
				err := do(l.ctx)
				if l.ctx.Err() != nil {
					return
				}
				count.Add(1)
				l.mu.Lock()
				l.longest[name] = max(l.longest[name], time.Since(began))
				if err != nil && len(l.failed[name]) < 10 {
					l.failed[name] = append(l.failed[name], err.Error())
				}
				l.mu.Unlock()
			}
		})
	}
}

// goOn waits until everybody has been served again.
func (l *load) goOn() {
	l.t.Helper()
	before := map[string]int64{}
	for name, n := range l.rounds {
		before[name] = n.Load()
	}
	testenv.WaitFor(l.t, time.Minute, func() error {
		for name, n := range l.rounds {
			if n.Load() < before[name]+2 {
				return fmt.Errorf("%s does not go on", name)
			}
		}
		return nil
	})
}

func (l *load) report() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.rounds {
		l.t.Logf("%s: %d times, the longest took %v", name, n.Load(), l.longest[name].Round(time.Millisecond))
		for _, text := range l.failed[name] {
			l.t.Errorf("%s: %s", name, text)
		}
	}
}

// command returns a program's run as work for keep.
func command(want, stdin, name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			return fmt.Errorf("%s: %v: %s", name, err, out)
		}
		return nil
	}
}

// nextReady waits for the ready line of the process after this one.
func (g *gateway) nextReady(t *testing.T) (addrs map[string][]string) {
	t.Helper()
	lines := make(chan string, 1)
	go func() {
		line, _ := g.out.ReadString('\n')
		lines <- line
	}()
	var line string
	testenv.WaitFor(t, time.Minute, func() error {
		select {
		case line = <-lines:
			return nil
		default:
			return errors.New("the new process is not ready")
		}
	})
	object, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		t.Fatalf("no ready line\n%s", g.log)
	}
	if err := json.Unmarshal([]byte(object), &addrs); err != nil {
		t.Fatal(err)
	}
	return addrs
}

// pid finds in the log who serves after so many upgrades.
func (g *gateway) pid(t *testing.T, upgrades int) (pid int) {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() error {
		parts := strings.Split(g.log.String(), "the new process serves")
		if len(parts) <= upgrades {
			return errors.New("the old process has not said that the new one serves")
		}
		_, text, _ := strings.Cut(parts[upgrades], "pid=")
		_, err := fmt.Sscan(text, &pid)
		return err
	})
	return pid
}

func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// ended waits for the end of a process that need not be a child of this one, and
// of all its threads: the last one closes its files.
func ended(t *testing.T, pid int) {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") && len(threads) <= 1 {
			return nil
		}
		return errors.New("the process is still there")
	})
}

// TestUpgrade upgrades a gateway again and again under all kinds of load. Nobody
// may notice more than a pause.
func TestUpgrade(t *testing.T) {
	t.Run("mail at its own port", func(t *testing.T) { testUpgrade(t, false) })
	t.Run("mail behind the proxy", func(t *testing.T) { testUpgrade(t, true) })
}

func testUpgrade(t *testing.T, behindProxy bool) {
	const times = 5
	dig := testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	radclient := testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			echoUpgraded(w)
			return
		}
		io.WriteString(w, "page")
	}))
	defer web.Close()
	echo := startEcho(t)
	file, data := everything(t, web.Listener.Addr().(*net.TCPAddr).Port, echo, behindProxy)
	g := run(t, "-config", file)
	pids := []int{g.cmd.Process.Pid}
	defer func() {
		for _, pid := range pids[1:] {
			syscall.Kill(pid, syscall.SIGKILL) // none but ours: they are ended below in order
		}
	}()
	host, stream := g.addrs["proxy"][0], g.addrs["proxy"][1]
	mx := append(g.addrs["proxy"], g.addrs["email"]...)[2]
	dns, _, _ := strings.Cut(g.addrs["dns"][0], "/")
	_, dnsPort, _ := net.SplitHostPort(dns)
	radius, _, _ := strings.Cut(g.addrs["radius"][0], "/")

	l := newLoad(t)
	keepAlive := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20}, Timeout: time.Minute}
	defer keepAlive.CloseIdleConnections()
	l.keep("HTTP with keep-alive", 10, page(keepAlive, "http://"+host))
	anew := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	l.keep("HTTP on new connections", 10, page(anew, "http://"+host))
	var prior http.Protocols
	prior.SetUnencryptedHTTP2(true)
	second := &http.Client{Transport: &http.Transport{Protocols: &prior}, Timeout: time.Minute}
	defer second.CloseIdleConnections()
	// One that comes too late for a connection is told so, and sent again.
	l.keep("HTTP/2", 5, post(second, "http://"+host, func() io.Reader { return strings.NewReader("x") }))
	l.keep("DNS over UDP", 2, command("192.0.2.1", "", dig, "@127.0.0.1", "-p", dnsPort, "+tries=1", "+time=30", "+short", "www.example.org"))
	l.keep("DNS over TCP", 2, command("192.0.2.1", "", dig, "@127.0.0.1", "-p", dnsPort, "+tcp", "+tries=1", "+time=30", "+short", "www.example.org"))
	l.keep("RADIUS", 1, command("Access-Accept", "User-Name=aa:bb:cc:00:00:01\nUser-Password=aa:bb:cc:00:00:01\nCalling-Station-Id=aa:bb:cc:00:00:01\nService-Type=Call-Check\n",
		radclient, "-t", "30", "-r", "1", radius, "auth", "0123456789abcdef"))
	var acknowledged, again atomic.Int64
	l.keep("mail", 2, func(ctx context.Context) error {
		for ; ; again.Add(1) {
			err := mail(mx)
			// As every mail server does that is told to, or loses its connection; but
			// it must have had one.
			var reply *textproto.Error
			if ctx.Err() == nil && (errors.As(err, &reply) && reply.Code == 421 || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
				continue
			}
			if err == nil {
				acknowledged.Add(1)
			}
			return err
		}
	})
	long := dialEcho(t, stream)
	long.say(t, "before")
	webSocket := dialEcho(t, host)
	webSocket.upgrade(t)
	webSocket.say(t, "before")
	l.goOn()

	for i := range times {
		signal(t, pids[i], syscall.SIGUSR2)
		if addrs := g.nextReady(t); fmt.Sprint(addrs) != fmt.Sprint(g.addrs) {
			t.Errorf("listens on %v, not on %v", addrs, g.addrs)
		}
		pids = append(pids, g.pid(t, i+1))
		long.say(t, fmt.Sprint("upgrade ", i))
		webSocket.say(t, fmt.Sprint("upgrade ", i))
		l.goOn()
	}
	for _, pid := range pids[1:times] {
		ended(t, pid) // the first one still has the long connections
	}
	long.Close()
	webSocket.say(t, "alone")
	webSocket.Close()
	ended(t, pids[0])
	l.report()
	for line := range strings.Lines(g.log.String()) {
		if strings.Contains(line, "the new process serves") || strings.Contains(line, "level=ERROR") {
			t.Log(strings.TrimSpace(line))
		}
	}

	// Whatever was acknowledged is there.
	t.Logf("%d mails were acknowledged, %d tried again", acknowledged.Load(), again.Load())
	delivered := filepath.Join(data, "mail", "example.com", "bob", "new")
	testenv.WaitFor(t, time.Minute, func() error {
		files, err := os.ReadDir(delivered)
		if int64(len(files)) < acknowledged.Load() {
			return fmt.Errorf("%d of %d mails have come, %v", len(files), acknowledged.Load(), err)
		}
		return nil
	})
	signal(t, pids[times], syscall.SIGTERM)
	ended(t, pids[times])
}

// page sends requests that no client sends again by itself: POST, with a body that
// can be read once.
func page(c *http.Client, url string) func(context.Context) error {
	return post(c, url, func() io.Reader { return struct{ io.Reader }{strings.NewReader("x")} })
}

func post(c *http.Client, url string, body func() io.Reader) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body())
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "page") {
			err = fmt.Errorf("status %d, %q", resp.StatusCode, body)
		}
		return err
	}
}

// startEcho starts a server that sends lines back.
func startEcho(t *testing.T) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// echoConn is a connection that lives for long.
type echoConn struct {
	net.Conn
	in *bufio.Reader
}

func dialEcho(t *testing.T, addr string) *echoConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &echoConn{c, bufio.NewReader(c)}
}

// upgrade makes it a WebSocket's (RFC 6455 section 1.3), in which the echo minds no
// frames.
func (c *echoConn) upgrade(t *testing.T) {
	t.Helper()
	fmt.Fprintf(c, "GET /socket HTTP/1.1\r\nHost: gateway.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
}

// echoUpgraded sends back what comes once the connection is a WebSocket's.
func echoUpgraded(w http.ResponseWriter) {
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
	w.WriteHeader(http.StatusSwitchingProtocols)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.Copy(c, rw)
}

func (c *echoConn) say(t *testing.T, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(c, text)
	if line, err := c.in.ReadString('\n'); line != text+"\n" {
		t.Fatalf("said %q, heard %q, %v", text, line, err)
	}
}

// An upgrade that fails changes nothing.
func TestUpgradeFails(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page") }))
	defer web.Close()
	file, data := everything(t, web.Listener.Addr().(*net.TCPAddr).Port, startEcho(t), false)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g := run(t, "-config", file)
	long := dialEcho(t, g.addrs["proxy"][1])
	long.say(t, "before")
	l := newLoad(t)
	anew := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	l.keep("HTTP", 4, page(anew, "http://"+g.addrs["proxy"][0]))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	session, err := smtp.Dial(g.addrs["email"][0])
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for i, bad := range []string{
		strings.Replace(string(good), "hostname", "hotsname", 1),
		strings.Replace(string(good), `"opsServerConfig": {"port": 0`, fmt.Sprintf(`"opsServerConfig": {"port": %d`, taken.Addr().(*net.TCPAddr).Port), 1),
		// Found at last by starting: after the hand-over, that is.
		strings.Replace(string(good), fmt.Sprintf("%q", data), fmt.Sprintf("%q", filepath.Join(file, "no folder")), 1),
	} {
		write(t, file, bad)
		g.cmd.Process.Signal(syscall.SIGUSR2)
		waitFor(t, "the report", func() bool {
			return strings.Count(g.log.String(), "the upgrade failed, and this process goes on") == i+1
		})
		long.say(t, "after")
		l.goOn()
		if err := session.Noop(); (err == nil) != (i < 2) {
			t.Errorf("a mail session, after an upgrade that failed: %v", err)
		}
		send(t, g.addrs["email"][0])
	}
	l.report()
	if !strings.Contains(g.log.String(), "emailConfig.hotsname") {
		t.Error("the log does not say what is wrong")
	}
	write(t, file, string(good))
	g.cmd.Process.Signal(syscall.SIGUSR2)
	g.nextReady(t)
	next := g.pid(t, 1)
	defer syscall.Kill(next, syscall.SIGKILL)

	// Killed: whoever starts it anew finds everything in order. Mail that was
	// acknowledged is there.
	send(t, g.addrs["email"][0])
	long.say(t, "after")
	signal(t, next, syscall.SIGKILL)
	ended(t, next)
	long.say(t, "the old process has it still")
	again := run(t, "-config", file)
	send(t, again.addrs["email"][0])
	long.Close()
	again.end(t, syscall.SIGTERM)
}

func send(t *testing.T, mx string) {
	t.Helper()
	if err := mail(mx); err != nil {
		t.Errorf("mail: %v", err)
	}
}

// mail sends a mail, and returns nil if it has been acknowledged.
func mail(mx string) error {
	c, err := smtp.Dial(mx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(c.Mail("a@example.net"), c.Rcpt("bob@example.com")); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	io.WriteString(w, "From: a@example.net\r\nSubject: x\r\n\r\nx\r\n")
	return w.Close()
}
