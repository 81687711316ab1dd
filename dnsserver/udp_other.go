//go:build !linux

package dnsserver

import (
	"context"
	"net"
	"runtime"
	"strconv"
)

// Systems other than Linux read and write datagrams one by one. Where the host
// has several addresses and ListenHost names none, the system chooses the one
// that answers come from.

// listenUDP binds a port.
func listenUDP(ctx context.Context, host string, port int) ([]net.PacketConn, error) {
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network("udp", host), addr)
	if err != nil {
		return nil, listenError("udp", addr, err)
	}
	if c, ok := pc.(*net.UDPConn); ok {
		c.SetReadBuffer(socketBuffer)
		c.SetWriteBuffer(socketBuffer)
	}
	return []net.PacketConn{pc}, nil
}

// readersOf is how many goroutines read a socket.
func readersOf(pc net.PacketConn) int { return runtime.GOMAXPROCS(0) }

func (w *udpWorker) serveSocket() { w.serveEach() }
