package email

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// What comes with the PROXY header is the client's, and not lost: who speaks
// before the greeting is found out as without a balancer.
func TestBytesBehindThePROXYHeader(t *testing.T) {
	s := start(t, Config{
		ProxyProtocol: &ProxyProtocol{Accept: []string{"127.0.0.1"}},
		Connections:   Connections{GreetDelay: 300 * time.Millisecond},
	})
	c := s.dial()
	fmt.Fprint(c, "PROXY TCP4 192.0.2.7 203.0.113.9 12345 25\r\nEHLO client.example.net\r\n")
	c.want("EHLO before the greeting", "554 5.5.1")
	waitFor(t, func() bool { return len(s.seen(EventRefused)) > 0 })
	if e := s.seen(EventRefused)[0]; e.Client.String() != "192.0.2.7" {
		t.Errorf("it was %v", e.Client)
	}
	for _, header := range []string{"PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		c = s.dial()
		fmt.Fprint(c, header)
		c.hello()
	}
	if e := s.seen(EventConnected); len(e) < 2 || e[len(e)-1].Client.String() != "127.0.0.1" {
		t.Errorf("who speaks for himself is %+v", e)
	}
}

// Stop does not wait for PROXY headers, and who waits to send one is closed.
func TestStopWhileAHeaderIsAwaited(t *testing.T) {
	s := start(t, Config{ProxyProtocol: &ProxyProtocol{Accept: []string{"127.0.0.0/8"}}})
	for _, beginning := range []string{"", "PROXY TCP4 "} {
		conn, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, beginning)
		defer func() {
			conn.SetDeadline(time.Now().Add(time.Minute))
			if said, _ := io.ReadAll(conn); len(said) > 0 {
				t.Errorf("it was told %q", said)
			}
		}()
	}
	waitFor(t, func() bool { return s.latest().listeners[0].front.waiting.Load() == 2 })
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil || time.Since(began) > headerTime/2 {
		t.Errorf("stopped after %v: %v", time.Since(began), err)
	}
}

// No more connections wait with their header than may be open.
func TestMostThatAwaitTheirHeader(t *testing.T) {
	s := start(t, Config{ProxyProtocol: &ProxyProtocol{Accept: []string{"127.0.0.1"}}, Connections: Connections{Max: 2}})
	for range 2 {
		s.dial()
	}
	waitFor(t, func() bool { return s.latest().listeners[0].front.waiting.Load() == 2 })
	if said, _ := io.ReadAll(s.dial()); len(said) > 0 {
		t.Errorf("the third was told %q", said)
	}
	if st := s.Stats(); st.Refused["connections"] != 1 || st.Connections.Refused != 1 {
		t.Errorf("%+v", st)
	}
}

// Who may not connect is closed without a word, and counted.
func TestRefusedAtThePort(t *testing.T) {
	s := start(t, Config{Security: Security{IPBlockList: []string{"127.0.0.1"}}})
	if said, _ := io.ReadAll(s.dial()); len(said) > 0 {
		t.Errorf("it was told %q", said)
	}
	waitFor(t, func() bool { return s.Stats().Refused["blocked"] == 1 })
	if list := s.seen(EventConnected); len(list) > 0 {
		t.Errorf("%v was let in", list)
	}
}
