// Package sasl is the server's side of SASL (RFC 4422): PLAIN (RFC 4616), LOGIN
// and SCRAM-SHA-256 (RFC 7677), over passwords that are known or only their
// bcrypt or argon2id hashes.
//
//	server := sasl.NewServer(sasl.Config{Authenticator: users})
//	exchange, err := server.Start("PLAIN", nil)
//	for {
//		challenge, done, err := exchange.Next(ctx, response)
//		...
//	}
//	exchange.Username()
//
// Whether a user exists cannot be told from answers or from the time that they
// take: unknown ones have a decoy ([Users]).
package sasl
