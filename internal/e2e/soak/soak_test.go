package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// load is a kind of request that is made again and again.
type load struct {
	kind     string
	workers  int
	every    time.Duration // by each worker
	do       func(context.Context) error
	explains []string // faults by which it may fail
}

// loads is all that is asked of the gateway at the same time.
func (w *world) loads(mail *mailBook, streams context.Context) []load {
	keep, fresh := w.client(w.web, true, false), w.client(w.web, false, false)
	tlsKeep, tlsFresh, h2, h2Fresh := w.client(w.secure, true, false), w.client(w.secure, false, false), w.client(w.secure, true, true), w.client(w.secure, false, true)
	doh, ownDoH := overHTTPS(w.client(w.secure, true, true), "dns."+zone), overHTTPS(w.client(w.doh, true, true), nameServer)
	h3 := w.http3Client()
	ops := w.client(w.ops, true, false)
	stable, mortals := w.stable[0].name, []string{w.mortal[0].name, w.mortal[1].name}
	asks := func(client *http.Client, url string, want ...string) func(context.Context) error {
		return func(ctx context.Context) error { return fetch(ctx, client, url, want...) }
	}
	const ms = time.Millisecond
	killed, always := []string{"kill web"}, []string{stopAlways}
	return []load{
		{"HTTP/1.1, kept connections", 4, 100 * ms, asks(keep, "http://plain.test/", stable), nil},
		{"HTTP/1.1, new connections", 2, 100 * ms, asks(fresh, "http://plain.test/", stable), nil},
		{"HTTP/1.1, uploads", 2, 300 * ms, func(ctx context.Context) error { return upload(ctx, keep, "http://plain.test/upload") }, nil},
		{"HTTP/1.1, slow readers", 2, 300 * ms, func(ctx context.Context) error { return download(ctx, fresh, "http://plain.test/big") }, nil},
		{"HTTP, routes that change", 2, 50 * ms, func(ctx context.Context) error { return w.routes.visit(ctx, keep) }, nil},
		{"HTTP, GET of mortal back ends", 2, 50 * ms, asks(keep, "http://mortal.test/", mortals...), killed},
		{"HTTPS, kept connections", 2, 100 * ms, asks(tlsKeep, "https://www."+zone+"/", stable), nil},
		{"HTTPS, new connections", 1, 150 * ms, asks(tlsFresh, "https://api."+zone+"/", stable), nil},
		{"HTTPS, passed through", 1, 150 * ms, asks(tlsFresh, "https://"+passed+"/", stable), nil},
		{"HTTP/2, kept connections", 4, 100 * ms, asks(h2, "https://www."+zone+"/", stable), nil},
		{"HTTP/2, new connections", 1, 300 * ms, asks(h2Fresh, "https://www."+zone+"/", stable), nil},
		{"HTTP/2, uploads", 1, 300 * ms, func(ctx context.Context) error { return upload(ctx, h2, "https://api."+zone+"/upload") }, nil},
		{"HTTP/2, downloads", 1, 500 * ms, func(ctx context.Context) error { return download(ctx, h2, "https://www."+zone+"/big") }, nil},
		{"HTTP/3", 2, 100 * ms, asks(h3, "https://www."+zone+"/", stable), nil},
		{"HTTP/3, uploads", 1, 500 * ms, func(ctx context.Context) error { return upload(ctx, h3, "https://api."+zone+"/upload") }, nil},
		{"WebSocket, open all the time", 2, 100 * ms, func(context.Context) error { return w.webSocket(streams, false, 1e9) }, always},
		{"WebSocket, over TLS", 2, 100 * ms, func(ctx context.Context) error { return w.webSocket(ctx, true, 20) }, nil},
		{"TCP, open all the time", 2, 100 * ms, func(context.Context) error { return stream(streams, w.stream, 1e9) }, always},
		{"TCP, short streams", 2, 200 * ms, func(ctx context.Context) error { return stream(ctx, w.stream, 3) }, nil},
		{"TCP, mortal back ends", 2, 200 * ms, func(ctx context.Context) error { return stream(ctx, w.fragile, 20) }, killed},
		{"TCP, route removed", 1, time.Second, w.routes.drain, always},
		{"UDP", 1, 200 * ms, w.datagrams, nil},
		{"SMTP, queued", 2, 300 * ms, func(ctx context.Context) error { return w.relayed(ctx, mail, "later-ID@"+zone) }, nil},
		{"SMTP, handed on at once", 1, 300 * ms, func(ctx context.Context) error { return w.relayed(ctx, mail, "now-ID@"+zone) }, []string{"sink"}},
		{"SMTP, submitted", 1, 400 * ms, func(ctx context.Context) error { return w.submitted(ctx, mail, "ID@far.test") }, nil},
		{"DNS over UDP", 4, 50 * ms, func(ctx context.Context) error { return w.records.query(ctx, plainDNS("udp", w.dns)) }, nil},
		{"DNS over TCP", 1, 100 * ms, func(ctx context.Context) error { return w.records.query(ctx, plainDNS("tcp", w.dns)) }, nil},
		{"DNS over HTTPS, by the proxy", 1, 100 * ms, func(ctx context.Context) error { return w.records.query(ctx, doh) }, nil},
		{"DNS over HTTPS", 1, 100 * ms, func(ctx context.Context) error { return w.records.query(ctx, ownDoH) }, nil},
		{"DNS over TLS", 1, 200 * ms, func(ctx context.Context) error { return w.records.query(ctx, w.overTLS) }, nil},
		{"DNS over QUIC", 1, 200 * ms, func(ctx context.Context) error { return w.records.query(ctx, w.overQUIC) }, nil},
		{"RADIUS, devices", 1, 100 * ms, w.device, nil},
		{"RADIUS over TLS, devices", 1, 300 * ms, w.deviceOverTLS, nil},
		{"RADIUS, accounting (3 records)", 1, 200 * ms, w.session, nil},
		{"RADIUS, users of a home server", 1, 200 * ms, w.roamer, []string{"kill home"}},
		{"handshakes", 1, 200 * ms, func(ctx context.Context) error { return w.shake(ctx, names[rand.IntN(len(names))]) }, nil},
		{"metrics", 1, time.Second, func(ctx context.Context) error { return metrics(ctx, ops) }, nil},
		{"UpdateRoutes", 1, updatePause, func(context.Context) error { return w.routes.update() }, always},
		{"DNS transactions", 1, 200 * ms, func(context.Context) error { return w.records.change() }, always},
	}
}

