package radius

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3576"
)

// testNAS answers Disconnect and CoA requests, if they are authentic, with what
// answer makes of them.
func testNAS(t *testing.T, answer func(q *layeh.Packet) []layeh.AVP, code func(q *layeh.Packet) layeh.Code) (port int, requests *atomic.Int32) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	requests = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			requests.Add(1)
			d := datagram(b[:n])
			if !layeh.IsAuthenticRequest(d, []byte(testSecret)) {
				continue
			}
			q, err := layeh.Parse(d, []byte(testSecret))
			if err != nil {
				continue
			}
			p := newBuilder(nil, code(q), d.identifier(), true)
			for _, a := range answer(q) {
				p.add(a.Type, a.Attribute)
			}
			reply, err := p.sign([]byte(testSecret), d.authenticator(), false)
			if err == nil {
				pc.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).Port, requests
}

func TestDisconnectAndCoA(t *testing.T) {
	port, _ := testNAS(t, func(q *layeh.Packet) []layeh.AVP {
		stamp, err := layeh.Integer(q.Get(rfc2869.EventTimestamp_Type))
		if err != nil || time.Since(time.Unix(int64(stamp), 0)).Abs() > time.Minute {
			t.Errorf("Event-Timestamp is %v, %v", stamp, err)
		}
		if rfc2866.AcctSessionID_GetString(q) == "gone" {
			return []layeh.AVP{number(rfc3576.ErrorCause_Type, 503), avp(rfc2865.ReplyMessage_Type, "no such session")}
		}
		return nil
	}, func(q *layeh.Packet) layeh.Code {
		if rfc2866.AcctSessionID_GetString(q) == "gone" {
			return q.Code + 2
		}
		return q.Code + 1
	})
	s := startServer(t, Config{Clients: []Client{{IP: "127.0.0.1", CoAPort: port}}})
	ctx := context.Background()
	ask(t, acctAddr(s), acct(StatusStart, "here").encode(t), testSecret)
	for session := range s.Sessions() {
		if err := s.Disconnect(ctx, session.Source, session.Identify()); err != nil {
			t.Error(err)
		}
		if err := s.ChangeAuthorization(ctx, session.Source, append(session.Identify(), &layeh.AVP{Type: rfc2865.FilterID_Type, Attribute: []byte("f")})); err != nil {
			t.Error(err)
		}
	}
	gone := Session{ID: "gone"}
	err := s.Disconnect(ctx, loopbackAddr(), gone.Identify())
	var nak *NAKError
	if !errors.As(err, &nak) || nak.Cause != 503 || nak.Message != "no such session" || !strings.Contains(err.Error(), "Session-Context-Not-Found") {
		t.Errorf("got %v", err)
	}
	if err := s.Disconnect(ctx, netip.MustParseAddr("192.0.2.1"), gone.Identify()); !errors.Is(err, ErrNoClient) {
		t.Errorf("got %v", err)
	}
	stopped, err := New(Config{Secret: testSecret})
	if err != nil {
		t.Fatal(err)
	}
	if err := stopped.Disconnect(ctx, loopbackAddr(), nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

// Answers that prove nothing, or are old, count as none.
func TestDisconnectForgedAnswer(t *testing.T) {
	for name, f := range map[string]func(q *layeh.Packet) []layeh.AVP{
		"old":       func(*layeh.Packet) []layeh.AVP { return []layeh.AVP{number(rfc2869.EventTimestamp_Type, 1)} },
		"malformed": func(*layeh.Packet) []layeh.AVP { return []layeh.AVP{avp(rfc2869.EventTimestamp_Type, "1")} },
		"forged": func(*layeh.Packet) []layeh.AVP {
			return []layeh.AVP{avp(rfc2869.MessageAuthenticator_Type, "0123456789abcdef")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			port, requests := testNAS(t, f, func(q *layeh.Packet) layeh.Code { return q.Code + 1 })
			s := startServer(t, Config{Clients: []Client{{IP: "127.0.0.1", CoAPort: port}}})
			ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
			defer cancel()
			if err := s.Disconnect(ctx, loopbackAddr(), nil); err == nil {
				t.Error("the answer was taken")
			}
			if requests.Load() < 2 {
				t.Errorf("it was asked %d times, want 2 or more", requests.Load())
			}
		})
	}
}
