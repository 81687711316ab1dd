package radius

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"hash"
	"slices"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
)

const (
	headerLength  = 20
	maxPacket     = layeh.MaxPacketLength
	maxAttributes = 256 // a packet has room for 2,038 empty ones, which nobody needs

	authenticatorAt = 4 // where it is in a packet
	signatureLength = md5.Size
)

// datagram is a packet as it came, trimmed to its Length.
type datagram []byte

func (d datagram) code() layeh.Code      { return layeh.Code(d[0]) }
func (d datagram) identifier() byte      { return d[1] }
func (d datagram) authenticator() []byte { return d[authenticatorAt:headerLength] }

// trim checks the length and drops what comes after it, which is padding (RFC
// 2865 section 3).
func trim(b []byte) (datagram, bool) {
	if len(b) < headerLength {
		return nil, false
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length < headerLength || length > maxPacket || length > len(b) {
		return nil, false
	}
	return datagram(b[:length]), true
}

// outline is what there is to know of a packet before it is verified.
type outline struct {
	signature   int    // where Message-Authenticator's value is, 0 without one
	password    []byte // User-Password, as hidden; nil without one
	eap         bool
	proxyStates int
}

// outline walks over the attributes; ok is false if they are malformed.
func (d datagram) outline() (o outline, ok bool) {
	for at, n := headerLength, 0; at < len(d); n++ {
		if len(d)-at < 2 || n == maxAttributes {
			return o, false
		}
		length := int(d[at+1])
		if length < 2 || length > len(d)-at {
			return o, false
		}
		switch layeh.Type(d[at]) {
		case rfc2869.MessageAuthenticator_Type:
			if length != 2+signatureLength || o.signature != 0 {
				return o, false
			}
			o.signature = at + 2
		case rfc2865.UserPassword_Type:
			if o.password == nil {
				o.password = d[at+2 : at+length]
			}
		case rfc2869.EAPMessage_Type:
			o.eap = true
		case rfc2865.ProxyState_Type:
			o.proxyStates++
		}
		at += length
	}
	return o, true
}

// signed reports whether the Message-Authenticator at the given place is right
// (RFC 3579 section 3.2). authenticator is what stands in for the one in the
// packet: that of the request for an answer, zeros for requests that are
// signed by their authenticator too.
func (d datagram) signed(at int, secret, authenticator []byte) bool {
	var zeros, sum [md5.Size]byte
	h := hmac.New(md5.New, secret)
	h.Write(d[:authenticatorAt])
	h.Write(authenticator)
	h.Write(d[headerLength:at])
	h.Write(zeros[:])
	h.Write(d[at+signatureLength:])
	return subtle.ConstantTimeCompare(h.Sum(sum[:0]), d[at:at+signatureLength]) == 1
}

// digest is the MD5 that signs a packet: an answer with the request's
// authenticator, an Accounting-Request and its like with zeros in place of it.
func (d datagram) digest(secret, authenticator []byte) (sum [md5.Size]byte) {
	h := md5.New()
	h.Write(d[:authenticatorAt])
	h.Write(authenticator)
	h.Write(d[headerLength:])
	h.Write(secret)
	h.Sum(sum[:0])
	return sum
}

// authentic reports whether the packet's authenticator is the digest.
func (d datagram) authentic(secret, authenticator []byte) bool {
	sum := d.digest(secret, authenticator)
	return subtle.ConstantTimeCompare(sum[:], d.authenticator()) == 1
}

var (
	errTooLarge = errors.New("the attributes do not fit into a packet of 4096 octets")
	errNotReply = errors.New("no authentic answer")
)

// builder makes a packet, attribute by attribute.
type builder struct {
	b         []byte
	signature int // where the Message-Authenticator is, 0 without
	err       error
}

// newBuilder begins a packet. With sign, a Message-Authenticator comes first:
// there a forger can put nothing before it (CVE-2024-3596).
func newBuilder(buf []byte, code layeh.Code, identifier byte, sign bool) builder {
	p := builder{b: append(buf[:0], byte(code), identifier, 0, 0)}
	var zeros [md5.Size]byte
	p.b = append(p.b, zeros[:]...)
	if sign {
		p.signature = len(p.b) + 2
		p.add(rfc2869.MessageAuthenticator_Type, zeros[:])
	}
	return p
}

func (p *builder) add(t layeh.Type, value []byte) {
	if len(value) > 253 || len(p.b)+2+len(value) > maxPacket || t < 1 || t > 255 {
		p.err = errTooLarge
		return
	}
	p.b = append(p.b, byte(t), byte(2+len(value)))
	p.b = append(p.b, value...)
}

func (p *builder) addText(t layeh.Type, value string) {
	if value != "" {
		p.add(t, []byte(value))
	}
}

func (p *builder) addInteger(t layeh.Type, n uint32) {
	var v [4]byte
	binary.BigEndian.PutUint32(v[:], n)
	p.add(t, v[:])
}

// addLong adds a value in as many attributes of the type as it takes.
func (p *builder) addLong(t layeh.Type, value []byte) {
	for part := range slices.Chunk(value, 253) {
		p.add(t, part)
	}
}

// sign completes the packet. For an answer, authenticator is that of the
// request; for an Access-Request and Status-Server (random is true) it is the
// packet's own; for other requests it is zeros.
func (p *builder) sign(secret, authenticator []byte, random bool) (datagram, error) {
	if p.err != nil {
		return nil, p.err
	}
	binary.BigEndian.PutUint16(p.b[2:], uint16(len(p.b)))
	copy(p.b[authenticatorAt:], authenticator)
	if p.signature != 0 {
		var h hash.Hash = hmac.New(md5.New, secret)
		h.Write(p.b)
		h.Sum(p.b[p.signature:p.signature])
	}
	d := datagram(p.b)
	if !random {
		sum := d.digest(secret, authenticator)
		copy(p.b[authenticatorAt:], sum[:])
	}
	return d, nil
}

// verifyReply checks an answer to a request that was sent to home servers or
// NASes. Without signed it must have no Message-Authenticator, but if it has
// one that must be right.
func verifyReply(reply, request datagram, secret []byte, signed bool) error {
	o, ok := reply.outline()
	if !ok || reply.identifier() != request.identifier() || !reply.authentic(secret, request.authenticator()) {
		return errNotReply
	}
	if o.signature == 0 && signed {
		return errors.New("the answer has no Message-Authenticator (CVE-2024-3596)")
	}
	if o.signature != 0 && !reply.signed(o.signature, secret, request.authenticator()) {
		return errNotReply
	}
	return nil
}