// stopAlways explains also what was under way at the stop: what uses the control
// port, and streams that end only then.
const stopAlways = "the gateway ends"

// runs makes the requests of a kind until ctx ends.
func (w *world) runs(ctx context.Context, l *load) {
	explains := append([]string{"stop"}, l.explains...)
	for range l.workers {
		w.work.Go(func() {
			ticker := time.NewTicker(l.every)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				begin := time.Now()
				err := l.do(ctx)
				if ctx.Err() != nil {
					return // it may have been cut off by that
				}
				w.count(l.kind, begin, err, explains...)
			}
		})
	}
}

// soakTime is how long the load lasts.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK=%s: %v", text, err)
	}
	return d
}

func soakSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("SOAK_SEED")
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SOAK_SEED=%s: %v", text, err)
	}
	return seed
}

// A gateway with everything on does its work for a time, while its peers fail, and
// its routes, records and certificates change: no mail is lost, no answer wrong, no
// request fails but by a fault, and nothing grows. It stops in time under that load,
// and then delivers what had to wait.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if runtime.GOOS != "linux" {
		testenv.Lacks(t, "what a process uses is read from /proc, which only Linux has")
	}
	total, seed := soakTime(t), soakSeed(t)
	t.Logf("SOAK=%v SOAK_SEED=%d", total, seed)
	b := &book{start: time.Now(), done: map[string]int{}, logf: t.Logf}
	w := newWorld(t, b, min(max(total/10, time.Minute), 3*time.Minute))
	b.start = time.Now()
	mail := &mailBook{accepted: map[string]time.Time{}, unsure: map[string]bool{}}

	ctx, cancel := context.WithCancel(t.Context())
	defer testenv.Await(t, "the load", w.work.Wait)
	defer cancel()
	streams, endStreams := context.WithCancel(ctx)
	defer endStreams()
	m := &meter{w: w}
	measuring, endMeasuring := context.WithCancel(ctx)
	defer endMeasuring()
	w.work.Go(func() { m.measure(measuring, total) })
	for _, l := range w.loads(mail, streams) {
		w.runs(ctx, &l)
	}
	w.breakThings(ctx, b.start.Add(total), rand.New(rand.NewPCG(seed, 0)))
	endMeasuring()

	// Some mail has to wait when the gateway stops.
	mended := w.breaks("sink killed")
	w.sink.kill()
	pause(ctx, 3*time.Second)
	_, stats, err := w.usage()
	if err != nil {
		t.Fatal(err)
	}
	queued := int(stats.Email.Spool.Messages)
	took := w.stop(t, endStreams)
	cancel()
	testenv.Await(t, "the load", w.work.Wait)
	w.silent(t)

	const soon = 3 * time.Second
	w.startGateway(soon)
	w.sink.start(t)
	mended()
	w.settle(mail)
	w.stopInVain(t, soon)

	table, unexplained := b.table()
	text, grown := m.report()
	mails, problems := mail.report(w.sink, b.start, queued)
	t.Logf("\n%s\n%s\n%s\n%s\nStop took %v of %v\n", table, text, mails, w.serials, took.Round(time.Millisecond), stopWithin)
	for _, list := range [][]string{unexplained, grown, problems, w.serials.few(total)} {
		for i, line := range list {
			if i == 20 {
				t.Errorf("and %d more", len(list)-i)
				break
			}
			t.Error(line)
		}
	}
	if queued == 0 {
		t.Error("no mail was waiting at the stop, so nothing is known about it")
	}
}

