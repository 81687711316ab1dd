package radius

import (
	"encoding/binary"
	"net"
	"syscall"
)

// wantDestination makes a socket that is bound to all addresses say which of
// them a packet was sent to. Answers must come from that one, or clients do not
// take them.
func wantDestination(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var err4, err6 error
	err = raw.Control(func(fd uintptr) {
		err4 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1)
		err6 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
	})
	if err4 != nil && err6 != nil {
		return err4
	}
	return err
}

// replyFrom makes the control message of a packet into that of the answer: the
// same but for the interface, which the routing table is to choose.
func replyFrom(oob []byte) []byte {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_PKTINFO && len(m.Data) >= syscall.SizeofInet4Pktinfo:
			binary.NativeEndian.PutUint32(m.Data, 0)
		case m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_PKTINFO && len(m.Data) >= syscall.SizeofInet6Pktinfo:
			binary.NativeEndian.PutUint32(m.Data[16:], 0)
		}
	}
	return oob
}
