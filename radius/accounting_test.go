package radius

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func number(t layeh.Type, n uint32) layeh.AVP {
	return layeh.AVP{Type: t, Attribute: layeh.NewInteger(n)}
}

// acct is an Accounting-Request.
func acct(status Status, id string, more ...layeh.AVP) request {
	attrs := []layeh.AVP{number(rfc2866.AcctStatusType_Type, uint32(status)), avp(rfc2865.NASIdentifier_Type, "switch-1")}
	if id != "" {
		attrs = append(attrs, avp(rfc2866.AcctSessionID_Type, id))
	}
	return request{code: layeh.CodeAccountingRequest, attrs: append(attrs, more...)}
}

func openSessions(s *Server) (ids []string) {
	for session := range s.Sessions() {
		ids = append(ids, session.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestSessionsRadclient(t *testing.T) {
	store := openStore(t, storage.Memory())
	var mu sync.Mutex
	var records []Record
	s := startServer(t, Config{Clients: []Client{{Name: "local", IP: "127.0.0.1"}}}, WithStorage(store), WithAccountingSink(func(_ context.Context, r *Record) error {
		mu.Lock()
		defer mu.Unlock()
		records = append(records, *r)
		return nil
	}))
	send := func(attrs ...string) {
		t.Helper()
		attrs = append(attrs, `NAS-Identifier = "switch-1"`, `Acct-Session-Id = "0001"`, `User-Name = "alice"`, `Calling-Station-Id = "AA-BB-CC-DD-EE-FF"`, "NAS-Port = 7")
		if out := radclient(t, acctAddr(s), "acct", testSecret, attrs...); !strings.Contains(out, "Received Accounting-Response") {
			t.Fatal(out)
		}
	}
	send("Acct-Status-Type = Start", "Framed-IP-Address = 192.0.2.7")
	send("Acct-Status-Type = Interim-Update", "Acct-Session-Time = 600", "Acct-Input-Octets = 5", "Acct-Input-Gigawords = 3", "Acct-Output-Octets = 4294967295", "Acct-Output-Gigawords = 1")
	var got Session
	for session := range s.Sessions() {
		got = session
	}
	if got.ID != "0001" || got.UserName != "alice" || got.FramedIP.String() != "192.0.2.7" || got.NASPort != 7 || got.Source != loopbackAddr() ||
		got.InputOctets != 3<<32+5 || got.OutputOctets != 1<<33-1 || got.Duration != 10*time.Minute {
		t.Errorf("the session is %+v", got)
	}
	send("Acct-Status-Type = Stop", "Acct-Session-Time = 900", "Acct-Input-Octets = 6", "Acct-Input-Gigawords = 4", "Acct-Terminate-Cause = User-Request")
	if n := s.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are open after Stop", n)
	}
	// An update that comes late opens nothing.
	send("Acct-Status-Type = Interim-Update", "Acct-Session-Time = 700")
	if n := s.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are open after a late update", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(records) != 4 {
		t.Fatalf("the sink got %d records", len(records))
	}
	stop := records[2]
	if stop.Status != StatusStop || stop.Client != "local" || stop.Session.InputOctets != 4<<32+6 || stop.Session.TerminateCause != 1 || stop.Session.Stopped.IsZero() {
		t.Errorf("the sink got %+v", stop)
	}
	if s.Stats().Accounting != 4 {
		t.Errorf("counted %d", s.Stats().Accounting)
	}
}

// A NAS that does not say how long a session has lasted repeats its Start, and
// its Stop has no counters.
func TestCountersDoNotGoBack(t *testing.T) {
	var last atomic.Pointer[Record]
	s := startServer(t, Config{}, WithAccountingSink(func(_ context.Context, r *Record) error {
		last.Store(r)
		return nil
	}))
	send := func(status Status, more ...layeh.AVP) {
		ask(t, acctAddr(s), acct(status, "1", more...).encode(t), testSecret)
	}
	send(StatusStart)
	send(StatusInterim, number(rfc2866.AcctInputOctets_Type, 7), number(rfc2866.AcctOutputPackets_Type, 8))
	send(StatusStart, number(rfc2866.AcctDelayTime_Type, 9))
	send(StatusStop, number(rfc2866.AcctOutputOctets_Type, 10))
	if got := last.Load().Session; got.InputOctets != 7 || got.OutputPackets != 8 || got.OutputOctets != 10 {
		t.Errorf("the session has ended as %+v", got)
	}
}

// A NAS that has restarted counts its sessions from 1 again, before its clock is
// set, and repeats its Accounting-On while sessions begin.
func TestSessionsAfterAccountingOn(t *testing.T) {
	s := startServer(t, Config{})
	send := func(q request) {
		t.Helper()
		ask(t, acctAddr(s), q.encode(t), testSecret)
		for began := time.Now(); time.Since(began) < 2*time.Millisecond; { // times are kept in milliseconds
			runtime.Gosched()
		}
	}
	send(acct(StatusStart, "1"))
	send(acct(StatusOn, ""))
	send(acct(StatusStart, "1", number(rfc2869.EventTimestamp_Type, 946684800)))
	send(acct(StatusStart, "2"))
	send(acct(StatusOn, "", number(rfc2866.AcctDelayTime_Type, 3)))
	if got := openSessions(s); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("open are %v", got)
	}
	send(acct(StatusOn, ""))
	if got := openSessions(s); len(got) != 0 {
		t.Errorf("after another Accounting-On open are %v", got)
	}
}

