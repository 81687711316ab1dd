package dnsserver

import (
	"context"
	"crypto/tls"
)

// hasCertificate reports whether c has one for each connection.
func hasCertificate(c *tls.Config) bool {
	return len(c.Certificates) > 0 || c.GetCertificate != nil || c.GetConfigForClient != nil
}

// tlsFor returns the settings of TLS for application protocols, one of which has
// to be among those that the client asks for, if it asks for any (RFC 7301).
func (o *options) tlsFor(protocols ...string) *tls.Config {
	c := o.tlsConfig.Clone()
	if c == nil {
		c = &tls.Config{}
	}
	if o.getCertificate != nil {
		c.GetCertificate = o.getCertificate
		c.Certificates = nil // would go first for clients that name no server
	}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12) // RFC 9325 section 3.1.1
	c.NextProtos = protocols
	return c
}

// bindTLS opens a port of DNS over TLS (RFC 7858) or HTTPS (RFC 8484), if there
// is to be one.
func (r *run) bindTLS(ctx context.Context, port *EncryptedPort, by transport, protocols ...string) error {
	if port == nil {
		return nil
	}
	ln, err := r.listenTCP(ctx, port.port(by))
	if err != nil {
		return err
	}
	r.streams = append(r.streams, boundListener{tls.NewListener(gatherListener{ln, r.s}, r.s.opts.tlsFor(protocols...)), by})
	return nil
}
