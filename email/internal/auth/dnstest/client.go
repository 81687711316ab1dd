package dnstest

import (
	"context"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Client asks a [Server] for any name; *net.Resolver refuses names with other
// characters than those of host names.
type Client struct{ addr string }

// Client returns a client of the server.
func (s *Server) Client() Client { return Client{s.Addr()} }

func (c Client) ask(ctx context.Context, name string, t dnsmessage.Type) ([]dnsmessage.ResourceBody, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 1}, Questions: []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}}}
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", c.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	size, err := conn.Read(buf)
	if err != nil {
		return nil, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:size]); err != nil {
		return nil, err
	}
	if m.RCode == dnsmessage.RCodeServerFailure {
		return nil, &net.DNSError{Err: "server failure", Name: name, IsTemporary: true}
	}
	var list []dnsmessage.ResourceBody
	for _, a := range m.Answers {
		if a.Header.Type == t {
			list = append(list, a.Body)
		}
	}
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return list, nil
}

// LookupTXT is as in net.Resolver, and so are the others.
func (c Client) LookupTXT(ctx context.Context, name string) ([]string, error) {
	list, err := c.ask(ctx, name, dnsmessage.TypeTXT)
	var out []string
	for _, b := range list {
		out = append(out, strings.Join(b.(*dnsmessage.TXTResource).TXT, ""))
	}
	return out, err
}

func (c Client) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	list, err := c.ask(ctx, name, dnsmessage.TypeMX)
	var out []*net.MX
	for _, b := range list {
		mx := b.(*dnsmessage.MXResource)
		out = append(out, &net.MX{Host: mx.MX.String(), Pref: mx.Pref})
	}
	return out, err
}

func (c Client) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	var out []net.IPAddr
	list, err := c.ask(ctx, host, dnsmessage.TypeA)
	for _, b := range list {
		out = append(out, net.IPAddr{IP: net.IP(b.(*dnsmessage.AResource).A[:])})
	}
	list, err6 := c.ask(ctx, host, dnsmessage.TypeAAAA)
	for _, b := range list {
		out = append(out, net.IPAddr{IP: net.IP(b.(*dnsmessage.AAAAResource).AAAA[:])})
	}
	if len(out) > 0 || err == nil {
		return out, err
	}
	return nil, err6
}

func (c Client) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return nil, fmt.Errorf("%s: not here", addr)
}
