// Package smtpd is an SMTP server (RFC 5321) and submission server (RFC 6409)
// for a [Backend] that decides about mail.
//
//	s, err := smtpd.New(smtpd.Config{Hostname: "mx.example.com", TLS: tlsConfig}, backend, log)
//	...
//	go s.Serve(ctx, listener, smtpd.Mode{})
//	defer s.Shutdown(ctx)
//
// go-smtp is its state machine: the order of commands, their parameters, the
// AUTH dialogue. It never sees the network. A guard stands between, which looks
// like a connection to go-smtp and hands it one command at a time, after it has
// found it to be well-formed, and one reply at a time takes from it:
//
//	network ── input.go ── guard.go ──┬─ command.go ─── go-smtp ── machine.go ── Session
//	           lines, deadlines       ├─ tls.go                    │
//	                                  ├─ auth.go                   │
//	                                  └─ receive.go ───────────────┘  bodies go past go-smtp
//
// So there is one place that decides where a line ends, one where a body ends,
// one that reads addresses, and one that writes replies, all of them ours; and
// after STARTTLS there is a new state machine, not one that has forgotten.
//
// # Extensions
//
// PIPELINING (RFC 2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531),
// CHUNKING (3030), DSN (3461), ENHANCEDSTATUSCODES (2034), STARTTLS (3207), AUTH
// (4954), REQUIRETLS (8689), LIMITS (9422).
//
// # Line endings
//
// Only CRLF ends a line, and only CRLF "." CRLF ends a body. A body with a CR or
// LF on its own is refused, because servers differ in what they take it for
// (SMTP smuggling), and nothing that came behind it on the connection is read.
package smtpd