func TestAccountingOnClosesTheSessionsOfTheNAS(t *testing.T) {
	store := openStore(t, storage.Memory())
	var closed atomic.Int32
	s := startServer(t, Config{}, WithStorage(store), WithAccountingSink(func(_ context.Context, r *Record) error {
		closed.Add(int32(len(r.Closed)))
		return nil
	}))
	for i := range 5 {
		ask(t, acctAddr(s), acct(StatusStart, fmt.Sprint("a", i)).encode(t), testSecret)
		q := acct(StatusStart, fmt.Sprint("b", i))
		q.attrs[1] = avp(rfc2865.NASIdentifier_Type, "switch-2")
		ask(t, acctAddr(s), q.encode(t), testSecret)
	}
	// Another client that says it is switch-1 closes nothing.
	d := acct(StatusOn, "").encode(t)
	n := dialFrom(t, "127.0.0.3", acctAddr(s))
	n.send(d)
	parseReply(t, n, d, testSecret)
	if got := s.Stats().Sessions; got != 10 {
		t.Errorf("%d sessions are open, want 10", got)
	}
	ask(t, acctAddr(s), acct(StatusOn, "").encode(t), testSecret)
	if got := openSessions(s); !slices.Equal(got, []string{"b0", "b1", "b2", "b3", "b4"}) || s.Stats().Sessions != 5 || closed.Load() != 5 {
		t.Errorf("open are %v (%d), closed %d", got, s.Stats().Sessions, closed.Load())
	}
	// And so after a restart.
	again, err := New(Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: testSecret}, WithStorage(store))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(context.Background(), again); err != nil {
		t.Fatal(err)
	}
	if got := openSessions(again); !slices.Equal(got, []string{"b0", "b1", "b2", "b3", "b4"}) {
		t.Errorf("after a restart open are %v", got)
	}
}

