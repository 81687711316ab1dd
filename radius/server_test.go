package radius

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func TestLifecycle(t *testing.T) {
	ctx := context.Background()
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
	if err := s.Start(ctx); !errors.Is(err, ErrRunning) {
		t.Errorf("a second Start: %v", err)
	}
	waited := make(chan error)
	go func() { waited <- s.Wait() }()
	for range 2 {
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
	if s.Addrs() != nil {
		t.Error("it has addresses after Stop")
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)
	// What is taken already is an error, after which nothing is bound.
	_, port := split(t, acctAddr(s))
	free := testenv.FreePort(t)
	other, err := New(Config{ListenHost: "127.0.0.1", Port: &free, AccountingPort: &port, Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(ctx); err == nil || !strings.Contains(err.Error(), "cannot listen on 127.0.0.1:"+fmt.Sprint(port)) {
		t.Errorf("got %v", err)
	}
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", free))
	if err != nil {
		t.Fatalf("the first port is not free again: %v", err)
	}
	pc.Close()
	if err := other.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// A host may bring its sockets, of any kind.
func TestGivenPacketConn(t *testing.T) {
	type plain struct{ net.PacketConn } // no *net.UDPConn
	inner := listenUDP(t)
	_, port := split(t, inner.LocalAddr().String())
	s := startServer(t, Config{Port: &port, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}}, WithPacketConn(inner.LocalAddr().String(), plain{inner}))
	ask(t, inner.LocalAddr().String(), mab("aabbccddeeff").encode(t), testSecret)
	// When somebody closes it under the Server, Wait says so.
	inner.Close()
	if err := s.Wait(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
}

// It is closed when the Server fails to start, whatever the reason.
func TestGivenPacketConnAfterFailure(t *testing.T) {
	for _, key := range []string{policyKey, statePrefix + "000"} {
		store := openStore(t, storage.Memory())
		if err := store.Put(t.Context(), key, []byte("broken")); err != nil {
			t.Fatal(err)
		}
		pc := listenUDP(t)
		_, port := split(t, pc.LocalAddr().String())
		s, err := New(Config{ListenHost: "127.0.0.1", Port: &port, Secret: testSecret}, WithStorage(store), WithPacketConn(pc.LocalAddr().String(), pc))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err == nil {
			t.Errorf("%s: started", key)
		}
		if _, err := pc.WriteTo([]byte("x"), pc.LocalAddr()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: it is not closed: %v", key, err)
		}
	}
}

// A storage that does not answer holds up Start, and nobody who wants to know how
// the Server is. Stop gives up on it.
func TestStartThatWaitsForItsStorage(t *testing.T) {
	testenv.Goroutines(t)
	memory := storage.Memory()
	reading, proceed := make(chan struct{}, 2000), make(chan struct{})
	backend := &getBackend{memory, func(ctx context.Context, key string) ([]byte, error) {
		if key == policyKey {
			reading <- struct{}{}
			<-proceed // whatever becomes of ctx
		}
		return memory.Get(ctx, key)
	}}
	s, err := New(Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: testSecret}, WithStorage(openStore(t, backend)))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- s.Start(context.Background()) }()
	testenv.Receive(t, reading)
	told := make(chan error, 1)
	go func() {
		s.Stats()
		s.Addrs()
		s.Wait()
		told <- s.Start(context.Background())
	}()
	if err := testenv.Receive(t, told); !errors.Is(err, ErrRunning) {
		t.Errorf("another Start returned %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(ctx) }()
	if err := testenv.Receive(t, stopped); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop returned %v", err)
	}
	close(proceed)
	if err := testenv.Receive(t, started); !errors.Is(err, context.Canceled) {
		t.Errorf("Start returned %v", err)
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// getBackend is a Backend with another Get.
type getBackend struct {
	storage.Backend
	get func(ctx context.Context, key string) ([]byte, error)
}

func (b *getBackend) Get(ctx context.Context, key string) ([]byte, error) { return b.get(ctx, key) }

// The host of a Router may change the policy while that starts.
func TestUseStorageWhileUpdating(t *testing.T) {
	s, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	store := openStore(t, storage.Memory())
	var updating sync.WaitGroup
	updating.Go(func() {
		if err := s.AllowMACs(context.Background(), "aa:bb:cc:*"); err != nil {
			t.Error(err)
		}
	})
	s.UseStorage(store)
	updating.Wait()
}

// A socket that nobody would use is a mistake, and so is one for port 0, which
// both ports may be.
func TestGivenSocketsMistakes(t *testing.T) {
	pc := listenUDP(t)
	for want, opt := range map[string]Option{
		"no port uses the packet connection for 127.0.0.1:7": WithPacketConn("127.0.0.1:7", pc),
		"no port uses the packet connection for 127.0.0.1:0": WithPacketConn("127.0.0.1:0", pc),
		"the packet connection for 127.0.0.1:7 is nil":       WithPacketConn("127.0.0.1:7", nil),
		"no port uses the listener for 127.0.0.1:2083":       WithListener("127.0.0.1:2083", &net.TCPListener{}),
	} {
		if _, err := New(Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: testSecret}, opt); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestWeakSecretWarning(t *testing.T) {
	var log logBuffer
	startServer(t, Config{Secret: "weak", Clients: []Client{{Name: "a", IP: "127.0.0.1", Secret: testSecret}, {Name: "b", IP: "127.0.0.2"}}}, WithLogger(log.logger()))
	if text := log.String(); strings.Count(text, "shorter than RFC 2865 wants") != 1 || !strings.Contains(text, "client=b") || strings.Contains(text, "weak") {
		t.Errorf("logged %s", text)
	}
}

// Answers come from the address that was asked, although the socket is bound to
// all of them.
func TestAnswerFromTheAddressAsked(t *testing.T) {
	for _, host := range []string{"0.0.0.0", "::"} {
		testenv.Goroutines(t)
		s, err := New(Config{ListenHost: host, Port: new(0), AccountingPort: new(0), Secret: testSecret, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(context.Background()); err != nil {
			testenv.Lacks(t, "%v", err) // no IPv6
		}
		port := s.Addrs()[0].(*net.UDPAddr).Port
		for _, addr := range []string{"127.0.0.1", "127.0.0.2"} {
			n := dialFrom(t, "127.0.0.1", fmt.Sprintf("%s:%d", addr, port)) // takes answers from there alone
			d := mab("aabbccddeeff").encode(t)
			n.send(d)
			if reply := n.receive(5 * time.Second); reply == nil {
				t.Errorf("on %s, asked at %s: no answer", host, addr)
			}
		}
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func TestPolicyUpdates(t *testing.T) {
	ctx := context.Background()
	store := openStore(t, storage.Memory())
	cfg := Config{MACAuth: &MACAuth{AllowedMACs: []string{"aa:bb:cc:dd:ee:ff"}, DefaultVLAN: 10, Password: "shared"}}
	s := startServer(t, cfg, WithStorage(store))
	got := func(s *Server, mac string) string {
		q := mab(mac)
		password := "shared"
		q.pap = &password
		return outcome(ask(t, authAddr(s), q.encode(t), testSecret))
	}
	check := func(s *Server, want map[string]string) {
		t.Helper()
		for mac, want := range want {
			if got := got(s, mac); got != want {
				t.Errorf("%s: got %s, want %s", mac, got, want)
			}
		}
	}
	check(s, map[string]string{"aabbccddeeff": "Access-Accept 10", "001122334455": "Access-Reject"})
	if outcome(ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)) != "Access-Reject" {
		t.Error("another password than the one set is taken")
	}
	if err := s.AllowMACs(ctx, "00:11:22:*"); err != nil {
		t.Fatal(err)
	}
	check(s, map[string]string{"aabbccddeeff": "Access-Accept 10", "001122334455": "Access-Accept 10"})
	if err := s.RemoveMACs(ctx, "AABB.CCDD.EEFF"); err != nil {
		t.Fatal(err)
	}
	check(s, map[string]string{"aabbccddeeff": "Access-Reject", "001122334455": "Access-Accept 10"})
	if err := s.AllowMACs(ctx, "nonsense"); err == nil || !strings.Contains(err.Error(), `macAuth.allowedMacs[1]: "nonsense" is not a MAC`) {
		t.Errorf("got %v", err)
	}
	p := s.Policy()
	if shown := fmt.Sprintf("%v", p.MACAuth.Password); shown != "***" {
		t.Errorf("the password shows as %s", shown)
	}
	if shown := fmt.Sprintf("%s %d %+v", p, &p, p); strings.Contains(shown, "shared") {
		t.Errorf("the policy shows as %s", shown)
	}
	p.MACAuth.Password = "***" // as a client sends it back that was shown no more
	p.VLANAssignment = []VLANRule{{Match: VLANMatch{MAC: "001122334455"}, VLAN: 30}, {Match: VLANMatch{Default: true}, VLANName: "guests"}}
	if err := s.UpdatePolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"aabbccddeeff": "Access-Accept guests", "001122334455": "Access-Accept 30"}
	check(s, want)
	// It holds after a restart, until the configuration is another.
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	again := startServer(t, cfg, WithStorage(store))
	check(again, want)
	if err := again.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	cfg.MACAuth.DefaultVLAN = 11
	check(startServer(t, cfg, WithStorage(store)), map[string]string{"aabbccddeeff": "Access-Accept 11", "001122334455": "Access-Reject"})
}

func TestRules(t *testing.T) {
	for _, test := range []struct {
		name string
		p    Policy
		want map[string]string
	}{
		{"nothing", Policy{}, map[string]string{"aabbccddeeff": "reject"}},
		{"rules alone", Policy{VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "aa:bb:cc:dd:ee:*"}, VLAN: 1}, {Match: VLANMatch{MAC: "aa:*"}, VLAN: 2}}},
			map[string]string{"aabbccddeeff": "1", "aa0000000000": "2", "bb0000000000": "reject"}},
		{"first rule counts", Policy{VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "aabbccddeeff"}, VLAN: 1}, {Match: VLANMatch{MAC: "*"}, VLAN: 2}}},
			map[string]string{"aabbccddeeff": "1", "aa0000000000": "2"}},
		{"guests", Policy{MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}, DefaultVLAN: 100, GuestVLAN: 999}},
			map[string]string{"aabbccddeeff": "100", "bb0000000000": "999"}},
		{"allowed without VLAN", Policy{MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}}}, map[string]string{"aabbccddeeff": "0", "bb0000000000": "reject"}},
		{"nobody is allowed", Policy{MACAuth: &MACAuth{DefaultVLAN: 100, GuestVLAN: 999}}, map[string]string{"aabbccddeeff": "999"}},
		{"turned off", Policy{MACAuth: &MACAuth{Enabled: new(false), AllowedMACs: []string{"aa*"}, GuestVLAN: 9}}, map[string]string{"aabbccddeeff": "reject"}},
		{"rules before the list", Policy{MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}, DefaultVLAN: 100, GuestVLAN: 999},
			VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "aabb*"}, VLAN: 1}, {Match: VLANMatch{MAC: "cc*"}, VLAN: 3}}},
			map[string]string{"aabbccddeeff": "1", "aa0000000000": "100", "cc0000000000": "3", "dd0000000000": "999"}},
		{"default is the last rule", Policy{MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}, DefaultVLAN: 100}, VLANAssignment: []VLANRule{{Match: VLANMatch{Default: true}, VLAN: 5}}},
			map[string]string{"aabbccddeeff": "5", "dd0000000000": "5"}},
	} {
		r := compile(test.p)
		for text, want := range test.want {
			mac, _ := parseMAC(text, false)
			got := "reject"
			if d := r.decide(mac); d.Accept {
				got = fmt.Sprint(d.VLAN)
			}
			if got != want {
				t.Errorf("%s, %s: got %s, want %s", test.name, text, got, want)
			}
		}
	}
}

