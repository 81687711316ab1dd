package dnsserver

import (
	"context"
	"crypto/tls"
)

// hasCertificate reports whether c has one for each connection.
func hasCertificate(c *tls.Config) bool {
	return len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil
}

// tlsFor returns the settings of TLS for an application protocol, which has to
// be the one that the client asks for, if it asks for any (RFC 7301).
func (o *options) tlsFor(protocol string) *tls.Config {
	c := o.tlsConfig.Clone()
	if c == nil {
		c = &tls.Config{}
	}
	if o.getCertificate != nil {
		c.GetCertificate = o.getCertificate
		c.Certificates = nil // would go first for clients that name no server
	}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12) // RFC 9325 section 3.1.1
	c.NextProtos = []string{protocol}
	return c
}

// bindTLS opens the port of DNS over TLS (RFC 7858).
func (r *run) bindTLS(ctx context.Context) error {
	dot := r.s.cfg.DoT
	if dot == nil {
		return nil
	}
	ln, err := r.listenTCP(ctx, dot.port())
	if err != nil {
		return err
	}
	r.streams = append(r.streams, boundListener{tls.NewListener(gatherListener{ln, r.s}, r.s.opts.tlsFor("dot")), overTLS})
	return nil
}
