package radius

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// exchange sends a request to another server or a NAS and returns its verified
// answer. It asks again after each of the pauses, and gives up after the last; the
// look-up of a name is part of that time. Each exchange has a socket of its own, so
// that its port is not known to anyone who would forge the answer, and identifiers
// cannot run out.
func exchange(ctx context.Context, addr string, request datagram, pauses []time.Duration, verify func(reply datagram) error) (datagram, error) {
	deadline := time.Now()
	whole := deadline
	for _, pause := range pauses {
		whole = whole.Add(pause)
	}
	dialer := net.Dialer{Deadline: whole}
	conn, err := dialer.DialContext(ctx, "udp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, maxPacket+1)
	var unfit error
	for _, pause := range pauses {
		if deadline = deadline.Add(pause); !time.Now().Before(deadline) {
			continue
		}
		if _, err := conn.Write(request); err != nil {
			unfit = err // as "refused", which an earlier try was told
		}
		conn.SetReadDeadline(deadline)
		for bad := 0; ctx.Err() == nil; {
			n, err := conn.Read(b)
			if err != nil {
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					break
				}
				// A NAS that starts just now refuses at first.
				unfit = err
				if !sleep(ctx, min(time.Until(deadline), 100*time.Millisecond)) || !time.Now().Before(deadline) {
					break
				}
				continue
			}
			reply, ok := trim(b[:n])
			if ok {
				if err = verify(reply); err == nil {
					return reply, nil
				}
			} else {
				err = errNotReply
			}
			unfit = err
			if bad++; bad == 100 { // somebody floods us
				break
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if unfit != nil {
		return nil, fmt.Errorf("no answer from %s: %w", addr, unfit)
	}
	return nil, fmt.Errorf("no answer from %s", addr)
}

// sleep waits, and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func hostPort(host string, port int) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, uint16(port)).String()
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}