// What follows an Accounting-On in one batch sees what that has closed, and a
// NAS that counts from 1 again after it opens another session.
func TestAccountingOnInABatch(t *testing.T) {
	s, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(s)
	if r.journal, err = openJournal(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	newChange := func(status Status, id string) *change {
		at = at.Add(time.Second)
		in := &arrival{d: acct(status, id).encode(t), at: at, from: netip.AddrPortFrom(loopbackAddr(), 1), client: &client{}}
		record, err := newRecord(in)
		if err != nil {
			t.Fatal(err)
		}
		if status == StatusOn {
			return &change{closing: &closing{nas{record.Session.Source, record.Session.NASIdentifier, record.Session.NASAddress}, at, causeNASReboot}, done: make(chan error, 1)}
		}
		return &change{key: keyOfSession(&record.Session), done: make(chan error, 1), next: func(old string) string {
			session := record.on(old, s.sessions.staleAfter)
			return string(appendSession(nil, &session))
		}}
	}
	batch := []*change{newChange(StatusStart, "1"), newChange(StatusStart, "2"), newChange(StatusOn, ""), newChange(StatusInterim, "2"), newChange(StatusStart, "1")}
	r.journal.commitInOrder(batch)
	for _, c := range batch {
		if err := <-c.done; err != nil {
			t.Error(err)
		}
	}
	if got := openSessions(s); !slices.Equal(got, []string{"1"}) {
		t.Errorf("open are %v", got)
	}
}

// Nothing is acknowledged that the sink or the storage has not taken.
func TestNoAcknowledgementBeforeItIsStored(t *testing.T) {
	fail := errors.New("no room")
	var broken atomic.Bool
	memory := storage.Memory()
	backend := storage.Funcs(memory.Get, func(ctx context.Context, key string, value []byte) error {
		if broken.Load() {
			return fail
		}
		return memory.Put(ctx, key, value)
	})
	var sink atomic.Bool
	s := startServer(t, Config{}, WithStorage(openStore(t, backend)), WithAccountingSink(func(context.Context, *Record) error {
		if sink.Load() {
			return fail
		}
		return nil
	}))
	n := dialServer(t, acctAddr(s))
	d := acct(StatusStart, "x").encode(t)
	broken.Store(true)
	silence(t, s, n, d, accountingFailed)
	broken.Store(false)
	sink.Store(true)
	silence(t, s, n, d, accountingFailed)
	if got := s.Stats().Sessions; got != 0 {
		t.Errorf("%d sessions are open", got)
	}
	sink.Store(false)
	n.send(d) // the same packet: what failed is no duplicate
	parseReply(t, n, d, testSecret)
	if got := openSessions(s); !slices.Equal(got, []string{"x"}) {
		t.Errorf("open are %v", got)
	}
}

func TestAccountingMistakes(t *testing.T) {
	s := startServer(t, Config{Accounting: Accounting{MaxSessions: 2}})
	n := dialServer(t, acctAddr(s))
	silence(t, s, n, acct(StatusStart, "").encode(t), malformed)
	silence(t, s, n, request{code: layeh.CodeAccountingRequest, attrs: []layeh.AVP{avp(rfc2866.AcctSessionID_Type, "x")}}.encode(t), malformed)
	silence(t, s, n, acct(StatusStale, "1").encode(t), malformed) // which we alone say
	// Padding after the packet is legal (RFC 2865 section 3).
	d := acct(StatusStart, "1").encode(t)
	n.send(append(slices.Clone(d), 0, 0, 0))
	parseReply(t, n, d, testSecret)
	ask(t, acctAddr(s), acct(StatusStart, "2").encode(t), testSecret)
	silence(t, s, n, acct(StatusStart, "3").encode(t), accountingFailed)
	ask(t, acctAddr(s), acct(15, "4").encode(t), testSecret) // Failed, which changes no session
	if got := openSessions(s); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("open are %v", got)
	}
}

