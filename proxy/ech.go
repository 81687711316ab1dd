package proxy

import (
	"crypto/tls"
	"runtime/debug"
	"time"
)

// With Encrypted Client Hello (RFC 9849) the server name that can be read is
// that of whoever has the key, and the one that is meant comes to light in the
// handshake: that is what chooses the route then, and its policy. What is no
// such hello after all, or was encrypted with a key that is gone, goes on under
// the name that can be read, and the client is told about the keys there are.

// echConfig is what a handshake begins with that may have two names. chosen is
// told what it goes on with.
func (r *run) echConfig(c *conn, p *portRoutes, q *query, hello *clientHello, chosen *termination) *tls.Config {
	return &tls.Config{
		GetEncryptedClientHelloKeys: func(info *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
			// Browsers send noise to servers without keys (RFC 9849 section 6.2).
			// crypto/tls would try each key on it.
			keys, _ := r.p.echKeys(info)
			named := make([]tls.EncryptedClientHelloKey, 0, 1)
			for _, k := range keys {
				if len(k.Config) > 4 && k.Config[4] == hello.echConfig {
					named = append(named, k)
				}
			}
			return named, nil
		},
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			host, ok := canonicalHost(info.ServerName)
			c.serverName, q.host = host, host
			if ok {
				*chosen, ok = p.termination(q)
			}
			if !ok {
				c.Conn.Write(unrecognizedName()) // crypto/tls would say that something is wrong here
				return nil, errUnknownName
			}
			return chosen.config(info.SupportedProtos), nil
		},
	}
}

// echKeys are the host's keys. Handshakes do not fail for want of them:
// crypto/tls asks for them in each.
func (p *Proxy) echKeys(hello *tls.ClientHelloInfo) (keys []tls.EncryptedClientHelloKey, _ error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		keys = nil
		if skipped, ok := p.echFailures.mayLog(time.Now()); ok {
			p.log.Error("panic while looking for keys of Encrypted Client Hello", "panic", v, "stack", string(debug.Stack()), "not_logged", skipped)
		}
	}()
	keys, err := p.opts.echKeys(hello)
	if err != nil {
		if skipped, ok := p.echFailures.mayLog(time.Now()); ok {
			p.log.Error("no keys for Encrypted Client Hello", "err", err, "not_logged", skipped)
		}
		return nil, nil
	}
	return keys, nil
}
