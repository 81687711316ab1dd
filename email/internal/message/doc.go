// Package message reads messages as they come from strangers (RFC 5322, RFC
// 2045 to 2047): leniently, byte for byte, and within bounds. It never writes a
// message anew: what is relayed must stay as it was signed.
package message
