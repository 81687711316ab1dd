// Package tlsrpt counts how TLS went on the way to other domains, and reports it
// to those that want to know (RFC 8460), once a day.
//
//	r, err := tlsrpt.Open(ctx, tlsrpt.Config{Organization: "Example", Submitter: "mail.example.com", Send: queue, ...})
//	...
//	r.Add(session) // of each connection; package tlspolicy does
//	...
//	err = r.Close(ctx)
//
// Days are those of UTC. When one is over, each domain's record is looked up
// after a random while, so that not all servers of the world report at once; what
// cannot be delivered is tried again for a day. A domain without a record gets
// nothing, and what was counted for it is forgotten.
//
// All is held in memory, bounded, and kept in storage in batches.
package tlsrpt
