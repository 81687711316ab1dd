package radius

import (
	"crypto/des"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
)

// Attributes of Microsoft (RFC 2548).
const (
	microsoft = 311

	msChapError     = 2
	msMPPEPolicy    = 7
	msMPPETypes     = 8
	msChapChallenge = 11
	msMPPESendKey   = 16
	msMPPERecvKey   = 17
	msChap2Response = 25
	msChap2Success  = 26
)

// msChap is what a request has for MS-CHAPv2, and what came of checking it.
type msChap struct {
	challenge [16]byte
	peer      [16]byte
	response  [24]byte
	id        byte

	proven bool
	hash   [16]byte // of the password that was right
}

// vendorValue finds an attribute of a vendor's in the form that RFC 2865
// section 5.26 recommends.
func vendorValue(attrs layeh.Attributes, vendor uint32, kind byte) ([]byte, bool) {
	for _, a := range attrs {
		if a.Type != rfc2865.VendorSpecific_Type || len(a.Attribute) < 6 || binary.BigEndian.Uint32(a.Attribute) != vendor {
			continue
		}
		for rest := []byte(a.Attribute[4:]); len(rest) >= 2; {
			n := int(rest[1])
			if n < 2 || n > len(rest) {
				break
			}
			if rest[0] == kind {
				return rest[2:n], true
			}
			rest = rest[n:]
		}
	}
	return nil, false
}

// vendorAttribute is the way back.
func vendorAttribute(vendor uint32, kind byte, value []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, vendor)
	return append(append(b, kind, byte(2+len(value))), value...)
}

// parseMSChap reads MS-CHAP-Challenge and MS-CHAP2-Response (RFC 2548 section
// 2.3).
func parseMSChap(attrs layeh.Attributes) (*msChap, bool) {
	challenge, _ := vendorValue(attrs, microsoft, msChapChallenge)
	response, _ := vendorValue(attrs, microsoft, msChap2Response)
	if len(challenge) != 16 || len(response) != 50 {
		return nil, false
	}
	m := &msChap{id: response[0]}
	copy(m.challenge[:], challenge)
	copy(m.peer[:], response[2:18])
	copy(m.response[:], response[26:50])
	return m, true
}

// account is the user name that the client has put into its response: without
// the domain before it (RFC 2759 section 4).
func account(userName string) string {
	if _, name, ok := strings.Cut(userName, `\`); ok {
		return name
	}
	return userName
}

// challengeHash is of RFC 2759 section 8.2.
func (m *msChap) challengeHash(userName string) [8]byte {
	h := sha1.New()
	h.Write(m.peer[:])
	h.Write(m.challenge[:])
	h.Write([]byte(account(userName)))
	return [8]byte(h.Sum(nil)[:8])
}

// check compares the response with what the hash of a password gives (RFC 2759
// section 8.5).
func (m *msChap) check(userName string, hash [16]byte) bool {
	challenge := m.challengeHash(userName)
	var key [21]byte
	copy(key[:], hash[:])
	var want [24]byte
	for i := range 3 {
		block, err := des.NewCipher(desKey(key[7*i : 7*i+7]))
		if err != nil {
			return false
		}
		block.Encrypt(want[8*i:], challenge[:])
	}
	if subtle.ConstantTimeCompare(want[:], m.response[:]) != 1 {
		return false
	}
	m.proven, m.hash = true, hash
	return true
}

// desKey spreads 56 bits over 8 octets with odd parity.
func desKey(b []byte) []byte {
	var in [8]byte
	copy(in[1:], b)
	v := binary.BigEndian.Uint64(in[:])
	key := make([]byte, 8)
	for i := range key {
		k := byte(v>>(49-7*i)) << 1
		key[i] = k | byte(1-bits.OnesCount8(k)%2)
	}
	return key
}

// success is the value of MS-CHAP2-Success (RFC 2548 section 2.3.3), by which
// the client learns that the server knows the password too.
func (m *msChap) success(userName string) []byte {
	hashHash := md4(m.hash[:])
	h := sha1.New()
	h.Write(hashHash[:])
	h.Write(m.response[:])
	h.Write([]byte("Magic server to client signing constant"))
	digest := h.Sum(nil)
	challenge := m.challengeHash(userName)
	h = sha1.New()
	h.Write(digest)
	h.Write(challenge[:])
	h.Write([]byte("Pad to make it do more than one iteration"))
	return fmt.Appendf([]byte{m.id}, "S=%X", h.Sum(nil))
}

// failure is the value of MS-CHAP-Error: wrong password, and no other try with
// this challenge.
func (m *msChap) failure() []byte {
	return fmt.Appendf([]byte{m.id}, "E=691 R=0 C=%X V=3", m.challenge)
}

// keys derives what encrypts the link (RFC 3079 section 3): the key that the
// NAS sends with and the one it receives with.
func (m *msChap) keys() (send, receive []byte) {
	hashHash := md4(m.hash[:])
	h := sha1.New()
	h.Write(hashHash[:])
	h.Write(m.response[:])
	h.Write([]byte("This is the MPPE Master Key"))
	master := h.Sum(nil)[:16]
	derive := func(magic string) []byte {
		var pad1, pad2 [40]byte
		for i := range pad2 {
			pad2[i] = 0xf2
		}
		h := sha1.New()
		h.Write(master)
		h.Write(pad1[:])
		h.Write([]byte(magic))
		h.Write(pad2[:])
		return h.Sum(nil)[:16]
	}
	return derive("On the client side, this is the receive key; on the server side, it is the send key."),
		derive("On the client side, this is the send key; on the server side, it is the receive key.")
}
