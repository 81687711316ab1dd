// Package message reads messages as they come from strangers (RFC 5322, RFC
// 2045 to 2047): leniently, byte for byte, and within bounds. It never writes a
// message anew: what is relayed must stay as it was signed.
//
// Of go-message it uses the charsets, and the tests its writers and its reader of
// addresses. Its readers of messages are not for those of strangers: one bad line
// in a header makes them give up on all of it, and they bound neither depth nor
// the number of parts.
package message
