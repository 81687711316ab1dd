package opsapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// sse is an event as it came over the network.
type sse struct{ id, event, data string }

// reader is somebody who follows events.
type reader struct {
	t      *testing.T
	status int
	events chan sse // closed at the end of the stream
	cancel context.CancelFunc
}

// follow opens a stream and reads it until the test ends.
func (d *desk) follow(token, query string, headers ...string) *reader {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/api/v1/events?"+query, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	read := &reader{t: d.t, status: resp.StatusCode, events: make(chan sse, 10_000), cancel: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(read.events)
		defer resp.Body.Close()
		var e sse
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			case "":
				if e.event != "" {
					read.events <- e
				}
				e = sse{}
			}
		}
	}()
	d.t.Cleanup(func() { cancel(); <-done })
	return read
}

// next waits for an event of the kind.
func (r *reader) next(kind string) sse {
	r.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e, open := <-r.events:
			if !open {
				r.t.Fatalf("the stream ended before %q", kind)
			}
			if e.event == kind {
				return e
			}
		case <-timeout:
			r.t.Fatalf("no %q came", kind)
		}
	}
}

// ends waits for the end of the stream.
func (r *reader) ends() {
	r.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case _, open := <-r.events:
			if !open {
				return
			}
		case <-timeout:
			r.t.Fatal("the stream does not end")
		}
	}
}

func TestEvents(t *testing.T) {
	testenv.Goroutines(t)
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	r := d.follow(token, "")
	if e := r.next("health"); !strings.Contains(e.data, `"status":"healthy"`) {
		t.Errorf("health is %s", e.data)
	}
	if e := r.next("stats"); !strings.Contains(e.data, `"requests":7`) || strings.Contains(e.data, "s3cret") {
		t.Errorf("stats are %s", e.data)
	}
	d.server.ReportSecurity(SecurityEvent{Kind: "scan", Component: "proxy", Message: "many ports\nat once"})
	if e := r.next("security"); !strings.Contains(e.data, `many ports\nat once`) {
		t.Errorf("security is %s", e.data)
	}
	d.greet(token, "hello", object{"confirmWithinSeconds": 3600}).into(&Applied{})
	if e := r.next("configuration"); !strings.Contains(e.data, `"what":"pending","version":2`) {
		t.Errorf("configuration is %s", e.data)
	}
	audit := d.follow(token, "topics=audit")
	d.post(token, "confirmConfiguration", object{"version": 2}).into(&Applied{})
	if e := r.next("configuration"); !strings.Contains(e.data, `"what":"confirmed"`) {
		t.Errorf("configuration is %s", e.data)
	}
	if e := audit.next("audit"); !strings.Contains(e.data, "confirmConfiguration") {
		t.Errorf("audit is %s", e.data)
	}

	// The host's own topics.
	if err := d.server.Publish("mail", object{"id": "m1"}); err != nil {
		t.Fatal(err)
	}
	mail := d.follow(token, "topics=mail&mailAfter=0")
	if e := mail.next("mail"); e.data != `{"id":"m1"}` {
		t.Errorf("mail is %s", e.data)
	}
	if e := r.next("mail"); e.data != `{"id":"m1"}` { // there was no such topic when he came
		t.Errorf("mail is %s", e.data)
	}
	for _, topic := range []string{"stats", "audit", "log", "security", "", "a b", strings.Repeat("x", 65)} {
		if d.server.Publish(topic, 1) == nil {
			t.Errorf("%q was published", topic)
		}
	}
	if d.server.Publish("mail", strings.Repeat("x", maxEvent)) == nil || d.server.Publish("mail", func() {}) == nil {
		t.Error("published what cannot be")
	}

	for query, status := range map[string]int{"topics=bogus": 400, "topics=log&level=loud": 400, "topics=log&logAfter=x": 400} {
		if r := d.follow(token, query); r.status != status {
			t.Errorf("%s: %d", query, r.status)
		}
	}
	if r := d.follow(d.viewer(), "topics=audit"); r.status != http.StatusForbidden {
		t.Errorf("a viewer follows the audit log: %d", r.status)
	}
	if r := d.follow("", ""); r.status != http.StatusUnauthorized {
		t.Errorf("a stranger follows: %d", r.status)
	}
}

func TestEventsResume(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.admin()
	report := func(from, to int) {
		for i := from; i <= to; i++ {
			d.server.ReportSecurity(SecurityEvent{Kind: "scan", Message: fmt.Sprintf("number %d", i)})
		}
	}
	r := d.follow(token, "topics=security")
	report(1, 10)
	var last sse
	for i := 1; i <= 4; i++ {
		if last = r.next("security"); !strings.Contains(last.data, fmt.Sprintf("number %d\"", i)) {
			t.Fatalf("got %s", last.data)
		}
	}
	r.cancel()
	report(11, 20)
	r = d.follow(token, "topics=security", "Last-Event-ID", last.id)
	for i := 5; i <= 20; i++ {
		if last = r.next("security"); !strings.Contains(last.data, fmt.Sprintf("number %d\"", i)) {
			t.Fatalf("got %s, want number %d", last.data, i)
		}
	}
	r.cancel()

	// What came too long ago is said to be lost, and the rest comes.
	report(21, 21+heldEvents+99)
	r = d.follow(token, "topics=security", "Last-Event-ID", last.id)
	if e := <-r.events; e.event != "lost" || e.data != `{"topics":{"security":100}}` {
		t.Errorf("resumed with %+v", e)
	}
	if e := <-r.events; e.event != "security" || !strings.Contains(e.data, "number 121\"") {
		t.Errorf("resumed with %+v", e)
	}
	// An id of another process is of no use.
	r = d.follow(token, "topics=security", "Last-Event-ID", "OTHER-security.5")
	if e := r.next("lost"); e.data != `{"topics":{"security":0}}` {
		t.Errorf("lost %s", e.data)
	}
	for _, id := range []string{"", "-", "x", last.id + "-", strings.Repeat("9", 1000), d.server.boot + "-security.99999999999999999999"} {
		if r := d.follow(token, "topics=security", "Last-Event-ID", id); r.status != http.StatusOK {
			t.Errorf("%q: %d", id, r.status)
		}
	}
}

