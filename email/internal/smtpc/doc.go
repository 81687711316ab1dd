// Package smtpc is a client of SMTP (RFC 5321) and LMTP (RFC 2033) servers.
//
//	c, err := smtpc.Dial(ctx, smtpc.Config{Address: "mx.example.net:25", Hostname: "mail.example.com", TLS: smtpc.Opportunistic})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	result, err := c.Send(ctx, smtpc.Envelope{From: "a@example.com", To: []smtpc.Rcpt{{Addr: "b@example.net"}}}, content)
//
// [Conn.Send] makes a whole transaction in as few round trips as the server
// allows and tells for each recipient what became of it. [Conn.Mail],
// [Conn.Rcpt] and [Conn.Data] make one step by step, so that a server that
// forwards mail within its own session can give its client the answers of the
// next hop.
//
// The content goes out as it is: lines that begin with a dot get another one
// (RFC 5321 section 4.5.2), nothing else. Content with a bare CR or LF, which
// some servers take for the end of a line and so can be made to see an end of
// the message where there is none, is not sent to its end.
//
// What a server answers is bounded in lines, bytes and time.
//
// # Standards
//
// RFC 5321 (SMTP), 2033 (LMTP), 1870 (SIZE), 2034 (enhanced status codes), 2920
// (pipelining), 3030 (BDAT), 3207 (STARTTLS), 3461 (DSN), 4954 (AUTH), 6152
// (8BITMIME), 6531 (SMTPUTF8), 7435 (opportunistic TLS), 7677 (SCRAM-SHA-256), 8314
// (implicit TLS), 8689 (REQUIRETLS), 9422 (LIMITS).
package smtpc
