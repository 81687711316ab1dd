// Package dnstest is an authoritative DNS server for the tests of the checks of
// senders, and a resolver that asks it.
package dnstest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Zone has the records of names, in lower case without a final dot: "A
// 192.0.2.1", "AAAA ...", "TXT ...", "MX 10 host", "PTR name", "CNAME name"; and
// "SERVFAIL" for a name that is answered so.
type Zone map[string][]string

// Server answers from a Zone.
type Server struct {
	conn net.PacketConn

	mu    sync.Mutex
	zone  Zone
	asked map[string]int
}

// New starts a server on a loopback port, which ends with the test.
func New(t testing.TB, z Zone) *Server {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{conn: conn, zone: z, asked: map[string]int{}}
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return s
}

// Resolver returns a resolver that asks the server.
func (s *Server) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.conn.LocalAddr().String())
	}}
}

// Addr is the server's address, UDP.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// Set changes the records of a name; none remove it.
func (s *Server) Set(name string, records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = records
	if len(records) == 0 {
		delete(s.zone, name)
	}
}

// Asked returns how often each name was asked for, and forgets it.
func (s *Server) Asked() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = map[string]int{}
	return asked
}

func (s *Server) serve() {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var p dnsmessage.Parser
		h, err := p.Start(buf[:n])
		if err != nil {
			continue
		}
		q, err := p.Question()
		if err != nil {
			continue
		}
		out, err := s.answer(h.ID, q)
		if err != nil {
			out, _ = (&dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, RCode: dnsmessage.RCodeFormatError}, Questions: []dnsmessage.Question{q}}).Pack()
		}
		_, _ = s.conn.WriteTo(out, from)
	}
}

func (s *Server) answer(id uint16, q dnsmessage.Question) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.asked[name]++
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	owner := q.Name
	for range 8 {
		records, ok := s.zone[name]
		if !ok && !s.below(name) {
			m.RCode = dnsmessage.RCodeNameError
		}
		cname := ""
		for _, record := range records {
			kind, value, _ := strings.Cut(record, " ")
			if kind == "SERVFAIL" {
				m.RCode = dnsmessage.RCodeServerFailure
				break
			}
			body, err := resource(kind, value)
			if err != nil {
				return nil, err
			}
			header := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 60}
			if kind == "CNAME" {
				cname = strings.ToLower(strings.TrimSuffix(value, "."))
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
			} else if typeOf(kind) == q.Type {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: body})
			}
		}
		if cname == "" {
			break
		}
		var err error
		if owner, err = dnsmessage.NewName(cname + "."); err != nil {
			return nil, err
		}
		name = cname
	}
	return m.Pack()
}

// below reports whether there is a name below this one, so that it exists.
func (s *Server) below(name string) bool {
	for other := range s.zone {
		if strings.HasSuffix(other, "."+name) {
			return true
		}
	}
	return false
}

func typeOf(kind string) dnsmessage.Type {
	switch kind {
	case "A":
		return dnsmessage.TypeA
	case "AAAA":
		return dnsmessage.TypeAAAA
	case "TXT":
		return dnsmessage.TypeTXT
	case "MX":
		return dnsmessage.TypeMX
	case "PTR":
		return dnsmessage.TypePTR
	}
	return 0
}

func resource(kind, value string) (dnsmessage.ResourceBody, error) {
	switch kind {
	case "A", "AAAA":
		ip := net.ParseIP(value)
		if kind == "A" && ip.To4() != nil {
			return &dnsmessage.AResource{A: [4]byte(ip.To4())}, nil
		}
		return &dnsmessage.AAAAResource{AAAA: [16]byte(ip.To16())}, nil
	case "TXT":
		txt := &dnsmessage.TXTResource{}
		for len(value) > 255 {
			txt.TXT, value = append(txt.TXT, value[:255]), value[255:]
		}
		txt.TXT = append(txt.TXT, value)
		return txt, nil
	case "MX":
		pref, host, _ := strings.Cut(value, " ")
		n, _ := strconv.Atoi(pref)
		name, err := dnsmessage.NewName(strings.TrimSuffix(host, ".") + ".")
		return &dnsmessage.MXResource{Pref: uint16(n), MX: name}, err
	case "PTR":
		name, err := dnsmessage.NewName(strings.TrimSuffix(value, ".") + ".")
		return &dnsmessage.PTRResource{PTR: name}, err
	case "CNAME":
		name, err := dnsmessage.NewName(strings.TrimSuffix(value, ".") + ".")
		return &dnsmessage.CNAMEResource{CNAME: name}, err
	}
	return nil, fmt.Errorf("type %q is not known", kind)
}