func TestLogTail(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.viewer()
	r := d.follow(token, "topics=log&level=warn&component=mail&search=REFUSED")
	all := d.follow(token, "topics=log")
	log := d.log.With("component", "mail")
	log.Info("refused, but not important")
	log.Warn("accepted")
	d.log.Warn("refused", "component", "proxy")
	log.Warn("refused by <mx>", "conn_id", "c1")
	e := r.next("log")
	var entry LogEntry
	if err := json.Unmarshal([]byte(e.data), &entry); err != nil || entry.Message != "refused by <mx>" || entry.Correlation != "c1" {
		t.Errorf("got %s, %v", e.data, err)
	}
	for _, want := range []string{"refused, but not", "accepted", "refused", "refused by <mx>"} {
		for {
			if e := all.next("log"); strings.Contains(e.data, want) {
				break
			} else if !strings.Contains(e.data, `"component":"ops"`) {
				t.Fatalf("got %s, want %s", e.data, want)
			}
		}
	}
	// From the list on to the tail without a gap.
	gap := d.follow(token, fmt.Sprintf("topics=log&component=mail&logAfter=%d", entry.Seq-1))
	if e := gap.next("log"); !strings.Contains(e.data, "refused by <mx>") {
		t.Errorf("got %s", e.data)
	}
}

func TestStreamsEndWithTheirSession(t *testing.T) {
	testenv.Goroutines(t)
	d := openDesk(t, newHost(), nil)
	token, other := d.admin(), d.viewer()
	r, stays := d.follow(token, ""), d.follow(other, "")
	r.next("health")
	d.post(token, "adminLogout", object{}).into(&nothing{})
	if e := r.next("bye"); e.data != `{"reason":"signed out"}` {
		t.Errorf("bye %s", e.data)
	}
	r.ends()
	stays.next("stats")
	d.stop()
	if e := stays.next("bye"); e.data != `{"reason":"stopping"}` {
		t.Errorf("bye %s", e.data)
	}
	stays.ends()
}

func TestFiftyReaders(t *testing.T) {
	testenv.Goroutines(t)
	d := openDesk(t, newHost(), nil)
	token := d.viewer()
	var wait sync.WaitGroup
	readers := make([]*reader, 50)
	for i := range readers {
		readers[i] = d.follow(token, "topics=stats,security")
	}
	const events = 300
	for i := range events {
		d.server.ReportSecurity(SecurityEvent{Kind: "scan", Message: fmt.Sprint(i)})
	}
	for _, r := range readers {
		wait.Go(func() {
			deadline := time.After(30 * time.Second)
			for got := 0; got < events; {
				select {
				case e, open := <-r.events:
					if !open || e.event == "lost" {
						t.Errorf("lost %+v", e)
						return
					}
					if e.event == "security" {
						got++
					}
				case <-deadline:
					t.Errorf("%d events came", got)
					return
				}
			}
		})
	}
	wait.Wait()
}

// A reader who takes nothing holds nobody up, and is told what he missed.
func TestSlowReader(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.base+"/api/v1/events?topics=flood,security", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.server.Publish("flood", "x"); err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+d.viewer())
	resp, err := d.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begin := time.Now()
	event := strings.Repeat("x", maxEvent-2)
	for range 2 * heldEvents { // 32 MiB, of which half is held and buffers of the system do not take the rest
		if err := d.server.Publish("flood", event); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("publishing took %v", took)
	}
	found := make(chan bool)
	go func() {
		defer close(found)
		lines := bufio.NewReaderSize(resp.Body, 1<<20)
		for {
			line, err := lines.ReadString('\n')
			if strings.HasPrefix(line, "event: lost") {
				data, _ := lines.ReadString('\n')
				found <- strings.Contains(data, "flood")
				return
			}
			if err != nil {
				t.Errorf("the stream ended: %v", err)
				return
			}
		}
	}()
	select {
	case ok := <-found:
		if !ok {
			t.Error("what was lost is not said")
		}
	case <-time.After(40 * time.Second):
		t.Error("nothing is said to be lost")
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1))
}

func TestStreamsAreBounded(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.viewer()
	streams := d.server.running().streams
	for range cap(streams) {
		streams <- struct{}{}
	}
	a := d.send(http.MethodGet, "/api/v1/events", token, nil)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	for range cap(streams) {
		<-streams
	}
}

func FuzzResume(f *testing.F) {
	f.Add("BOOT-security.5-log.7")
	f.Add("OTHER-security.5")
	f.Add("BOOT-security.99999999999999999999-.-x.1")
	f.Fuzz(func(t *testing.T, id string) {
		events := newEvents()
		events.security.Put(func(n uint64) SecurityEvent { return SecurityEvent{Seq: n} })
		st := &stream{boot: "BOOT", feeds: []*feed{feedOf(topicSecurity, events.security, func(e SecurityEvent) (any, bool) { return e, true })}}
		st.resume(id)
		if _, err := st.collect(); err != nil || st.feeds[0].after > 1 {
			t.Errorf("%q leads to %d, %v", id, st.feeds[0].after, err)
		}
	})
}
