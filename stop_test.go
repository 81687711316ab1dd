package dcrouter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// loadedRouter has HTTP, mail and DNS on fixed ports, and its data in dir. What is
// not for example.com stays in the spool. last answers at /last.
func loadedRouter(t testing.TB, dir, mode string, web, mail, dns int, last http.Handler) *dcrouter.Router {
	t.Helper()
	c, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"storage": {"fsPath": %q}, "smartProxyConfig": {"listenHost": "127.0.0.1"},
		"dnsServerConfig": {"listenHost": "127.0.0.1", "port": %d, "records": [{"name": "www.example.com", "type": "A", "value": "192.0.2.1"}]},
		"emailConfig": {"listenHost": "127.0.0.1", "ports": [%d], %s "hostname": "mx.example.com", "domains": [{"domain": "example.com", "dmarc": "monitor"}],
			"smartHost": {"host": "127.0.0.1", "port": 9}, "queue": {"paused": true}, "resolvers": ["127.0.0.1:%d"],
			"routes": [{"name": "in", "match": {"recipients": "*@example.com"}, "action": {"type": "deliver"}},
				{"name": "out", "match": {"clientIp": "127.0.0.1"}, "action": {"type": "process"}}]}}`, dir, dns, mail, mode, dns)))
	if err != nil {
		t.Fatal(err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 10_000)) })
	c.Proxy.Routes = []proxy.Route{
		{Name: "last", Match: proxy.Match{Ports: proxy.Ports(web), Path: "/last"}, Action: proxy.Action{Handler: last}},
		{Name: "web", Match: proxy.Match{Ports: proxy.Ports(web)}, Action: proxy.Action{Handler: answer}},
	}
	return startRouter(t, dcrouter.WithConfig(c))
}

// lookUp asks the DNS server.
func lookUp(ctx context.Context, network string, port int) (string, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
	}}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	list, err := r.LookupNetIP(ctx, "ip4", "www.example.com.")
	return fmt.Sprint(list), err
}

// sendTo sends a message with a recipient, and returns nil if it was accepted.
func sendTo(c *smtp.Client, to string) error {
	if err := c.Mail("a@example.net"); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "From: a@example.net\r\nSubject: %s\r\n\r\nHi\r\n", to)
	return w.Close()
}

// Clients of all kinds are at work when the Router stops: it stops in time, in its
// order, breaks off no answer, and loses no mail that it has accepted.
func TestStopUnderLoad(t *testing.T) {
	for name, how := range mailModes() {
		t.Run(name, func(t *testing.T) {
			testenv.Goroutines(t)
			dir := t.TempDir()
			web, mail, dns := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
			inLast, stopping := make(chan struct{}), make(chan struct{})
			// A request that is under way when Stop begins needs the DNS server, which
			// therefore stops after the proxy.
			last := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				close(inLast)
				select {
				case <-stopping:
				case <-req.Context().Done():
					return
				}
				got, err := lookUp(context.WithoutCancel(req.Context()), "udp", dns)
				fmt.Fprint(w, got, err)
			})
			r := loadedRouter(t, dir, how[0], web, mail, dns, last)

			var clients sync.WaitGroup
			var requests, answers atomic.Int64
			done := make(chan struct{})
			defer clients.Wait()
			end := sync.OnceFunc(func() { close(done) })
			defer end()
			over := func() bool {
				select {
				case <-done:
					return true
				default:
					return false
				}
			}
			for range 3 {
				clients.Go(func() {
					client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
					defer client.CloseIdleConnections()
					for !over() {
						resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", web))
						if err != nil {
							return // there is no Router any more
						}
						body, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || resp.StatusCode != 200 || len(body) != 10_000 {
							t.Errorf("an answer of %d, %d bytes: %v", resp.StatusCode, len(body), err)
							return
						}
						requests.Add(1)
					}
				})
			}
			for _, network := range []string{"udp", "tcp"} {
				clients.Go(func() {
					for !over() {
						got, err := lookUp(t.Context(), network, dns)
						if err != nil {
							return
						}
						if got != "[192.0.2.1]" {
							t.Errorf("DNS by %s: %s", network, got)
						}
						answers.Add(1)
					}
				})
			}
			var mu sync.Mutex
			accepted := map[string]bool{}
			for i := range 4 {
				clients.Go(func() {
					for n := 0; !over(); {
						c, err := smtp.Dial(fmt.Sprintf("127.0.0.1:%d", mail))
						if err != nil {
							return
						}
						for range 10 {
							to := fmt.Sprintf("m%d-%d@%s", i, n, []string{"example.com", "example.org"}[n%2])
							if err = sendTo(c, to); err != nil {
								break
							}
							n++
							mu.Lock()
							accepted[to] = true
							mu.Unlock()
						}
						c.Close()
						if err != nil {
							return
						}
					}
				})
			}
			lastAnswer := make(chan string, 1)
			clients.Go(func() {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/last", web))
				if err != nil {
					lastAnswer <- err.Error()
					return
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				lastAnswer <- fmt.Sprint(string(body), err)
			})
			testenv.Receive(t, inLast)
			testenv.WaitFor(t, time.Minute, func() error {
				mu.Lock()
				defer mu.Unlock()
				if len(accepted) < 40 || requests.Load() < 100 || answers.Load() < 20 {
					return fmt.Errorf("so far %d mails, %d requests, %d lookups", len(accepted), requests.Load(), answers.Load())
				}
				return nil
			})

			const deadline = 30 * time.Second
			stopped := make(chan error, 1)
			began := time.Now()
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				defer cancel()
				stopped <- r.Stop(ctx)
			}()
			testenv.WaitFor(t, deadline, func() error {
				conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", web))
				if err == nil {
					conn.Close()
					return errors.New("the proxy still accepts")
				}
				return nil
			})
			close(stopping)
			if got := testenv.Receive(t, lastAnswer); got != "[192.0.2.1]<nil><nil>" {
				t.Errorf("the last request got %q", got)
			}
			if err := testenv.Receive(t, stopped); err != nil || time.Since(began) > deadline {
				t.Errorf("stopped after %v: %v", time.Since(began), err)
			}
			end()
			testenv.Await(t, "the clients", clients.Wait)

			// All that was accepted is in a mailbox, or in the spool for the next start.
			kept := map[string]bool{}
			boxes, _ := filepath.Glob(filepath.Join(dir, "mail/example.com/*/new/*"))
			for _, m := range boxes {
				kept[filepath.Base(filepath.Dir(filepath.Dir(m)))+"@example.com"] = true
			}
			again := loadedRouter(t, dir, how[0], web, mail, dns, last)
			for m, err := range again.Email().Queue(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				for _, rcpt := range m.Recipients {
					kept[rcpt.Address] = true
				}
			}
			lost := 0
			for to := range accepted {
				if !kept[to] {
					lost++
				}
			}
			if lost > 0 {
				t.Errorf("%d of %d accepted mails are lost", lost, len(accepted))
			}
			t.Logf("stopped in %v with %d mails, %d requests, %d lookups", time.Since(began), len(accepted), requests.Load(), answers.Load())
		})
	}
}
