package soak

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	layeh "layeh.com/radius"
)

// nameServer is the name that the DNS server has a certificate for.
const nameServer = "ns." + zone

// settings are those of a client that trusts what is trusted now.
func (w *world) settings(name string, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: name, RootCAs: w.trusted(), NextProtos: protocols}
}

// overTLS asks by RFC 7858, on a connection of its own.
func (w *world) overTLS(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	client := &dns.Client{Net: "tcp-tls", Timeout: requestTime, TLSConfig: w.settings(nameServer)}
	answer, _, err := client.ExchangeContext(ctx, q, address(w.dot))
	return answer, err
}

// overQUIC asks by RFC 9250, on a connection of its own.
func (w *world) overQUIC(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	q.Id = 0
	text, err := q.Pack()
	if err != nil {
		return nil, err
	}
	conn, err := quic.DialAddr(ctx, address(w.doq), w.settings(nameServer, "doq"), nil)
	if err != nil {
		return nil, err
	}
	defer conn.CloseWithError(0, "")
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	stream.SetDeadline(deadline)
	if _, err := stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...)); err != nil {
		return nil, err
	}
	stream.Close()
	text, err = io.ReadAll(io.LimitReader(stream, 1<<16+2))
	if err != nil {
		return nil, err
	}
	if len(text) < 2 {
		return nil, io.ErrUnexpectedEOF
	}
	answer := new(dns.Msg)
	return answer, answer.Unpack(text[2:])
}

// http3Client keeps connections in HTTP/3 to the port for TLS.
func (w *world) http3Client() *http.Client {
	transport := &http3.Transport{Dial: func(ctx context.Context, addr string, settings *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
		settings.RootCAs = w.trusted()
		return quic.DialAddrEarly(ctx, address(w.secure), settings, cfg)
	}}
	w.t.Cleanup(func() { transport.Close() })
	return &http.Client{Transport: transport, Timeout: requestTime}
}

// deviceOverTLS asks about a device by RadSec, on a connection of its own.
func (w *world) deviceOverTLS(ctx context.Context) error {
	return w.asksOf(ctx, "radsec", func(ctx context.Context, p *layeh.Packet) (*layeh.Packet, error) {
		settings := w.settings(nameServer)
		settings.Certificates = []tls.Certificate{w.switchCert}
		dialer := &tls.Dialer{Config: settings}
		c, err := dialer.DialContext(ctx, "tcp", address(w.radSec))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(requestTime))
		b, err := p.Encode()
		if err != nil {
			return nil, err
		}
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		b = make([]byte, 4096)
		if _, err := io.ReadFull(c, b[:4]); err != nil {
			return nil, err
		}
		b = b[:min(max(int(binary.BigEndian.Uint16(b[2:])), 4), len(b))]
		if _, err := io.ReadFull(c, b[4:]); err != nil {
			return nil, err
		}
		return layeh.Parse(b, p.Secret)
	})
}
