package opsapi

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/ring"
)

func (b *LogBuffer) all() []LogEntry {
	records, _, _ := b.ring.After(0, logEntries)
	var list []LogEntry
	for _, r := range records {
		list = append(list, r.entry())
	}
	return list
}

func TestLogBuffer(t *testing.T) {
	var out bytes.Buffer
	b := NewLogBuffer(slog.NewTextHandler(&out, nil))
	log := slog.New(b).With("component", "mail")
	log.Debug("not wanted by the next one")
	log.WithGroup("tls").With("version", 13).Warn("handshake", slog.Group("peer", "name", "a.example", "port", 25), "err", errors.New("bad\nkey"), "secret", Secret("s3cret"),
		"at", time.Unix(0, 0), slog.Group("", "inline", true))
	slog.New(b).Info("other", "msg_id", "m1")

	list := b.all()
	if len(list) != 2 {
		t.Fatalf("%d entries: %+v", len(list), list)
	}
	e := list[0]
	want := map[string]string{"component": "mail", "tls.version": "13", "tls.peer.name": "a.example", "tls.peer.port": "25", "tls.err": "bad\nkey", "tls.secret": "***",
		"tls.at": "1970-01-01T00:00:00Z", "tls.inline": "true"}
	if fmt.Sprint(e.Attributes) != fmt.Sprint(want) || e.Component != "mail" || e.Level != "WARN" || e.Seq != 1 || e.Message != "handshake" {
		t.Errorf("got %+v", e)
	}
	if list[1].Correlation != "m1" || list[1].Component != "" {
		t.Errorf("got %+v", list[1])
	}
	for _, want := range []string{"handshake component=mail tls.version=13 tls.peer.name=a.example", "msg=other msg_id=m1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in\n%s", want, out.String())
		}
	}

	alone := NewLogBuffer(nil)
	slog.New(alone).WithGroup("g").With("a", 1).Info("x")
	slog.New(alone).Debug("x")
	if list := alone.all(); len(list) != 1 || list[0].Attributes["g.a"] != "1" {
		t.Errorf("got %+v", list)
	}
}

func TestLogBufferIsBounded(t *testing.T) {
	b := NewLogBuffer(nil)
	log := slog.New(b)
	var many []any
	for i := range 100 {
		many = append(many, fmt.Sprint("k", i), strings.Repeat("ü", 5000))
	}
	log.Info(strings.Repeat("x\xff", 5000), many...)
	e := b.all()[0]
	if len(e.Message) > 3*maxLogText || len(e.Attributes) != maxLogAttributes || len(e.Attributes["k1"]) > maxLogText+3 || !strings.HasSuffix(e.Attributes["k1"], "ü…") {
		t.Errorf("%d bytes, %d attributes, %q", len(e.Message), len(e.Attributes), e.Attributes["k1"])
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range logEntries {
				log.Info("line")
			}
		})
	}
	wait.Wait()
	if list := b.all(); len(list) != logEntries || list[logEntries-1].Seq != 4*logEntries+1 {
		t.Errorf("%d entries", len(list))
	}
}

func TestGetLogs(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	token := d.viewer()
	d.logs.ring = ring.New[logRecord](logEntries) // without what the server says of itself
	log := slog.New(d.logs)
	for i := range 10 {
		log.Info(fmt.Sprintf("line %d", i), "component", "proxy", "conn_id", fmt.Sprint("c", i%2))
	}
	middle := time.Now()
	log.Warn("Refused", "component", "mail", "recipient", "ann@example.com", "msg_id", "c1")
	log.Error("broken", "component", "mail")
	get := func(request object) logsResponse {
		t.Helper()
		var r logsResponse
		d.post(token, "getLogs", request).into(&r)
		return r
	}
	for _, test := range []struct {
		request object
		want    int
		more    bool
	}{
		{object{}, 12, false}, {object{"limit": 5}, 5, true}, {object{"level": "warn"}, 2, false}, {object{"level": "ERROR"}, 1, false},
		{object{"component": "mail"}, 2, false}, {object{"search": "EXAMPLE.com"}, 1, false}, {object{"search": "line"}, 10, false},
		{object{"correlation": "c1"}, 6, false}, {object{"since": middle}, 2, false}, {object{"before": 3}, 2, false}, {object{"search": "nothing"}, 0, false},
	} {
		if r := get(test.request); len(r.Entries) != test.want || r.More != test.more {
			t.Errorf("%v: %d entries, more %t", test.request, len(r.Entries), r.More)
		}
	}
	r := get(object{"limit": 3})
	if r.Entries[0].Message != "line 9" || r.Entries[2].Message != "broken" {
		t.Errorf("got %+v", r.Entries)
	}
	if r = get(object{"limit": 2, "before": r.Entries[0].Seq}); r.Entries[1].Message != "line 8" {
		t.Errorf("got %+v", r.Entries)
	}
	d.post(token, "getLogs", object{"level": "loud"}).fails(http.StatusBadRequest, CodeInvalid)
	d.post(token, "getLogs", object{"since": "yesterday"}).fails(http.StatusBadRequest, CodeInvalid)
}

