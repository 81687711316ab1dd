package dcrouter

import (
	"net"
	"testing"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/proxy"
)

// closing is a listener that tells before it closes.
type closing struct {
	net.Listener
	tell func()
}

func (c closing) Close() error { c.tell(); return c.Listener.Close() }

// A Stop that comes before Start lets it begin when it is through itself: it would
// stop what that has started.
func TestStopBeforeStart(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var r *Router
	closed := false
	given := closing{ln, func() { // Stop is at the proxy, and has still to stop the DNS server
		closed = true
		select {
		case r.lifecycle <- struct{}{}:
			<-r.lifecycle
			t.Error("a Start can come in between")
		default:
		}
	}}
	r, err = New(WithProxy(proxy.Config{}, proxy.WithListener("127.0.0.1:1", given)), WithDNS(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(0)}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil || !closed {
		t.Errorf("%v, closed: %v", err, closed)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