// Sessions that have ended take no room from others, up to a point.
func TestEndedSessionsLeaveRoom(t *testing.T) {
	s := startServer(t, Config{Accounting: Accounting{MaxSessions: 2}})
	n := dialServer(t, acctAddr(s))
	record := func(status Status, id string) {
		t.Helper()
		ask(t, acctAddr(s), acct(status, id).encode(t), testSecret)
	}
	record(StatusStart, "1")
	record(StatusStart, "2")
	silence(t, s, n, acct(StatusStart, "3").encode(t), accountingFailed)
	record(StatusStop, "3") // it opens nothing
	record(StatusStop, "1")
	record(StatusStart, "4")
	if got := openSessions(s); !slices.Equal(got, []string{"2", "4"}) {
		t.Errorf("open are %v", got)
	}
	record(StatusStop, "2")
	record(StatusStop, "4")
	silence(t, s, n, acct(StatusStart, "5").encode(t), accountingFailed)
	s.latest().sweep(time.Now().Add(2 * closedLife))
	record(StatusStart, "5")
}

func TestStaleSessions(t *testing.T) {
	var stale atomic.Int32
	s := startServer(t, Config{Accounting: Accounting{StaleAfter: 50 * time.Millisecond}}, WithAccountingSink(func(_ context.Context, r *Record) error {
		if r.Status == StatusStale {
			stale.Add(1)
		}
		return nil
	}))
	for i := range 20 {
		ask(t, acctAddr(s), acct(StatusStart, fmt.Sprint(i)).encode(t), testSecret)
	}
	testenv.WaitFor(t, 5*time.Second, func() error {
		if s.Stats().Sessions != 0 || stale.Load() < 20 {
			return fmt.Errorf("%d are open, the sink knows of %d", s.Stats().Sessions, stale.Load())
		}
		return nil
	})
	s.latest().sweep(time.Now().Add(time.Hour))
	if n := s.sessions.count.Load(); n != 0 {
		t.Errorf("%d are remembered an hour later", n)
	}
}

// A session that was given up and goes on is open again, whatever its NAS tells of
// it; one that has ended is not.
func TestStaleSessionGoesOn(t *testing.T) {
	s := startServer(t, Config{Accounting: Accounting{StaleAfter: time.Hour}})
	send := func(status Status, ids ...string) {
		for _, id := range ids {
			ask(t, acctAddr(s), acct(status, id).encode(t), testSecret)
		}
	}
	send(StatusStart, "repeated", "updated", "stopped", "ended")
	s.latest().sweep(time.Now().Add(2 * time.Hour))
	if got := openSessions(s); len(got) != 0 {
		t.Fatalf("open are %v after two hours", got)
	}
	send(StatusStop, "stopped", "ended")
	send(StatusStart, "repeated")
	send(StatusInterim, "updated", "ended")
	if got := openSessions(s); !slices.Equal(got, []string{"repeated", "updated"}) {
		t.Errorf("open are %v", got)
	}
}

// Silence counts from the start of the Server on, before which nobody listened.
func TestStaleAfterAnOutage(t *testing.T) {
	s := startServer(t, Config{Accounting: Accounting{StaleAfter: time.Hour}})
	old := Session{ID: "1", Source: loopbackAddr(), Updated: time.Now().Add(-2 * time.Hour)}
	key := keyOfSession(&old)
	shard := s.sessions.shard(key)
	shard.mu.Lock()
	s.sessions.put(shard, key, string(appendSession(nil, &old)))
	shard.mu.Unlock()
	for _, test := range []struct {
		after time.Duration
		want  int
	}{{time.Minute, 1}, {61 * time.Minute, 0}} {
		s.latest().sweep(time.Now().Add(test.after))
		if n := s.Stats().Sessions; n != test.want {
			t.Errorf("%v after the start %d sessions are open, want %d", test.after, n, test.want)
		}
	}
}

