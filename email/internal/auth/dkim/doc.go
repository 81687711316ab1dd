// Package dkim verifies and makes DKIM signatures (RFC 6376; RFC 8301 on what
// is too weak, RFC 8463 on Ed25519, RFC 8616 on internationalized mail).
//
// A body is read once for all signatures over it, in constant memory. The parts
// that ARC shares with DKIM (RFC 8617 section 4.1) are exported: [Tags], [Body],
// [Keys], [Hasher].
//
// # Stricter than the RFC
//
// A signature that covers only the start of a body (l=) is worth something if
// there is nothing behind it; else its result is "policy", as anybody may have
// added what is shown to the reader (RFC 6376 section 8.2). The same holds where
// there are more From fields than the signature covers (section 8.15).
package dkim
