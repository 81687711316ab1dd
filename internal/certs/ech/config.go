package ech

import (
	"crypto/ecdh"
	"encoding/binary"
)

// Code points of TLS and HPKE (RFC 9180 section 7).
const (
	version       = 0xfe0d // of an ECHConfig, RFC 9849 section 4
	kemX25519     = 0x0020 // DHKEM(X25519, HKDF-SHA256)
	kdfHKDFSHA256 = 0x0001
	aeadAES128GCM = 0x0001
	aeadChaCha20  = 0x0003 // ChaCha20-Poly1305
)

// maxNameLength is how long clients assume that names are when they pad: most
// are shorter, and an observer cannot tell them apart then.
const maxNameLength = 64

// encodeConfig writes an ECHConfig (RFC 9849 section 4).
func encodeConfig(id byte, key *ecdh.PublicKey, publicName string) []byte {
	contents := binary.BigEndian.AppendUint16([]byte{id}, kemX25519)
	contents = appendVector(contents, key.Bytes())
	var suites []byte
	for _, aead := range []uint16{aeadAES128GCM, aeadChaCha20} {
		suites = binary.BigEndian.AppendUint16(suites, kdfHKDFSHA256)
		suites = binary.BigEndian.AppendUint16(suites, aead)
	}
	contents = appendVector(contents, suites)
	contents = append(contents, maxNameLength, byte(len(publicName)))
	contents = append(contents, publicName...)
	contents = appendVector(contents, nil) // no extensions
	return appendVector(binary.BigEndian.AppendUint16(nil, version), contents)
}

// encodeList writes an ECHConfigList of one.
func encodeList(config []byte) []byte { return appendVector(nil, config) }

// appendVector writes a vector with a length of two bytes (RFC 8446 section
// 3.4).
func appendVector(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// IsPublicName knows the public names that clients accept: lower case, at least two
// labels, and no IPv4 address to anybody (RFC 9849 section 4).
func IsPublicName(name string) bool {
	if len(name) > 253 {
		return false
	}
	dots, digits, label := 0, true, 0 // digits: the label is made of nothing else
	for i := range len(name) + 1 {
		if i == len(name) || name[i] == '.' {
			if label == 0 || label > 63 || name[i-1] == '-' {
				return false
			}
			if i == len(name) {
				break
			}
			dots, digits, label = dots+1, true, 0
			continue
		}
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', c == '-' && label > 0:
			digits = false
		case '0' <= c && c <= '9':
		default:
			return false
		}
		label++
	}
	return dots > 0 && !digits
}
