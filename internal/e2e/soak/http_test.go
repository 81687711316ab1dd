package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// requestTime is how long any request may take.
const requestTime = 30 * time.Second

// client connects to one port whatever it is asked for.
func (w *world) client(port int, keep, http2 bool) *http.Client {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, port) },
		DisableKeepAlives: !keep, ForceAttemptHTTP2: http2, MaxIdleConnsPerHost: 20,
	}
	if port == w.secure || port == w.doh {
		transport.DialTLSContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return w.dialTLS(ctx, port, addr, http2) }
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: requestTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dialTLS connects to a port for TLS, verifies the certificate as of now, and
// notes which one it is.
func (w *world) dialTLS(ctx context.Context, port int, addr string, http2 bool) (net.Conn, error) {
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, port)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: name, RootCAs: w.trusted(), NextProtos: []string{"http/1.1"}}
	if name == passed {
		config.RootCAs = w.stable[0].roots
	}
	if http2 {
		config.NextProtos = []string{"h2"}
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	w.serials.note(name, secure.ConnectionState())
	return secure, nil
}

// shake does a handshake and no more; for the mail server's name by STARTTLS.
func (w *world) shake(ctx context.Context, name string) error {
	if name == "mx."+zone {
		c, err := w.signIn(ctx)
		if err == nil {
			err = c.Quit()
		}
		return err
	}
	c, err := w.dialTLS(ctx, w.secure, net.JoinHostPort(name, "443"), rand.IntN(2) == 0)
	if err != nil {
		return err
	}
	return c.Close()
}

// serialBook has which certificates were seen.
type serialBook struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // serial numbers by name
}

func (b *serialBook) note(name string, state tls.ConnectionState) {
	if len(state.PeerCertificates) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[name] == nil {
		b.seen[name] = map[string]bool{}
	}
	b.seen[name][state.PeerCertificates[0].SerialNumber.String()] = true
}

// String is how many there were.
func (b *serialBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var w strings.Builder
	w.WriteString("certificates seen:")
	for _, name := range names {
		fmt.Fprintf(&w, " %s %d", name, len(b.seen[name]))
	}
	return w.String()
}

// few says what was renewed too seldom in such a time. Pebble suggests any time in
// the life of a certificate for that, so in a short run only some are.
func (b *serialBook) few(total time.Duration) (problems []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	renewals := 0
	for _, name := range names {
		n := len(b.seen[name]) - 1
		renewals += n
		if total >= 10*time.Minute && n < 3 {
			problems = append(problems, fmt.Sprintf("%s was renewed only %d times", name, n))
		}
	}
	if renewals == 0 {
		problems = append(problems, "no certificate was renewed")
	}
	return problems
}

func get(ctx context.Context, client *http.Client, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// fetch wants one of these answers.
func fetch(ctx context.Context, client *http.Client, url string, want ...string) error {
	status, body, err := get(ctx, client, url)
	if err != nil {
		return err
	}
	for _, name := range want {
		if status == http.StatusOK && body == name {
			return nil
		}
	}
	return fmt.Errorf("%d: %.200q", status, body)
}

// upload sends something and wants to hear its hash.
func upload(ctx context.Context, client *http.Client, url string) error {
	body := make([]byte, rand.IntN(100<<10))
	_, _ = io.ReadFull(&pattern{at: rand.Uint64()}, body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && string(text) != fmt.Sprintf("%x", sha256.Sum256(body)) {
		err = fmt.Errorf("%s: %.200q is not the hash of what was sent", resp.Status, text)
	}
	return err
}

// download reads something big at its leisure, and compares it to the byte.
func download(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	p := new(pattern)
	for range 16 {
		if err := p.check(resp.Body, bigSize/16); err != nil {
			return err
		}
		if !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("more than there is, or %v", err)
	}
	return nil
}

// metrics scrapes the operations API, as Prometheus would.
func metrics(ctx context.Context, client *http.Client) error {
	status, body, err := get(ctx, client, "http://localhost/metrics")
	if err == nil && (status != http.StatusOK || !strings.Contains(body, "dcrouter_proxy_")) {
		err = fmt.Errorf("%d: %.200q", status, body)
	}
	return err
}

// webSocket keeps a WebSocket open for so many echoes.
func (w *world) webSocket(ctx context.Context, secure bool, echoes int) (err error) {
	var c net.Conn
	host := "plain.test"
	if secure {
		host = "www." + zone
		c, err = w.dialTLS(ctx, w.secure, net.JoinHostPort(host, "443"), false)
	} else {
		c, err = dial(ctx, w.web)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(requestTime))
	r, err := dialWebSocket(c, host)
	if err != nil {
		return err
	}
	source := &pattern{at: rand.Uint64()}
	for range echoes {
		_ = c.SetDeadline(time.Now().Add(requestTime))
		text := make([]byte, 200+rand.IntN(2000))
		_, _ = source.Read(text)
		if err := writeFrame(c, text, true); err != nil {
			return err
		}
		got, err := readFrame(r)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, text) {
			return errors.New("the echo is wrong")
		}
		if !pause(ctx, 200*time.Millisecond) {
			return nil
		}
	}
	return nil
}

// stream sends so many chunks over TCP and compares the echo to the byte.
func stream(ctx context.Context, port, chunks int) error {
	c, err := dial(ctx, port)
	if err != nil {
		return err
	}
	defer c.Close()
	out, in := new(pattern), new(pattern)
	for range chunks {
		_ = c.SetDeadline(time.Now().Add(requestTime))
		n := 1 + rand.IntN(20<<10)
		if _, err := io.CopyN(c, out, int64(n)); err != nil {
			return err
		}
		if err := in.check(c, n); err != nil {
			return err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	return nil
}

// datagrams sends some from one address and wants each back. They may get lost on
// the way: each has four tries.
func (w *world) datagrams(ctx context.Context) error {
	d := net.Dialer{}
	c, err := d.DialContext(ctx, "udp", address(w.stream))
	if err != nil {
		return err
	}
	defer c.Close()
	for range 5 {
		out, in := make([]byte, 1000), make([]byte, 2000)
		_, _ = io.ReadFull(&pattern{at: rand.Uint64()}, out)
		err := errors.New("never sent")
		for try := 0; err != nil && try < 4; try++ {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err = c.Write(out); err != nil {
				continue
			}
			for n := 0; err == nil && !bytes.Equal(in[:n], out); { // an answer to an earlier try may come, too
				n, err = c.Read(in)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// halfOpen begins something on a port and says no more.
func (w *world) halfOpen(ctx context.Context) error {
	ports := map[int]string{w.web: "GET / HT", w.secure: "\x16\x03\x01", w.stream: "", w.smtp: "EHL", w.submission: "", w.dns: "\x00"}
	for port, text := range ports {
		c, err := dial(ctx, port)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
	}
	pause(ctx, time.Duration(rand.IntN(8000))*time.Millisecond)
	return nil
}
