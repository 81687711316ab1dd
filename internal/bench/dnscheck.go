package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/miekg/dns"
)

// checkDNS asks a server some questions, the way that the load goes, and
// compares the answers with what is in the zone.
func (b *bench) checkDNS(s *server) error {
	ask, done, err := b.asking(s)
	if err != nil {
		return err
	}
	defer done()
	z := s.zone
	for k := range 10 {
		i := k * z.names / 10
		for _, t := range dnsTypes() {
			if err := checkDNSAnswer(ask, i, t, true); err != nil {
				return err
			}
		}
		if err := checkDNSAnswer(ask, i+z.names, dns.TypeA, false); err != nil {
			return err
		}
	}
	return nil
}

type asking func(*dns.Msg) (*dns.Msg, error)

// checkDNSAnswer asks about name i.
func checkDNSAnswer(ask asking, i int, rtype uint16, there bool) error {
	name := dnsLabel(i) + "." + dnsOrigin
	m, err := ask(new(dns.Msg).SetQuestion(name, rtype))
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, dns.TypeToString[rtype], err)
	}
	ok := m.Authoritative && !m.Truncated && len(m.Question) == 1 && m.Question[0].Name == name
	if there {
		want, err := dns.NewRR(fmt.Sprintf("%s 3600 %s %s", name, dns.TypeToString[rtype], dnsData(i, rtype)))
		if err != nil {
			return err
		}
		ok = ok && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 1 && m.Answer[0].String() == want.String()
	} else {
		ok = ok && m.Rcode == dns.RcodeNameError && len(m.Answer) == 0 && len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA
	}
	if !ok {
		return fmt.Errorf("wrong answer:\n%v", m)
	}
	return nil
}

// asking returns a way to ask a server. Afterwards done is to be called.
func (b *bench) asking(s *server) (ask asking, done func(), err error) {
	if s.front == dnsHTTPS {
		client := b.client(2)
		return func(q *dns.Msg) (*dns.Msg, error) { return askHTTPS(client, s.url(), q) }, client.CloseIdleConnections, nil
	}
	client := &dns.Client{Timeout: 5 * time.Second}
	switch s.front {
	case dnsTCP:
		client.Net = "tcp"
	case dnsTLS:
		client.Net, client.TLSConfig = "tcp-tls", &tls.Config{RootCAs: b.cert.pool, ServerName: "localhost"}
	}
	conn, err := client.Dial(loopback(s.port))
	if err != nil {
		return nil, nil, err
	}
	return func(q *dns.Msg) (*dns.Msg, error) {
		m, _, err := client.ExchangeWithConn(q, conn)
		return m, err
	}, func() { conn.Close() }, nil
}

// askHTTPS asks by RFC 8484.
func askHTTPS(client *http.Client, url string, q *dns.Msg) (*dns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, err
	}
	resp, err := client.Post(url, "application/dns-message", bytes.NewReader(wire))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		return nil, fmt.Errorf("%s %s: %.200q", resp.Proto, resp.Status, data)
	}
	m := new(dns.Msg)
	return m, m.Unpack(data)
}