func TestMACs(t *testing.T) {
	for _, s := range []string{"aabbccddeeff", "AA:BB:CC:DD:EE:FF", "aa-bb-cc-dd-ee-ff", "aabb.ccdd.eeff", "aabbcc-ddeeff", "AABBCC.DDEEFF"} {
		if mac, ok := parseMAC(s, false); !ok || mac.String() != "aa:bb:cc:dd:ee:ff" {
			t.Errorf("%s: got %v, %v", s, mac, ok)
		}
	}
	for _, s := range []string{"", "aabbccddeef", "aabbccddeefff", "aabbccddeeff:", "aabbccddeeff:ssid", ":aabbccddeeff", "aabbccddeefg", "aa bb cc dd ee ff"} {
		if mac, ok := parseMAC(s, false); ok {
			t.Errorf("%q is taken for %v", s, mac)
		}
	}
}

func TestRateLimit(t *testing.T) {
	s := startServer(t, Config{Limits: Limits{RateLimit: &RateLimit{RequestsPerSecond: 1, Burst: 3}}, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
	s.rates.mu.Lock()
	s.rates.rate = 0 // however long the test takes
	s.rates.mu.Unlock()
	n := dialServer(t, authAddr(s))
	first := mab("aabbccddeeff").encode(t)
	n.send(first)
	parseReply(t, n, first, testSecret)
	for range 2 {
		ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)
	}
	silence(t, s, n, mab("aabbccddeeff").encode(t), rateLimited)
	n.send(first) // a repetition costs nothing
	parseReply(t, n, first, testSecret)
	d := mab("aabbccddeeff").encode(t)
	other := dialFrom(t, "127.0.0.4", authAddr(s))
	other.send(d)
	parseReply(t, other, d, testSecret)
}

func TestFailureLimit(t *testing.T) {
	var calls atomic.Int32
	s := startServer(t, Config{Limits: Limits{MaxFailures: 3}}, WithAuthorizer(func(_ context.Context, r *Request) (Decision, error) {
		calls.Add(1)
		return Decision{Accept: r.CheckPassword("right")}, nil
	}))
	q := func(user, password string) request { return request{user: user, pap: &password, sign: true} }
	for range 5 {
		ask(t, authAddr(s), q("alice", "wrong").encode(t), testSecret)
	}
	if calls.Load() != 3 || s.Stats().Dropped[tooManyFailures.String()] != 2 {
		t.Errorf("%d calls, %v", calls.Load(), s.Stats().Dropped)
	}
	if p := ask(t, authAddr(s), q("alice", "right").encode(t), testSecret); p.Code != layeh.CodeAccessReject {
		t.Errorf("alice: %v", p.Code)
	}
	if p := ask(t, authAddr(s), q("bob", "right").encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
		t.Errorf("bob: %v", p.Code)
	}
	now := time.Now()
	if who := (subject{loopbackAddr(), "alice"}); !s.failures.exceeded(who, 1, now) || s.failures.exceeded(who, 1, now.Add(time.Minute)) {
		t.Error("the window is not a minute")
	}
}

// Who guesses a user's password can say to be another device each time; that a device
// goes on with an old password is not counted against the user for ever.
func TestFailureLimitOfAUser(t *testing.T) {
	s := startServer(t, Config{Limits: Limits{MaxFailures: 2, FailureWindow: time.Hour}, MACAuth: &MACAuth{AllowedMACs: []string{"02*"}}}, WithAuthorizer(func(_ context.Context, r *Request) (Decision, error) {
		return Decision{Accept: r.CheckPassword("right")}, nil
	}))
	q := func(user, password string, device int) datagram {
		return request{sign: true, pap: &password, attrs: []layeh.AVP{avp(rfc2865.UserName_Type, user), avp(rfc2865.CallingStationID_Type, macAddress(0x020000000000+device).String())}}.encode(t)
	}
	want := func(what string, d datagram, want layeh.Code) {
		t.Helper()
		if p := ask(t, authAddr(s), d, testSecret); p.Code != want {
			t.Errorf("%s: got %v, want %v", what, p.Code, want)
		}
	}
	for range 30 {
		want("an old password", q("bob", "wrong", 1), layeh.CodeAccessReject)
	}
	want("bob from elsewhere", q("bob", "right", 2), layeh.CodeAccessAccept)
	for i := range 20 {
		want("a guess", q([]string{"alice", "Alice"}[i%2], "wrong", 100+i), layeh.CodeAccessReject)
	}
	want("a right guess", q("alice", "right", 200), layeh.CodeAccessReject)
	want("another user", q("bob", "right", 200), layeh.CodeAccessAccept)
	want("a device", mab("020000000001").encode(t), layeh.CodeAccessReject) // bob's, which fails too often
	want("another device", mab("020000000002").encode(t), layeh.CodeAccessAccept)
}

func TestLimitsAreBounded(t *testing.T) {
	now := time.Now()
	l := newFailureLimiter(&Limits{})
	r := newRateLimiter(&RateLimit{RequestsPerSecond: 1})
	var n notices
	addr := loopbackAddr()
	lines := 0
	for range maxTracked + 1000 {
		addr = addr.Next()
		l.failed(subject{addr, "x"}, now)
		r.allow(addr, now)
		if _, ok := n.first(addr, unknownClient, now); ok {
			lines++
		}
	}
	if len(l.counts) > maxTracked || len(r.buckets) > maxTracked || lines > maxNotices {
		t.Errorf("%d failures, %d buckets, %d lines", len(l.counts), len(r.buckets), lines)
	}
	later := now.Add(2 * time.Minute)
	l.failed(subject{addr, "y"}, later)
	if !r.allow(addr.Next(), later) || len(l.counts) != 1 {
		t.Errorf("nobody is forgotten: %d", len(l.counts))
	}
	if skipped, ok := n.first(addr, unknownClient, later); !ok || skipped == 0 {
		t.Errorf("got %d, %v", skipped, ok)
	}
}

func TestOverload(t *testing.T) {
	proceed := make(chan struct{})
	s := startServer(t, Config{Limits: Limits{MaxConcurrent: 1}, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}}, WithAuthorizer(func(context.Context, *Request) (Decision, error) {
		<-proceed
		return Decision{Accept: true}, nil
	}))
	n := dialServer(t, authAddr(s))
	d := mab("alice").encode(t)
	n.send(d)
	testenv.WaitFor(t, 5*time.Second, func() error {
		if s.Stats().Requests == 0 {
			return errors.New("it has not come")
		}
		return nil
	})
	silence(t, s, dialServer(t, authAddr(s)), mab("bob").encode(t), overloaded)
	ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret) // waits for nobody
	close(proceed)
	parseReply(t, n, d, testSecret)
}
