// Package addr reads and writes mail addresses as they stand in SMTP commands
// (RFC 5321 section 4.1.2, RFC 6531 section 3.3), strictly: two programs that
// read an address differently are a way past the checks of one of them.
//
// An [Address] is canonical. Its domain is in lower case and in A-labels, its
// local part without quoting, so two addresses can be compared, and String
// writes every address the same way whatever way it came.
package addr