// What a NAS reports with a wrong clock is forgotten as anything else, and not
// before its time.
func TestClosedByAWrongClock(t *testing.T) {
	dir := storage.Dir(t.TempDir())
	store := openStore(t, dir)
	s := startServer(t, Config{}, WithStorage(store))
	for i, clock := range []int64{1000000000, 4000000000} {
		ask(t, acctAddr(s), acct(StatusStop, fmt.Sprint(i), number(rfc2869.EventTimestamp_Type, uint32(clock))).encode(t), testSecret)
	}
	if err := s.latest().journal.writeState(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.sessions.count.Load(); n != 2 {
		t.Errorf("%d sessions are remembered after a restart, want 2", n)
	}
	s.latest().sweep(time.Now().Add(time.Hour))
	if n := s.sessions.count.Load(); n != 0 {
		t.Errorf("%d sessions are remembered an hour later", n)
	}
}

// Event-Timestamp, or else Acct-Delay-Time, says when it was.
func TestRecordTime(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		attr layeh.AVP
		want time.Time
	}{
		{number(rfc2869.EventTimestamp_Type, 1700000000), time.Unix(1700000000, 0)},
		{number(rfc2866.AcctDelayTime_Type, 30), now.Add(-30 * time.Second)},
		{number(rfc2866.AcctDelayTime_Type, 1<<32-1), now},
	} {
		r, err := newRecord(&arrival{d: acct(StatusStart, "x", test.attr).encode(t), at: now, client: &client{}})
		if err != nil || !r.Time.Equal(test.want) {
			t.Errorf("got %v, %v, want %v", r.Time, err, test.want)
		}
	}
}

// What the journal and the state hold together is what was committed, wherever
// in the course of compaction a crash comes.
func TestJournalCompaction(t *testing.T) {
	ctx := context.Background()
	store := openStore(t, storage.Memory())
	s, err := New(Config{Secret: testSecret}, WithStorage(store))
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	want := map[sessionKey]string{}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var batch []*change
		for range 1 + rng.IntN(20) {
			session := &Session{ID: fmt.Sprint(rng.IntN(300)), InputOctets: rng.Uint64(), Updated: time.Now()}
			k := keyOfSession(session)
			encoded := string(appendSession(nil, session))
			want[k] = encoded
			batch = append(batch, &change{key: k, next: func(string) string { return encoded }})
		}
		if err := j.commit(batch); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(10) == 0 {
			cut, cancel := context.WithCancel(ctx)
			if rng.IntN(2) == 0 {
				cancel() // as if it ended in the middle
			}
			j.writeState(cut)
			cancel()
		}
		if round%20 != 19 {
			continue
		}
		if s, err = New(Config{Secret: testSecret}, WithStorage(store)); err != nil {
			t.Fatal(err)
		}
		if j, err = openJournal(ctx, s); err != nil {
			t.Fatal(err)
		}
		for k, encoded := range want {
			if got, _ := s.sessions.get(k); got != encoded {
				t.Fatalf("round %d: a session is not what it was", round)
			}
		}
		if got := s.Stats().Sessions; got != len(want) {
			t.Fatalf("%d sessions, want %d", got, len(want))
		}
	}
}

func TestStoredSessionsBroken(t *testing.T) {
	ctx := context.Background()
	for _, key := range []string{statePrefix + "000", journalPrefix + "0000000000000001"} {
		for _, value := range []string{"", "\x02", "\x01\x05abc", "\x01p0123456789abcdef\x03abc", "\x01c\x04abcd"} {
			store := openStore(t, storage.Memory())
			if err := store.Put(ctx, key, []byte(value)); err != nil {
				t.Fatal(err)
			}
			s, err := New(Config{Secret: testSecret}, WithStorage(store))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := openJournal(ctx, s); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s, %q: got %v", key, value, err)
			}
		}
	}
}

const crashEnv = "RADIUS_CRASH_FOLDER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(crashEnv); folder != "" {
		if err := crashChild(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// crashChild serves until it is killed.
func crashChild(folder string) error {
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Dir(folder))
	if err != nil {
		return err
	}
	s, err := New(Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: testSecret}, WithStorage(store))
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	// A short journal, so that kills meet its compaction too.
	j := s.latest().journal
	go func() {
		for {
			time.Sleep(3 * time.Millisecond)
			j.compact <- struct{}{}
		}
	}()
	fmt.Println(acctAddr(s))
	select {}
}

