package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// homeServer decides about users of home.test: it lets those in whose names begin
// with "good".
type homeServer struct {
	port int
	mu   sync.Mutex
	pc   net.PacketConn // nil while it is dead
	work sync.WaitGroup
}

func newHomeServer(t *testing.T) *homeServer {
	t.Helper()
	h := &homeServer{port: testenv.FreePort(t)}
	h.start(t)
	t.Cleanup(h.kill)
	return h
}

func (h *homeServer) start(t *testing.T) {
	t.Helper()
	pc, err := net.ListenPacket("udp", address(h.port))
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.pc = pc
	h.mu.Unlock()
	server := layeh.PacketServer{SecretSource: layeh.StaticSecretSource([]byte(secret)), Handler: layeh.HandlerFunc(func(w layeh.ResponseWriter, r *layeh.Request) {
		code := layeh.CodeAccessReject
		if strings.HasPrefix(rfc2865.UserName_GetString(r.Packet), "good") || r.Code == layeh.CodeStatusServer {
			code = layeh.CodeAccessAccept
		}
		_ = w.Write(r.Response(code))
	})}
	h.work.Go(func() { _ = server.Serve(pc) })
}

func (h *homeServer) kill() {
	h.mu.Lock()
	if h.pc != nil {
		h.pc.Close()
		h.pc = nil
	}
	h.mu.Unlock()
	h.work.Wait()
}

// ask sends a RADIUS request and checks the code of the answer.
func ask(ctx context.Context, port int, p *layeh.Packet, want layeh.Code) (*layeh.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := layeh.Client{Retry: 2 * time.Second, MaxPacketErrors: 10}
	answer, err := client.Exchange(ctx, p, address(port))
	if err == nil && answer.Code != want {
		err = fmt.Errorf("the answer is %v, not %v", answer.Code, want)
	}
	return answer, err
}

// device asks about a device and checks the VLAN.
func (w *world) device(ctx context.Context) error {
	return w.asksOf(ctx, secret, func(ctx context.Context, p *layeh.Packet) (*layeh.Packet, error) {
		return ask(ctx, w.auth, p, layeh.CodeAccessAccept)
	})
}

func (w *world) asksOf(ctx context.Context, secret string, ask func(context.Context, *layeh.Packet) (*layeh.Packet, error)) error {
	prefix, vlan := "aa:bb:cc:00", "7"
	switch rand.IntN(3) {
	case 0:
		prefix, vlan = "aa:bb:cc:01", "100"
	case 1:
		prefix, vlan = "aa:bb:dd:00", "999"
	}
	mac := fmt.Sprintf("%s:%02x:%02x", prefix, rand.IntN(256), rand.IntN(256))
	p := layeh.New(layeh.CodeAccessRequest, []byte(secret))
	_ = rfc2865.UserName_SetString(p, mac)
	_ = rfc2865.UserPassword_SetString(p, mac)
	_ = rfc2865.CallingStationID_SetString(p, mac)
	answer, err := ask(ctx, p)
	if err != nil {
		return err
	}
	if _, got := rfc2868.TunnelPrivateGroupID_GetString(answer); got != vlan {
		return fmt.Errorf("VLAN %q for %s, not %s", got, mac, vlan)
	}
	return nil
}

// roamer asks about a user of the home server.
func (w *world) roamer(ctx context.Context) error {
	name, want := "good", layeh.CodeAccessAccept
	if rand.IntN(4) == 0 {
		name, want = "bad", layeh.CodeAccessReject
	}
	p := layeh.New(layeh.CodeAccessRequest, []byte(secret))
	_ = rfc2865.UserName_SetString(p, fmt.Sprintf("%s-%d@home.test", name, rand.Uint64()))
	_ = rfc2865.UserPassword_SetString(p, "a password")
	_, err := ask(ctx, w.auth, p, want)
	return err
}

// session reports the use of the network by one device, from its beginning to its
// end.
func (w *world) session(ctx context.Context) error {
	id := fmt.Sprintf("%016x", rand.Uint64())
	for i, status := range []rfc2866.AcctStatusType{rfc2866.AcctStatusType_Value_Start, rfc2866.AcctStatusType_Value_InterimUpdate, rfc2866.AcctStatusType_Value_Stop} {
		p := layeh.New(layeh.CodeAccountingRequest, []byte(secret))
		_ = rfc2866.AcctStatusType_Set(p, status)
		_ = rfc2866.AcctSessionID_SetString(p, id)
		_ = rfc2865.NASIdentifier_SetString(p, "switch")
		_ = rfc2865.UserName_SetString(p, "aa:bb:cc:00:00:01")
		_ = rfc2866.AcctSessionTime_Set(p, rfc2866.AcctSessionTime(i))
		if _, err := ask(ctx, w.acct, p, layeh.CodeAccountingResponse); err != nil {
			return fmt.Errorf("%v: %w", status, err)
		}
	}
	return nil
}