func TestAuditLog(t *testing.T) {
	store := openStore(t)
	a, err := loadAudit(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int) {
		for i := range n {
			if _, err := a.add(t.Context(), AuditEntry{User: "ann", Method: fmt.Sprint("m", i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(auditEntries + 5)
	if a, err = loadAudit(t.Context(), store); err != nil { // a restart
		t.Fatal(err)
	}
	add(1)
	if n := a.changes.by[nameKey("ann")]; len(n) != auditEntries || n[0] != 7 || a.last != auditEntries+6 {
		t.Errorf("%d from %d to %d", len(n), n[0], a.last)
	}
	var seqs []uint64
	if err := a.newest(t.Context(), 8, func(e AuditEntry) bool { seqs = append(seqs, e.Seq); return true }); err != nil || fmt.Sprint(seqs) != "[7]" {
		t.Errorf("got %v, %v", seqs, err)
	}
	// What is there is not written over.
	b, err := loadAudit(t.Context(), openStore(t))
	if err != nil {
		t.Fatal(err)
	}
	first := b.changes.key(nameKey("ann"), 1)
	if _, err := b.store.Create(t.Context(), first, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if e, err := b.add(t.Context(), AuditEntry{User: "ann"}); err != nil || e.Seq != 2 {
		t.Errorf("the next is %d, %v", e.Seq, err)
	}
	if data, err := b.store.Get(t.Context(), first); err != nil || string(data) != "{}" {
		t.Errorf("an entry was written over: %s, %v", data, err)
	}
}

// However often somebody signs in, or tries what fails, what was changed stays in the log, in its
// place between the others.
func TestAttemptsPushNoChangeOut(t *testing.T) {
	store := openStore(t)
	a, err := loadAudit(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	record := func(method, outcome string) {
		if _, err := a.add(t.Context(), AuditEntry{User: "vera", Method: method, Outcome: outcome}); err != nil {
			t.Fatal(err)
		}
	}
	add := func(method string) { record(method, outcomeOK) }
	add("updateRoutes")
	for range auditEntries/2 + 1 {
		add("adminLoginWithUsernameAndPassword")
		record("retryEmail", outcomeError)
	}
	add("updateConfiguration")
	add("adminLogout")
	if a, err = loadAudit(t.Context(), store); err != nil { // a restart
		t.Fatal(err)
	}
	read := func(before uint64, most int) (methods []string, last uint64) {
		err := a.newest(t.Context(), before, func(e AuditEntry) bool {
			methods, last = append(methods, e.Method), e.Seq
			return len(methods) < most
		})
		if err != nil {
			t.Fatal(err)
		}
		return methods, last
	}
	all, last := read(0, 2*auditEntries)
	if n := len(all); n != auditEntries+2 || all[0] != "adminLogout" || all[1] != "updateConfiguration" || all[n-1] != "updateRoutes" || last != 1 {
		t.Errorf("%d entries, the newest %v, the oldest %q with number %d", n, all[:2], all[n-1], last)
	}
	if page, _ := read(a.last, 2); fmt.Sprint(page) != "[updateConfiguration retryEmail]" {
		t.Errorf("before the newest are %v", page)
	}
	add("addBlock")
	if page, _ := read(0, 1); page[0] != "addBlock" {
		t.Errorf("the newest is %v", page)
	}
}

// However much somebody changes, what others have changed stays in the log, also what
// is from before entries were kept by users.
func TestUsersPushNobodyElseOut(t *testing.T) {
	store := openStore(t)
	if _, err := store.Create(t.Context(), auditPrefix+"0000000000000001", []byte(`{"seq":1,"user":"admin","method":"old"}`)); err != nil {
		t.Fatal(err)
	}
	for _, restart := range []bool{false, true} {
		a, err := loadAudit(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		add := func(user string, n int) {
			for range n {
				if _, err := a.add(t.Context(), AuditEntry{User: user, Method: "updateRoutes", Outcome: outcomeOK}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if restart {
			add("otto", 10)
		} else {
			add("admin", 2)
			add("otto", auditEntries)
		}
		users := map[string]int{}
		if err := a.newest(t.Context(), 0, func(e AuditEntry) bool { users[e.User]++; return true }); err != nil {
			t.Fatal(err)
		}
		if users["admin"] != 3 || users["otto"] != auditEntries-3 {
			t.Errorf("after a restart: %t, the log has %v", restart, users)
		}
	}
}

func BenchmarkLogBuffer(b *testing.B) {
	log := slog.New(NewLogBuffer(nil)).With("component", "proxy")
	b.ReportAllocs()
	for b.Loop() {
		log.Info("request", "method", "GET", "host", "www.example.com", "status", 200, "bytes", 5120, "request_id", "0123456789abcdef", "took", time.Millisecond)
	}
}
