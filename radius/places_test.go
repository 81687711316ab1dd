package radius

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// others is a Server where some things hang, with two places for each.
type others struct {
	*Server
	client *tls.Config
}

// startOthers starts one. Its Authorizer lets everybody in but "stuck", whom it
// makes wait; its sink takes all records but those of "stuck". The users of "away"
// are those of a server that never answers, those of "there" get in.
func startOthers(t *testing.T) others {
	t.Helper()
	end := make(chan struct{})
	hang := func(ctx context.Context) error {
		select {
		case <-end:
		case <-ctx.Done():
		}
		return errors.New("it has hung")
	}
	authorize := WithAuthorizer(func(ctx context.Context, r *Request) (Decision, error) {
		if r.UserName == "stuck" {
			return Decision{}, hang(ctx)
		}
		return Decision{Accept: true, ReplyMessage: strings.Repeat("long ", 700)}, nil
	})
	sink := WithAccountingSink(func(ctx context.Context, r *Record) error {
		if r.Session.UserName == "stuck" {
			return hang(ctx)
		}
		return nil
	})
	there := startServer(t, Config{}, WithAuthorizer(func(context.Context, *Request) (Decision, error) { return Decision{Accept: true}, nil }))
	realm := func(name, auth, acct string) Realm {
		host, authPort := split(t, auth)
		_, acctPort := split(t, acct)
		return Realm{Name: name, HomeServers: []HomeServer{{Host: host, Port: authPort, AccountingPort: acctPort, Secret: testSecret, Timeout: 500 * time.Millisecond}}}
	}
	silent := listenUDP(t).LocalAddr().String()
	cfg, client, _, _ := radSecConfig(t)
	cfg.MACAuth = nil
	cfg.Limits.MaxConcurrent = 2
	cfg.Realms = []Realm{realm("away", silent, silent), realm("there", authAddr(there), acctAddr(there))}
	s := startServer(t, cfg, authorize, sink)
	t.Cleanup(func() { close(end) })
	return others{s, client}
}

// serves checks that those who do not need what hangs are answered.
func (s others) serves(t *testing.T, users ...string) {
	t.Helper()
	for _, user := range users {
		if p := ask(t, authAddr(s.Server), request{user: user, sign: true}.encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
			t.Errorf("%s: got %v", user, p.Code)
		}
	}
}

func (s others) keeps(t *testing.T, users ...string) {
	t.Helper()
	for _, user := range users {
		ask(t, acctAddr(s.Server), acct(StatusStart, user, avp(rfc2865.UserName_Type, user)).encode(t), testSecret)
	}
}

// overload sends requests that hang until one more is dropped.
func (s others) overload(t *testing.T, addr string, next func(i int) request) {
	t.Helper()
	n := dialServer(t, addr)
	before := s.Stats().Dropped[overloaded.String()]
	sent := 0
	testenv.WaitFor(t, testPatience, func() error {
		n.send(next(sent).encode(t))
		sent++
		if s.Stats().Dropped[overloaded.String()] == before {
			return fmt.Errorf("none of %d was dropped", sent)
		}
		return nil
	})
}

func login(user string) func(int) request {
	return func(int) request { return request{user: user, sign: true} }
}

func start(user string) func(int) request {
	return func(i int) request { return acct(StatusStart, fmt.Sprint(i), avp(rfc2865.UserName_Type, user)) }
}

func TestAuthorizerThatHangsHoldsUpNothingElse(t *testing.T) {
	s := startOthers(t)
	s.overload(t, authAddr(s.Server), login("stuck"))
	s.serves(t, "bob@there")
	s.keeps(t, "alice", "bob@there")
}

func TestSinkThatHangsHoldsUpNothingElse(t *testing.T) {
	s := startOthers(t)
	s.overload(t, acctAddr(s.Server), start("stuck"))
	s.serves(t, "alice", "bob@there")
}

func TestHomeServerThatHangsHoldsUpNothingElse(t *testing.T) {
	s := startOthers(t)
	s.overload(t, authAddr(s.Server), login("bob@away"))
	s.overload(t, acctAddr(s.Server), start("bob@away"))
	s.serves(t, "alice", "bob@there")
	s.keeps(t, "alice", "bob@there")
}