// stop ends the gateway under load, and says how long that took.
func (w *world) stop(t *testing.T, endStreams func()) time.Duration {
	t.Helper()
	defer w.breaks(stopAlways)()
	defer w.fault(fault{name: "stop", late: true})()
	begin := time.Now()
	_ = w.node.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(2*time.Second, endStreams) // so long they may go on
	defer timer.Stop()
	select {
	case <-w.node.Done():
	case <-time.After(stopWithin + patience):
		t.Fatal("the gateway does not stop")
	}
	took := time.Since(begin)
	if code := w.node.ExitCode(); code != 0 || took > stopWithin {
		t.Errorf("stopped after %v with exit status %d:\n%s", took, code, lastLines(w.node.Output(), 20))
	}
	return took
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// silent checks that nobody listens on the gateway's ports any more.
func (w *world) silent(t *testing.T) {
	t.Helper()
	for _, port := range []int{w.web, w.secure, w.stream, w.fragile, w.drain, w.smtp, w.submission, w.dns, w.ops, w.control} {
		if c, err := net.Dial("tcp", address(port)); err == nil {
			c.Close()
			t.Errorf("somebody listens on port %d after the stop", port)
		}
	}
	for _, port := range []int{w.dns, w.auth, w.acct} {
		pc, err := net.ListenPacket("udp", address(port))
		if err != nil {
			t.Errorf("after the stop: %v", err)
			continue
		}
		pc.Close()
	}
}

// settle waits until all mail has arrived and the secondary has the zone as it is,
// and looks at what the gateway says after its restart.
func (w *world) settle(mail *mailBook) {
	ctx := w.t.Context()
	for end := time.Now().Add(2 * patience); len(mail.missing(w.sink)) > 0 && time.Now().Before(end); pause(ctx, time.Second) {
		begin := time.Now()
		w.count("mail told to go", begin, w.tell("/retry", nil, nil))
	}
	w.eventually(ctx, "secondary follows in the end", w.secondaryFollows)
	for _, name := range names { // perhaps it has to be renewed first
		w.eventually(ctx, "handshakes after the restart", func(ctx context.Context) error { return w.shake(ctx, name) })
	}
	for range 10 * changing {
		begin := time.Now()
		w.count("DNS of the secondary in the end", begin, w.records.query(ctx, plainDNS("udp", w.second.port)))
		begin = time.Now()
		w.count("DNS after the restart", begin, w.records.query(ctx, plainDNS("udp", w.dns)))
	}
}

// eventually counts as one request what has to go well within a minute.
func (w *world) eventually(ctx context.Context, kind string, do func(context.Context) error) {
	begin := time.Now()
	err := do(ctx)
	for err != nil && time.Since(begin) < patience && pause(ctx, time.Second) {
		err = do(ctx)
	}
	w.count(kind, begin, err)
}

// secondaryFollows returns an error if the secondary has another version of the zone.
func (w *world) secondaryFollows(ctx context.Context) error {
	ours, err := serial(ctx, w.dns)
	if err != nil {
		return err
	}
	theirs, err := serial(ctx, w.second.port)
	if err == nil && ours != theirs {
		err = fmt.Errorf("serial number %d, and %d at the secondary", ours, theirs)
	}
	return err
}

// stopInVain stops the gateway under a stream that does not end: it is cut when the
// deadline is over, which is an error.
func (w *world) stopInVain(t *testing.T, deadline time.Duration) {
	t.Helper()
	c, err := dial(t.Context(), w.stream)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	_ = w.node.Signal(syscall.SIGTERM)
	testenv.Await(t, "the gateway", func() { <-w.node.Done() })
	if code, took := w.node.ExitCode(), time.Since(begin); code != 1 || took < deadline || !strings.Contains(w.node.Output(), "proxy: connections were still open") || strings.Contains(w.node.Output(), "radius:") {
		t.Errorf("stopped after %v with exit status %d:\n%s", took, code, lastLines(w.node.Output(), 20))
	}
}
