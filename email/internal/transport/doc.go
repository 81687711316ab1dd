// Package transport brings a message to the hosts that take mail for a
// destination: over as many of them as it takes, on connections that are kept for
// the next message.
//
//	c := transport.New(transport.Config{Hostname: "mail.example.com"})
//	defer c.Close()
//	d, err := resolver.Lookup(ctx, "example.net") // of package mx
//	...
//	result := c.Send(ctx, &transport.Request{Destination: d, Envelope: envelope, Content: content})
//	for _, r := range result.Recipients {
//		switch r.Status { ... }
//	}
//
// # When another host is tried
//
// As long as nobody has answered for the message: a host that cannot be reached,
// does not want to talk, breaks off before the content, or cannot do what the
// message needs is left for the next one (RFC 5321 section 5.1). What a host says
// to the message, also "later", is the answer, and so is that it breaks off within
// the content.
//
// # What is never sent twice
//
// A message whose end was sent and not answered is [smtpc.Unknown]: Send does not
// try it again, since the host may have it. A kept connection that turns out to be
// dead is replaced by a new one only if nothing but the envelope was sent on it.
package transport