// Over RadSec too, and on the same connection: when it is known that no server
// answers, requests that find no place are dropped.
func TestHomeServerThatHangsOverRadSec(t *testing.T) {
	s := startOthers(t)
	conn := dialRadSec(t, s.Server, s.client)
	away := func() { conn.Write(request{user: "bob@away", secret: radSecSecret, sign: true}.encode(t)) }
	for range 6 {
		away()
	}
	d := request{user: "alice", secret: radSecSecret, sign: true}.encode(t)
	conn.Write(d)
	s.serves(t, "alice", "bob@there")
	s.keeps(t, "alice", "bob@there")
	checkReply(t, readPacket(t, conn), d, radSecSecret)
	testenv.WaitFor(t, testPatience, func() error {
		if s.Stats().HomeServers[0].Alive {
			return errors.New("the server that never answers is alive")
		}
		return nil
	})
	testenv.WaitFor(t, testPatience, func() error {
		if away(); s.Stats().Dropped[overloaded.String()] == 0 {
			return errors.New("none was dropped")
		}
		return nil
	})
}

// Records that wait over RadSec hold up no login behind them on their connection, as
// many as there are.
func TestSinkThatHangsOverRadSec(t *testing.T) {
	s := startOthers(t)
	conn := dialRadSec(t, s.Server, s.client)
	login := func() {
		t.Helper()
		d := request{user: "alice", secret: radSecSecret, sign: true}.encode(t)
		conn.Write(d)
		checkReply(t, readPacket(t, conn), d, radSecSecret)
	}
	record := start("stuck")
	send := func(n int) {
		for range n {
			q := record(n)
			q.secret = radSecSecret
			conn.Write(q.encode(t))
		}
	}
	send(maxPending)
	login()
	if n := s.Stats().Dropped[overloaded.String()]; n != 0 {
		t.Errorf("%d were dropped of as many as a client has identifiers", n)
	}
	send(10)
	login()
	if n := s.Stats().Dropped[overloaded.String()]; n != 10 {
		t.Errorf("%d were dropped, want 10", n)
	}
	s.serves(t, "alice", "bob@there")
}

// Nor do logins that wait hold up records.
func TestAuthorizerThatHangsOverRadSec(t *testing.T) {
	s := startOthers(t)
	conn := dialRadSec(t, s.Server, s.client)
	for range 10 {
		conn.Write(request{user: "stuck", secret: radSecSecret, sign: true}.encode(t))
	}
	q := acct(StatusStart, "alice")
	q.secret = radSecSecret
	d := q.encode(t)
	conn.Write(d)
	checkReply(t, readPacket(t, conn), d, radSecSecret)
}

// A client that does not read its answers holds up itself alone.
func TestRadSecClientThatDoesNotRead(t *testing.T) {
	s := startOthers(t)
	raw, err := net.Dial("tcp", radSecAddr(s.Server))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.(*net.TCPConn).SetReadBuffer(4096)
	conn := tls.Client(raw, s.client)
	raw.SetDeadline(time.Now().Add(testPatience))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	d := request{user: "alice", secret: radSecSecret, sign: true}.encode(t)
	for err == nil {
		raw.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = conn.Write(d)
	}
	// For an answer it has 10 seconds to read.
	n := dialServer(t, authAddr(s.Server))
	testenv.WaitFor(t, 6*time.Second, func() error {
		n.send(request{user: "alice", sign: true}.encode(t))
		if n.receive(100*time.Millisecond) == nil {
			return errors.New("no answer")
		}
		return nil
	})
}

// Stale sessions are closed a few at a time: their records take an eighth of what
// there is for records.
func TestSweepLeavesRoom(t *testing.T) {
	end := make(chan struct{})
	var told atomic.Int32
	s := startServer(t, Config{Limits: Limits{MaxConcurrent: 16}, Accounting: Accounting{StaleAfter: time.Hour}}, WithAccountingSink(func(ctx context.Context, r *Record) error {
		if r.Status == StatusStale {
			told.Add(1)
			select {
			case <-end:
			case <-ctx.Done():
			}
		}
		return nil
	}))
	for i := range 100 {
		keep(s, &Session{ID: fmt.Sprint(i), Source: loopbackAddr(), Updated: time.Now()})
	}
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.latest().sweep(time.Now().Add(2 * time.Hour))
	}()
	testenv.WaitFor(t, testPatience, func() error {
		if told.Load() < 2 {
			return fmt.Errorf("%d are being closed", told.Load())
		}
		return nil
	})
	ask(t, acctAddr(s), acct(StatusStart, "x").encode(t), testSecret)
	if n := told.Load(); n != 2 {
		t.Errorf("%d are being closed at a time, want 2", n)
	}
	close(end)
	testenv.Receive(t, swept)
	if n := told.Load(); n < 100 {
		t.Errorf("%d were closed, want all", n)
	}
}
