package radius

import (
	"context"
	"net"
	"testing"
	"time"
)

// A home server's name that DNS does not tell is given up in the time for an answer.
func TestNameOfAHomeServerIsNotFound(t *testing.T) {
	silent := listenUDP(t).LocalAddr().String()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", silent)
	}}
	defer func() { net.DefaultResolver = before }()
	h := &homeServer{HomeServer: HomeServer{Timeout: 200 * time.Millisecond}}
	began := time.Now()
	_, err := exchange(t.Context(), "radius.example.com:1812", mab("alice").encode(t), h.pauses(), func(datagram) error { return nil })
	if took := time.Since(began); err == nil || took > 4*time.Second {
		t.Errorf("after %v got %v", took, err)
	}
}
