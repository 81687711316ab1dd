package radius

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"unicode/utf8"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
)

// credentials are what a request proves knowledge of a password with.
type credentials struct {
	password  string // of PAP
	chapID    byte   // of CHAP and EAP-MD5, and so on
	challenge []byte
	response  []byte
	ms        *msChap
}

var errBadCredentials = errors.New("the attributes for a password are malformed")

// readCredentials finds out how a request without EAP proves a password.
func (r *Request) readCredentials(secret []byte) error {
	attrs := r.Packet.Attributes
	if encrypted, ok := attrs.Lookup(rfc2865.UserPassword_Type); ok {
		r.Method = PAP
		if len(encrypted) == 0 { // what some send for an empty one
			return nil
		}
		password, ok := decryptPassword(encrypted, secret, r.Packet.Authenticator[:])
		if !ok {
			return errBadCredentials
		}
		r.cred.password = password
		return nil
	}
	if chap, ok := attrs.Lookup(rfc2865.CHAPPassword_Type); ok {
		r.Method = CHAP
		if len(chap) != 1+md5.Size {
			return errBadCredentials
		}
		r.cred.chapID, r.cred.response = chap[0], chap[1:]
		r.cred.challenge = r.Packet.Authenticator[:]
		if c, ok := attrs.Lookup(rfc2865.CHAPChallenge_Type); ok {
			r.cred.challenge = c
		}
		return nil
	}
	if m, ok := parseMSChap(attrs); ok {
		r.Method, r.cred.ms = MSCHAPv2, m
		return nil
	}
	r.Method = NoPassword
	if _, ok := vendorValue(attrs, microsoft, msChapChallenge); ok {
		r.Method = UnknownMethod
	}
	return nil
}

// decryptPassword reads a User-Password (RFC 2865 section 5.2). Unlike layeh's
// it minds what comes after the padding's first zero: with a wrong secret that
// is seldom all zeros.
func decryptPassword(encrypted layeh.Attribute, secret, authenticator []byte) (string, bool) {
	if len(encrypted)%16 != 0 || len(encrypted) > 128 {
		return "", false
	}
	plain := make([]byte, 0, len(encrypted))
	before := authenticator
	for at := 0; at < len(encrypted); at += 16 {
		h := md5.New()
		h.Write(secret)
		h.Write(before)
		before = encrypted[at : at+16]
		plain = h.Sum(plain)
		for i, c := range before {
			plain[at+i] ^= c
		}
	}
	end := len(plain)
	for end > 0 && plain[end-1] == 0 {
		end--
	}
	return string(plain[:end]), true
}

// provesSecret reports whether a User-Password was hidden with the secret: with
// another it is no text, and does not end in the zeros that fill it up. An empty one
// is 16 octets too.
func provesSecret(encrypted, secret, authenticator []byte) bool {
	password, ok := decryptPassword(encrypted, secret, authenticator)
	padding := len(encrypted) - len(password)
	return ok && len(encrypted) > 0 && (isText(password) || padding >= 2) // or text of another coding
}

// isText tells a password from what a wrong secret makes of one.
func isText(s string) bool {
	for _, c := range s {
		if c < ' ' || c == 0x7f || c == utf8.RuneError {
			return false
		}
	}
	return true
}

func (c *credentials) check(r *Request, password string) bool {
	switch r.Method {
	case PAP:
		return subtle.ConstantTimeCompare([]byte(c.password), []byte(password)) == 1
	case NoPassword:
		return password == ""
	case CHAP, EAPMD5:
		h := md5.New()
		h.Write([]byte{c.chapID})
		h.Write([]byte(password))
		h.Write(c.challenge)
		var sum [md5.Size]byte
		return subtle.ConstantTimeCompare(h.Sum(sum[:0]), c.response) == 1
	case MSCHAPv2:
		return c.ms.check(r.UserName, ntHash(password))
	}
	return false
}

func (c *credentials) checkNTHash(r *Request, hash [16]byte) bool {
	return r.Method == MSCHAPv2 && c.ms.check(r.UserName, hash)
}

// saltEncrypt hides a key in an answer (RFC 2548 section 2.4.2; RFC 2868
// section 3.5 does the same after a tag). The salts of a packet differ: n
// counts them.
func saltEncrypt(value, secret, authenticator []byte, n byte) []byte {
	var salt [2]byte
	rand.Read(salt[:])
	salt[0] = salt[0]&0xc0 | 0x80 | n&0x3f
	plain := append([]byte{byte(len(value))}, value...)
	for len(plain)%16 != 0 {
		plain = append(plain, 0)
	}
	out := salt[:]
	h := md5.New()
	h.Write(secret)
	h.Write(authenticator)
	h.Write(salt[:])
	for at := 0; at < len(plain); at += 16 {
		block := h.Sum(nil)
		for i := range block {
			block[i] ^= plain[at+i]
		}
		out = append(out, block...)
		h = md5.New()
		h.Write(secret)
		h.Write(block)
	}
	return out
}

// saltDecrypt is the way back.
func saltDecrypt(b, secret, authenticator []byte) ([]byte, bool) {
	if len(b) < 2+16 || (len(b)-2)%16 != 0 {
		return nil, false
	}
	salt, b := b[:2], b[2:]
	plain := make([]byte, 0, len(b))
	h := md5.New()
	h.Write(secret)
	h.Write(authenticator)
	h.Write(salt)
	for at := 0; at < len(b); at += 16 {
		plain = h.Sum(plain)
		for i := range 16 {
			plain[at+i] ^= b[at+i]
		}
		h = md5.New()
		h.Write(secret)
		h.Write(b[at : at+16])
	}
	n := int(plain[0])
	if n > len(plain)-1 {
		return nil, false
	}
	return plain[1 : 1+n], true
}
