// Package auth says who a message is from: it runs SPF, DKIM, ARC, DMARC and the
// check of the client's name (iprev), and writes what they find into one
// Authentication-Results field.
//
//	c := auth.Checker{Hostname: "mx.example.com", Resolver: net.DefaultResolver}
//	r := c.Check(ctx, auth.Request{ClientIP: ip, Helo: helo, MailFrom: from, Header: h, Body: body})
//	field := r.Field()                                      // to put in front of the message
//	drop := authres.Forged(h, c.Hostname)                   // to leave out of it
//	if r.DMARC.Code == dmarc.Fail && r.DMARC.Policy == dmarc.Reject { ... }
//
// All of it is bounded: 8 signatures, 50 ARC sets, what RFC 7208 and RFC 9989
// allow of DNS, and the time for it. The body is read once.
package auth
