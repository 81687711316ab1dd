// Package email is a mail server that a program embeds. It receives mail by SMTP,
// finds out who it is from and what is in it, and decides for each recipient by
// [Route] what happens to it:
//
//   - [Deliver] puts it into a mailbox: a Maildir, a server that speaks LMTP, or
//     code of the host ([WithMailbox]);
//   - [Forward] hands it to another server, whose answers the client gets, or
//     queues it for that;
//   - [Process] has it scanned and queues it;
//   - [Reject] refuses it.
//
// A server for one domain whose mail goes into Maildirs below /var/lib/mail:
//
//	s, err := email.New(email.Config{
//		Ports:    email.Ports(25),
//		Hostname: "mx.example.com",
//		Domains:  []email.Domain{{Domain: "example.com"}},
//		DataPath: "/var/lib/mail",
//		Routes: []email.Route{{
//			Match:  email.Match{Recipients: []string{"*@example.com"}},
//			Action: email.Action{Type: email.Deliver},
//		}},
//	})
//	if err != nil {
//		return err
//	}
//	if err := s.Start(ctx); err != nil {
//		return err
//	}
//	defer s.Stop(context.Background())
//
// # What 250 means
//
// A message is acknowledged when it is where it goes, or else durable in the
// spool: written, and the disk told to keep it. After a crash what was
// acknowledged is there; a delivery that was under way may happen twice. The
// spool is a log in the folder [Config.DataPath], or without that in the storage
// ([WithStorage]), or in memory.
//
// # Who has a mailbox
//
// The routes say so: who is not among their recipients is refused at RCPT. A
// pattern such as "*@example.com" takes any name, and its Maildir is made when
// mail for it comes; where that is not wanted, list the names, or have
// [Hooks.OnRcpt] refuse those that there are not. Servers behind [Forward] are
// asked themselves, while the client waits.
//
// # Mail that is held back
//
// Mail that a scanner or the DMARC policy of its author's domain wants in
// quarantine is accepted and kept in the spool. [Server.Queue] lists it, with the
// reason, beside what is on its way; [Server.Queued] shows one message,
// [Server.Release] lets it go on, [Server.Drop] removes it. What could not be
// delivered is kept as well, for [Server.Retry]. After [Queue.KeepHeld] both are
// removed.
//
// # Who may send what
//
// Mail leaves for other servers only from users who have signed in, from clients
// that a route names (clientIp), and to domains that are ours (domains) or that a
// route spells out. A route that takes everything makes no open relay.
//
// What comes from elsewhere is checked by SPF, DKIM, ARC and DMARC, noted in one
// Authentication-Results field, and dealt with as the author's domain asks, as far
// as the recipient's domain goes along ([Domain.DMARC]).
//
// # Domains
//
// Each of [Config.Domains] has DKIM keys, an RSA and an Ed25519 one, which are made,
// kept in the storage ([WithStorage]) and, if wanted, rotated by themselves; a key
// signs once its record has been seen in DNS. [Server.Domains] lists the records
// that a domain should have, as lines to paste, and what DNS says. In mode
// [ExternalDNS] what is missing is logged as well; in mode [InternalDNS] a
// [DNSPublisher] puts it there.
//
// # One reply
//
// There is one reply to the content of a message for all its recipients. Where
// they may be decided about differently, because a route looks at the content,
// only some of it is scanned, it goes on to several servers, or their domains
// differ in [Domain.DMARC], the later ones are asked for in a message of their
// own (452), so that nothing that was accepted has to bounce. Users who signed in
// are spared that; one refusal is for all of theirs.
//
// # Standards
//
// RFC 5321 (SMTP), 5322 (messages), 6409 (submission), 8314 (implicit TLS), 1870
// (SIZE), 2033 (LMTP), 2034 and 3463 (enhanced status codes), 2920 (pipelining),
// 3030 (CHUNKING), 3207 (STARTTLS), 3461 (DSN, handed on), 4954 (AUTH), 5782 (DNS
// block lists), 6152 (8BITMIME), 6376 and 8463 (DKIM), 6531 (SMTPUTF8), 6647
// (greylisting), 7208 (SPF), 7677 (SCRAM-SHA-256), 8601 (Authentication-Results),
// 8617 (ARC), 8689 (REQUIRETLS), 9422 (LIMITS), 9989 (DMARC).
//
// # Not there yet
//
// Mail is not sent to the MX hosts of its destination: [Process] needs a
// [Config.SmartHost], and keeps mail in the spool without one. There are no
// bounces, and no DKIM signatures on mail going out yet, though there are keys; what
// could not be delivered in time stays in the spool ([Server.Queue]) for somebody to
// look at. The limits on mail going out ([OutboundLimits]),
// [ForwardDNSSettings.TargetDomain] and [ProcessAction.Queue] are read and checked,
// and have no effect.
package email
