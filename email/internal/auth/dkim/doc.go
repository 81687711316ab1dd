// Package dkim verifies and makes DKIM signatures (RFC 6376; RFC 8301 on what
// is too weak, RFC 8463 on Ed25519, RFC 8616 on internationalized mail).
//
// A body is read once for all signatures over it, in constant memory. The parts
// that ARC shares with DKIM (RFC 8617 section 4.1) are exported: [Tags], [Body],
// [Keys], [Hasher].
//
// # go-msgauth
//
// Signatures are made with go-msgauth but verified with our own code, since here
// strangers decide what is read. In the library a simple body costs time by the
// square of the empty lines in a row in it (4 MB of them take 10 seconds), and a
// relaxed one memory, for each signature. Also, it takes any "b=" within another
// tag of a signature for its b=, wants domains and algorithms in lower case and
// one TXT record at a key's name, refuses l= also where it covers all of the body,
// and passes over the flags of keys, fields From that are not signed, and our
// clock. The tests hold the two against each other.
//
// # Stricter than the RFC
//
// A signature that covers only the start of a body (l=) is worth something if
// there is nothing behind it; else its result is "policy", as anybody may have
// added what is shown to the reader (RFC 6376 section 8.2). The same holds where
// there are more From fields than the signature covers (section 8.15).
package dkim
