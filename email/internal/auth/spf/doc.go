// Package spf says whether a host may send mail for a domain: the Sender Policy
// Framework (RFC 7208).
//
// It is our own because blitiri.com.ar/go/spf, which others use, passes over 31 of
// the 203 tests of the RFC's suite, and this passes them all.
package spf
