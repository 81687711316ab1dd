package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Socket is one that can be given to another process.
type Socket struct {
	// Network is "tcp" for one that accepts connections and "udp" for one that
	// receives datagrams.
	Network string
	// Address is what it was asked for as, such as ":443" or "127.0.0.1:0". If it
	// is empty, the socket is for the address that it is bound to.
	Address string
	// File is the socket. Whoever has the Socket closes it.
	File *os.File
}

// entry is a socket of a Set. What is in use has a ln or a pc, which is closed
// by whoever asked for it.
type entry struct {
	network string // "tcp" or "udp"
	asked   string
	local   net.Addr

	ln     net.Listener // for tcp
	pc     net.PacketConn
	inUse  bool     // ln or pc has been handed out
	file   *os.File // the same socket once more: it stays open if they are closed
	strict bool     // somebody has to want it
}

func (e *entry) String() string { return e.asked + "/" + e.network }

// closed reports whether whoever had the socket has closed it. Of one that is
// not the system's nobody can tell.
func (e *entry) closed() bool {
	if !e.inUse {
		return false
	}
	c, ok := e.conn().(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) {})
	}
	return errors.Is(err, net.ErrClosed)
}

// conn is the ln or pc.
func (e *entry) conn() any {
	if e.ln != nil {
		return e.ln
	}
	return e.pc
}

// hold makes file, if it can.
func (e *entry) hold() error {
	if e.file != nil {
		return nil
	}
	c, ok := e.conn().(syscall.Conn)
	if !ok {
		return fmt.Errorf("%s: %T is no socket of the system: %w", e, e.conn(), errors.ErrUnsupported)
	}
	f, err := duplicate(c)
	if err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	e.file = f
	return nil
}

// take hands the socket out.
func (e *entry) take() (err error) {
	if !e.inUse && e.conn() != nil {
		_ = e.hold() // if whoever asks fails to start, it can be had again
		e.inUse = true
		return nil
	}
	if e.network == "tcp" {
		e.ln, err = net.FileListener(e.file)
	} else {
		e.pc, err = net.FilePacketConn(e.file)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	e.inUse = true
	return nil
}

// free reports whether the socket can be handed out.
func (e *entry) free() bool {
	if e.inUse {
		return e.file != nil && e.closed()
	}
	return true
}

// close closes what nobody has.
func (e *entry) close() {
	if e.file != nil {
		e.file.Close()
		e.file = nil
	}
	if e.inUse {
		return
	}
	if e.ln != nil {
		e.ln.Close()
	}
	if e.pc != nil {
		e.pc.Close()
	}
}

// isBoundTo reports whether a socket that is bound to local is what somebody
// wants who asks for an address. Names of hosts are not looked up.
func isBoundTo(local net.Addr, network, asked string) bool {
	var bound netip.AddrPort
	switch a := local.(type) {
	case *net.TCPAddr:
		bound = a.AddrPort()
	case *net.UDPAddr:
		bound = a.AddrPort()
	default:
		return false
	}
	host, text, err := net.SplitHostPort(asked)
	if err != nil {
		return false
	}
	if port, err := strconv.ParseUint(text, 10, 16); err != nil || port == 0 || uint16(port) != bound.Port() {
		return false
	}
	at := bound.Addr().Unmap()
	if strings.HasSuffix(network, "4") && !at.Is4() || strings.HasSuffix(network, "6") && !at.Is6() {
		return false
	}
	if host == "" {
		return at.IsUnspecified()
	}
	want, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	// Go binds the one for IPv4 as that for both.
	return want.Unmap() == at || want.IsUnspecified() && at.IsUnspecified()
}