// What a NAS has an acknowledgement for is there after kill -9.
func TestAccountingSurvivesKill(t *testing.T) {
	rounds := 25 // more with RADIUS_CRASH_ROUNDS=300, in a minute
	if text := os.Getenv("RADIUS_CRASH_ROUNDS"); text != "" {
		fmt.Sscan(text, &rounds)
	}
	folder := testenv.Folder(t)
	want := map[string]uint64{} // input octets by session, acknowledged
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(3, 4))
	sequence := uint64(0)
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+folder)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var addr string
		if _, err := fmt.Fscan(stdout, &addr); err != nil {
			cmd.Wait()
			t.Fatalf("round %d: %v %s", round, err, stderr.String())
		}
		var conns []net.Conn
		var sending sync.WaitGroup
		for worker := range 4 {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			sending.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%d-%d", worker, i%50)
					value := atomic.AddUint64(&sequence, 1)
					d := acct(StatusInterim, id, number(rfc2866.AcctInputOctets_Type, uint32(value)), number(rfc2866.AcctSessionTime_Type, uint32(value))).encode(t)
					if _, err := conn.Write(d); err != nil {
						return
					}
					b := make([]byte, 4096)
					size, err := conn.Read(b)
					if err != nil {
						return // it is dead
					}
					if verifyReply(datagram(b[:size]), d, []byte(testSecret), false) == nil {
						mu.Lock()
						want[id] = value
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond) // the moment of the kill is what varies
		cmd.Process.Kill()
		cmd.Wait()
		for _, conn := range conns {
			conn.Close()
		}
		sending.Wait()
		if round%10 != 9 && round != rounds-1 {
			continue
		}
		store, err := storage.Open(context.Background(), storage.Dir(folder))
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Secret: testSecret}, WithStorage(store))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		got := map[string]uint64{}
		for session := range s.Sessions() {
			got[session.ID] = session.InputOctets
		}
		for id, value := range want {
			if got[id] < value {
				t.Fatalf("round %d: session %s is at %d, %d was acknowledged", round, id, got[id], value)
			}
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(want) == 0 {
		t.Fatal("nothing was ever acknowledged")
	}
	t.Logf("%d records in %d rounds", sequence, rounds)
}

// A million sessions and their table stay below 660 MB, garbage included.
func TestMillionSessions(t *testing.T) {
	if testing.Short() || testenv.Race {
		t.Skip("takes long")
	}
	s, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	now := time.Now()
	for i := range 1_000_000 {
		var mac [8]byte
		binary.BigEndian.PutUint64(mac[:], uint64(i))
		session := &Session{Source: loopbackAddr(), NASIdentifier: "switch-123.example.com", NASAddress: loopbackAddr(), NASPort: 50101, NASPortID: "GigabitEthernet1/0/1",
			ID: fmt.Sprintf("%016X", i), Class: []byte("0123456789abcdef"), UserName: fmt.Sprintf("user-%d@example.com", i), CallingStationID: macAddress(i).format("-", 2),
			CalledStationID: "AA-BB-CC-DD-EE-FF", FramedIP: loopbackAddr(), Start: now, Updated: now, Duration: time.Hour, InputOctets: 1 << 33, OutputOctets: 1 << 40}
		k := keyOfSession(session)
		s.sessions.put(s.sessions.shard(k), k, string(appendSession(nil, session)))
	}
	used := heap() - before
	t.Logf("%d MB for a million sessions, %d bytes each", used>>20, used/1_000_000)
	if s.Stats().Sessions != 1_000_000 || used > 330<<20 {
		// The garbage collector lets the heap grow to twice what is in use.
		t.Errorf("%d sessions take %d MB, want 330 at most", s.Stats().Sessions, used>>20)
	}
}
