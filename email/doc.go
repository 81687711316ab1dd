// Package email is a mail server that a program embeds. It sends mail
// ([Server.SendEmail]), and receives it by SMTP, finds out who it is from and what
// is in it, and decides for each recipient by [Route] what happens to it:
//
//   - [Deliver] puts it into a mailbox: a Maildir, a server that speaks LMTP, or
//     code of the host ([WithMailbox]);
//   - [Forward] hands it to another server, whose answers the client gets, or
//     queues it for that;
//   - [Process] has it scanned, signs it and sends it to the MX hosts of its
//     destination;
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
// delivered and has nobody to be told of it is kept as well, for [Server.Retry].
// After [Queue.KeepHeld] both are removed.
//
// # Mail on its way out
//
// Each message is tried at once, and what is put off again after five minutes, ten,
// and so on up to four hours, for five days ([Queue]). Mail to the same servers
// shares connections and a number of deliveries at once that adapts to what they
// bear; servers that are down have a rest. [Server.EmailStatus] shows the timeline
// of a message, also for a week after it has left; events say the same to
// [Hooks.OnEvent] and to webhooks.
//
// The sender is told of a failure (RFC 3464), of a delay once, and of a success
// where that was asked for (NOTIFY, RFC 3461), unless there is no sender, or SPF
// says that it is forged: then somebody else would be told. Where neither SPF nor
// DMARC vouches for a stranger's sender, failures are told with the header only,
// and successes are not.
//
// Mail of our domains is signed by DKIM with the keys that are in use at the time
// of the attempt; keys are made, published and rotated by the server ([DKIM],
// [Server.Domains]). Connections are protected as the destination's DANE records
// or MTA-STS policy demand, and otherwise as well as they can be; [Outbound] has
// rules for destinations. Addresses to send from warm up day by day ([WarmUp]).
//
// Bounces of what SendEmail has sent come back to addresses made for them, end in
// the status of the message, and put recipients that there are not on the
// [SuppressionList], as complaints do.
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
// 3030 (CHUNKING), 3207 (STARTTLS), 3461 (DSN), 4954 (AUTH), 5782 (DNS
// block lists), 6152 (8BITMIME), 6376 and 8463 (DKIM), 6531 (SMTPUTF8), 6647
// (greylisting), 7208 (SPF), 7677 (SCRAM-SHA-256), 8601 (Authentication-Results),
// 8617 (ARC), 8689 (REQUIRETLS), 9422 (LIMITS), 9989 (DMARC).
package email
