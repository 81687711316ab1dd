package dnsserver

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call reads or writes at most.
const batchSize = 16

// controlSize is room for one control message with where a datagram went to.
const controlSize = 64

// listenUDP binds a port with a socket for each processor, among which the
// kernel spreads clients.
func listenUDP(ctx context.Context, host string, port int) (list []net.PacketConn, err error) {
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	defer func() {
		if err != nil {
			for _, pc := range list {
				pc.Close()
			}
			list, err = nil, listenError("udp", addr, err)
		}
	}()
	share := func(c syscall.RawConn) error {
		return os.NewSyscallError("setsockopt", setOption(c, unix.SOL_SOCKET, unix.SO_REUSEPORT))
	}
	bound, _ := netip.ParseAddr(host)
	anyAddr := host == "" || bound.IsUnspecified()
	// Before the socket is bound: what comes must find it ready.
	prepare := func(_, _ string, c syscall.RawConn) error {
		if len(list) > 0 {
			if err := share(c); err != nil {
				return err
			}
		}
		if anyAddr {
			return askDestination(c)
		}
		return nil
	}
	for len(list) < min(runtime.GOMAXPROCS(0), 64) {
		lc := net.ListenConfig{Control: prepare}
		pc, err := lc.ListenPacket(ctx, network("udp", host), addr)
		if err != nil {
			return list, err
		}
		list = append(list, pc)
		// The first one finds out whether the port is taken, be it by somebody
		// who would share it, and lets the others in only then.
		c := pc.(*net.UDPConn)
		raw, err := c.SyscallConn()
		if err != nil {
			return list, err
		}
		if err := share(raw); err != nil {
			return list, err
		}
		ignorePathMTU(raw)
		c.SetReadBuffer(socketBuffer)
		c.SetWriteBuffer(socketBuffer)
	}
	return list, nil
}

// ignorePathMTU keeps forged messages about small packets from making answers
// go out in fragments, which can be forged in turn (RFC 9715 section 3.1).
// Responses are small enough to pass whole.
func ignorePathMTU(c syscall.RawConn) {
	c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT)
	})
}

// askDestination has a socket tell where datagrams went to. One of IPv6 tells
// it for IPv4 in the same form.
func askDestination(c syscall.RawConn) error {
	if setOption(c, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt", setOption(c, unix.IPPROTO_IP, unix.IP_PKTINFO))
}

// setOption turns an option of a socket on.
func setOption(c syscall.RawConn, level, option int) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	return inner
}

// readersOf is how many goroutines read a socket. Those of the system get one
// each.
func readersOf(pc net.PacketConn) int {
	if _, ok := pc.(*net.UDPConn); ok {
		return 1
	}
	return runtime.GOMAXPROCS(0)
}

