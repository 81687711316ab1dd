package dnsserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Resolver looks up the addresses that ALIAS records stand for.
type Resolver interface {
	// LookupAddrs returns the addresses of type rtype, which is 1 (A) or 28
	// (AAAA), that a name has, and for how long that may be remembered. A name
	// that has none, or does not exist, is no error: what was there before is
	// then taken away, while after an error it stays. The name has a final dot.
	LookupAddrs(ctx context.Context, name string, rtype uint16) (addrs []netip.Addr, ttl time.Duration, err error)
}

// stubResolver asks recursive resolvers, over UDP and, where the answer does
// not fit, over TCP.
type stubResolver struct {
	servers []string // addresses with ports; empty: those of /etc/resolv.conf
}

const (
	lookupTries   = 2 // of each server
	lookupTimeout = 3 * time.Second
	maxAddrs      = 64 // that an ALIAS record may stand for
	maxServers    = 3  // of /etc/resolv.conf
)

func newStubResolver(servers []string) *stubResolver {
	r := new(stubResolver)
	for _, s := range servers {
		if ap, ok := parseAddr(s); ok {
			r.servers = append(r.servers, ap.String())
		}
	}
	return r
}

func (r *stubResolver) LookupAddrs(ctx context.Context, name string, rtype uint16) ([]netip.Addr, time.Duration, error) {
	servers := r.servers
	if len(servers) == 0 {
		var err error
		if servers, err = systemResolvers("/etc/resolv.conf"); err != nil {
			return nil, 0, err
		}
	}
	wire, err := wireName(name)
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for range lookupTries {
		for _, server := range servers {
			addrs, ttl, err := lookUp(ctx, server, wire, rtype)
			if err == nil {
				return addrs, ttl, nil
			}
			if ctx.Err() != nil {
				return nil, 0, ctx.Err()
			}
			errs = append(errs, fmt.Errorf("%s: %w", server, err))
		}
	}
	return nil, 0, errors.Join(errs...)
}

// systemResolvers reads the addresses of resolvers in a file like
// /etc/resolv.conf.
func systemResolvers(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("no resolvers are configured, and those of the system cannot be read: %w", err)
	}
	defer f.Close()
	var list []string
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() && len(list) < maxServers {
		words := strings.Fields(lines.Text())
		if len(words) >= 2 && words[0] == "nameserver" {
			if addr, err := netip.ParseAddr(words[1]); err == nil {
				list = append(list, netip.AddrPortFrom(addr, DefaultPort).String())
			}
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no resolvers are configured, and %s names none", path)
	}
	return list, nil
}

// lookUp asks one resolver. Over UDP it is recognised by its address, the port
// and id of the query, which are random, and the case of the name, too.
func lookUp(ctx context.Context, server, name string, rtype uint16) ([]netip.Addr, time.Duration, error) {
	for _, network := range []string{"udp", "tcp"} {
		m := beginMessage(mixCase(name), rtype, flagRD)
		wire, err := exchangeOnce(ctx, network, server, m)
		if err != nil {
			return nil, 0, err
		}
		a, err := readAnswer(wire)
		if err != nil {
			return nil, 0, err
		}
		if a.flags&flagTC != 0 && network == "udp" {
			continue
		}
		addrs, _, ttl, err := a.addrs(name, rtype)
		return addrs, ttl, err
	}
	return nil, 0, errMessage
}

// mixCase returns a name with letters in random case, so that an answer with
// the same name is hard to forge.
func mixCase(name string) string {
	b := []byte(name)
	bits := randomKey()
	for i, c := range b {
		if c >= 'a' && c <= 'z' && bits[i/64%2]>>(i%64)&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// exchangeOnce sends a query and returns the response to it.
func exchangeOnce(ctx context.Context, network, server string, m []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if network == "tcp" {
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
			return nil, err
		}
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return nil, err
		}
		wire := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, wire); err != nil {
			return nil, err
		}
		if !answersTo(wire, m) {
			return nil, errOtherQuestion
		}
		return wire, nil
	}
	if _, err := conn.Write(m); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for range 64 { // forged ones may come before it
		n, err := conn.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil, errNoAnswer
			}
			return nil, err
		}
		if answersTo(buf[:n], m) {
			return buf[:n], nil
		}
	}
	return nil, errNoAnswer
}

// answersTo reports whether a message is the response to a query, with the id
// and the question as they were sent.
func answersTo(wire, m []byte) bool {
	return len(wire) >= len(m) && wire[0] == m[0] && wire[1] == m[1] && wire[2]&0x80 != 0 && string(wire[4:6]) == string(m[4:6]) && string(wire[headLen:len(m)]) == string(m[headLen:])
}

// addrs returns the addresses in a response, and the name that has them, behind
// any aliases.
func (a *answerIn) addrs(name string, rtype uint16) ([]netip.Addr, string, time.Duration, error) {
	if rcode := a.rcode(); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return nil, "", 0, rcodeError(rcode)
	}
	var records []sentRecord
	at := a.at
	for range min(a.answers, 4*maxAddrs) {
		r, next, err := readRecord(a.wire, at)
		if err != nil {
			return nil, "", 0, err
		}
		at = next
		if r.class == dns.ClassINET {
			records = append(records, r)
		}
	}
	var list []netip.Addr
	ttl := uint32(1<<31 - 1)
	for range maxChain {
		alias := ""
		for i := range records {
			r := &records[i]
			if r.name != name {
				continue
			}
			switch r.rtype {
			case rtype:
				if addr, ok := netip.AddrFromSlice([]byte(r.data)); ok && len(list) < maxAddrs {
					list = append(list, addr)
					ttl = min(ttl, r.ttl)
				}
			case dns.TypeCNAME:
				alias = lowerName([]byte(r.data))
				ttl = min(ttl, r.ttl)
			}
		}
		if len(list) > 0 || alias == "" {
			break
		}
		name = alias
	}
	return list, name, time.Duration(ttl) * time.Second, nil
}
