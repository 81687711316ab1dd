package dnsc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is the largest answer by UDP that is surely not fragmented; what is
// larger comes by TCP.
const udpSize = 1232

// maxStray is how many datagrams that answer another question are passed over:
// late ones, and guesses (RFC 5452).
const maxStray = 100

// response is what a server said.
type response struct {
	*dns.Msg
	server server
}

// ask asks the servers one after another until one has an answer. One that
// fails, for instance because the records do not validate, is asked once; one
// that is silent in each round.
func (r *Resolver) ask(ctx context.Context, name string, rrtype uint16) (response, error) {
	fqdn, ok := wireName(name)
	if !ok {
		return response{}, &net.DNSError{Err: "this is no domain name", Name: name, IsNotFound: true}
	}
	failed := &net.DNSError{Err: "no server answers", Name: name, IsTemporary: true}
	answered := make([]bool, len(r.servers))
	for range r.rounds {
		for i, s := range r.servers {
			if answered[i] {
				continue
			}
			m, err := r.askServer(ctx, s, fqdn, rrtype)
			if ctx.Err() != nil {
				return response{}, contextError(ctx, name, s)
			}
			switch {
			case err != nil:
				failed = &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: name, Server: s.addr, IsTemporary: true, IsTimeout: errors.Is(err, os.ErrDeadlineExceeded)}
				continue
			case m.Rcode == dns.RcodeSuccess, m.Rcode == dns.RcodeNameError:
				return response{m, s}, nil
			}
			answered[i] = true
			failed = &net.DNSError{Err: fmt.Sprintf("the server answers %s", rcodeName(m.Rcode)), Name: name, Server: s.addr, IsTemporary: true}
		}
	}
	return response{}, failed
}

func contextError(ctx context.Context, name string, s server) error {
	return &net.DNSError{
		UnwrapErr: ctx.Err(), Err: ctx.Err().Error(), Name: name, Server: s.addr,
		IsTemporary: true, IsTimeout: errors.Is(ctx.Err(), context.DeadlineExceeded),
	}
}

func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return fmt.Sprintf("error %d", rcode)
}

// askServer tries one server once: by UDP, by TCP if the answer is cut off, and
// without EDNS if it does not know that.
func (r *Resolver) askServer(ctx context.Context, s server, fqdn string, rrtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	query := new(dns.Msg)
	query.SetQuestion(fqdn, rrtype)
	query.AuthenticatedData = true // RFC 6840 section 5.7: "I understand AD"
	query.SetEdns0(udpSize, false)
	m, err := r.exchange(ctx, s, query)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		query.Extra = nil
		m, err = r.exchange(ctx, s, query)
	}
	return m, err
}

func (r *Resolver) exchange(ctx context.Context, s server, query *dns.Msg) (*dns.Msg, error) {
	m, err := r.over(ctx, "udp", s, query)
	if err == nil && m.Truncated {
		m, err = r.over(ctx, "tcp", s, query)
	}
	return m, err
}

// over asks on a connection of its own, so that both the source port and the id
// have to be guessed by who would forge an answer.
func (r *Resolver) over(ctx context.Context, network string, s server, query *dns.Msg) (*dns.Msg, error) {
	query.Id = dns.Id()
	raw, err := r.dialer.DialContext(ctx, network, s.addr)
	if err != nil {
		return nil, err
	}
	conn := &dns.Conn{Conn: raw, UDPSize: udpSize}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })() // lets go of reads and writes at once
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for range maxStray {
		m, err := conn.ReadMsg()
		switch {
		case err == nil && answers(m, query):
			return m, nil
		case err == nil && network == "udp":
			continue
		case err == nil:
			return nil, errors.New("the server answers another question")
		case network == "udp" && isMalformed(err) && ctx.Err() == nil:
			continue // from whom, nobody knows
		}
		return nil, err
	}
	return nil, errors.New("too many answers to other questions")
}

// isMalformed tells a datagram that cannot be read from a connection that cannot
// be.
func isMalformed(err error) bool {
	var n net.Error
	return !errors.As(err, &n)
}

// answers reports whether m is the answer to the query. Servers may leave out
// the question when they refuse it.
func answers(m, query *dns.Msg) bool {
	if !m.Response || m.Id != query.Id || m.Opcode != query.Opcode {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	q, want := m.Question[0], query.Question[0]
	return len(m.Question) == 1 && q.Qtype == want.Qtype && q.Qclass == want.Qclass && strings.EqualFold(q.Name, want.Name)
}

// wireName is a name as it is asked for. Whatever DNS could carry is fine, but
// no escapes: names here are from strangers, and a backslash is none of theirs.
func wireName(name string) (string, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
		for i := range len(label) {
			if c := label[i]; c <= ' ' || c >= 0x7f || c == '\\' {
				return "", false
			}
		}
	}
	return name + ".", true
}
