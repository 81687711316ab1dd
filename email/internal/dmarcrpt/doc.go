// Package dmarcrpt tells the owners of domains what mail came in their name: the
// aggregate reports of DMARC (RFC 9990, before it RFC 7489 section 7.2).
//
//	r, err := dmarcrpt.Open(ctx, dmarcrpt.Config{
//		Hostname: "mx.example.com", Email: "dmarc@example.com",
//		Resolver: resolver, Store: store, Send: send,
//	})
//	r.Add(dmarcrpt.Message{SourceIP: ip, MailFrom: from, Auth: &result, Applied: dmarc.Reject})
//
// What was added on a day (UTC) is counted by row: one for each source address,
// set of results and set of identifiers. When the day is over, each policy domain
// that wants reports (rua) gets one, some time within the next hours: not all at
// the same moment. Reports go to addresses of the same organization, and to others
// only if these agree (RFC 9990 section 4). They have to pass DMARC themselves, so
// the domain of Config.Email has to be one that Config.Send signs for.
//
// If a domain changes its policy during the day, the report shows the last one
// (RFC 9990 section 3.3).
//
// # Bounds
//
// Anybody can send mail in the name of any number of domains, and of ones of his
// own that want reports. So there are bounds: on the rows and bytes of a domain,
// on the domains of an organization, and on all domains and all bytes. A report
// says how many messages are missing from it. When there are too many domains,
// those with the fewest messages go first, and domains with only a few messages
// get no report at all.
//
// # What outlasts a crash
//
// All is stored every few minutes and by Close, in parts; storage never takes more
// than the bounds allow. A crash forgets what came since. A report that was handed
// over just before a crash is handed over again, under the same name.
package dmarcrpt