func (w *udpWorker) serveSocket() {
	c, ok := w.pc.(*net.UDPConn)
	if !ok {
		w.serveEach()
		return
	}
	b, err := newUDPBatch(w, c)
	if err != nil {
		w.run.fail(readError(w.pc, err))
		return
	}
	b.serve()
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// udpBatch reads and writes up to batchSize datagrams with one system call
// each. The kernel's own forms of addresses and control messages go back to it
// as they came. The calls do not wait, which is left to Go's poller, and so
// need not tell Go's scheduler that they might.
type udpBatch struct {
	*udpWorker
	conn *net.UDPConn
	raw  syscall.RawConn

	in, out [batchSize]mmsghdr
	inVec   [batchSize]unix.Iovec
	outVec  [batchSize]unix.Iovec
	names   [batchSize]unix.RawSockaddrInet6 // the longest that comes
	control [batchSize][controlSize]byte
	queries [batchSize][maxQuery]byte
	answers [batchSize][maxDatagram]byte

	anyAddr bool // answers need to be told where to come from
	err     error
}

func newUDPBatch(w *udpWorker, c *net.UDPConn) (*udpBatch, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &udpBatch{udpWorker: w, conn: c, raw: raw}
	if addrPort(c.LocalAddr()).Addr().IsUnspecified() {
		// A socket of the host's has not been asked yet.
		if err := askDestination(raw); err != nil {
			return nil, err
		}
		b.anyAddr = true
	}
	for i := range batchSize {
		b.inVec[i].Base = &b.queries[i][0]
		b.inVec[i].SetLen(maxQuery)
		h := &b.in[i].hdr
		h.Iov = &b.inVec[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		b.out[i].hdr.Iov = &b.outVec[i]
		b.out[i].hdr.SetIovlen(1)
	}
	return b, nil
}

// serve answers until Stop, and then what has come before it.
func (b *udpBatch) serve() {
	read := b.answerAll // once: it would be allocated anew each time
	var again retry
	for {
		b.err = nil
		err := b.raw.Read(read)
		if b.run.closing.Load() {
			break
		}
		if err == nil {
			err = b.err
		}
		if err == nil {
			again = retry{}
		} else if !again.wait(b.run, err) {
			b.run.fail(readError(b.pc, err))
			return
		}
	}
	b.raw.Control(func(fd uintptr) {
		// No more than may have waited: others may be coming all the time.
		for range 64 {
			if n, _ := b.receive(fd); n <= 0 {
				return
			} else {
				b.answerBatch(fd, n)
			}
		}
	})
}

// answerAll answers until there is nothing more to read, and reports false
// then, upon which it is called again when there is.
func (b *udpBatch) answerAll(fd uintptr) bool {
	for !b.run.closing.Load() {
		n, errno := b.receive(fd)
		if errno == syscall.EAGAIN {
			return false
		}
		if errno != 0 {
			b.err = os.NewSyscallError("recvmmsg", errno)
			return true
		}
		b.answerBatch(fd, n)
		// Fewer than there is room for are all there were. Whatever has come
		// since makes the poller ready.
		if n < batchSize {
			return false
		}
	}
	return true
}

// receive reads a batch.
func (b *udpBatch) receive(fd uintptr) (int, syscall.Errno) {
	for i := range batchSize {
		h := &b.in[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if b.anyAddr {
			h.Control = &b.control[i][0]
			h.SetControllen(controlSize)
		}
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// answerBatch answers the first n of what was read.
func (b *udpBatch) answerBatch(fd uintptr, n int) {
	w, later := 0, 0
	for i := range n {
		m := &b.in[i]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		if query := b.queries[i][:m.n]; isUpdate(query) {
			b.later(b.conn, query, b.controlOf(i), sockaddr(&b.names[i]))
			later++
			continue
		}
		resp := b.answer(b.answers[i][:0], b.queries[i][:m.n], sockaddr(&b.names[i]))
		if len(resp) == 0 {
			continue
		}
		b.outVec[w].Base = &resp[0]
		b.outVec[w].SetLen(len(resp))
		h := &b.out[w].hdr
		h.Name, h.Namelen = m.hdr.Name, m.hdr.Namelen
		if b.anyAddr {
			h.Control, h.Controllen = m.hdr.Control, m.hdr.Controllen
			if b.controlOf(i) == nil {
				h.Control = nil
				h.SetControllen(0)
			}
		}
		w++
	}
	sent := b.send(fd, w)
	count := func(c *atomic.Uint64, n int) {
		if n > 0 {
			c.Add(uint64(n))
		}
	}
	count(&b.stats.queries, n)
	count(&b.stats.responses, sent)
	count(&b.stats.dropped, n-sent-later)
}

// controlOf returns the control message with which the i-th query is answered
// from where it went to, or nil if the system is to choose.
func (b *udpBatch) controlOf(i int) []byte {
	if b.anyAddr {
		if control := b.control[i][:min(int(b.in[i].hdr.Controllen), controlSize)]; answerFrom(control) {
			return control
		}
	}
	return nil
}

// send writes the first n answers. What cannot be sent is lost, as it may be
// anywhere on its way.
func (b *udpBatch) send(fd uintptr, n int) (sent int) {
	for at := 0; at < n; {
		k, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[at])), uintptr(n-at), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			at += int(k)
			sent += int(k)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return sent
		default:
			at++ // it is about the first one
		}
	}
	return sent
}

// sockaddr reads an address in the kernel's form.
func sockaddr(a *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.Port))[:])
	switch a.Family {
	case unix.AF_INET:
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}

// answerFrom makes of the control message about where a query went to the one
// that sends the answer from there. It reports false where the system has to
// choose: nothing can come from the address of a group.
func answerFrom(control []byte) bool {
	const header = unix.SizeofCmsghdr
	if len(control) < header {
		return false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := control[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		// The interface stays open, as the routes may want another one.
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
		info.Ifindex = 0
		return true
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		addr := netip.AddrFrom16(info.Addr)
		if !addr.IsLinkLocalUnicast() {
			info.Ifindex = 0
		}
		return !addr.IsMulticast()
	}
	return false
}
