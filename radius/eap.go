package radius

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
)

// EAP codes and types (RFC 3748 section 4, 5).
const (
	eapRequest  = 1
	eapResponse = 2
	eapSuccess  = 3
	eapFailure  = 4

	eapIdentity = 1
	eapMD5Type  = 4
)

// eapPacket is an EAP packet out of a request.
type eapPacket struct {
	start    bool // an empty one: begin (RFC 3579 section 2.1)
	code, id byte
	kind     byte
	data     []byte // after the type
}

// parseEAP puts the EAP-Message attributes together.
func parseEAP(attrs layeh.Attributes) (p eapPacket, ok bool) {
	var b []byte
	for _, a := range attrs {
		if a.Type == rfc2869.EAPMessage_Type {
			b = append(b, a.Attribute...)
		}
	}
	if len(b) == 0 {
		return eapPacket{start: true}, true
	}
	if len(b) < 4 {
		return p, false
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < 5 || n > len(b) || b[0] != eapResponse { // a client sends nothing else
		return p, false
	}
	return eapPacket{code: b[0], id: b[1], kind: b[4], data: b[5:n]}, true
}

func encodeEAP(code, id byte, rest ...byte) []byte {
	b := []byte{code, id, 0, byte(4 + len(rest))}
	return append(b, rest...)
}

// eapState is what State carries between the two requests of EAP-MD5, so that
// nothing has to be remembered meanwhile: the challenge and until when it
// holds, signed.
const (
	eapStateLife   = 30 * time.Second
	eapStateLength = 16 + 1 + 8 + 16
)

func (s *Server) newEAPState(challenge []byte, id byte, from netip.Addr, user string, now time.Time) []byte {
	b := append(make([]byte, 0, eapStateLength), challenge...)
	b = append(b, id)
	b = binary.BigEndian.AppendUint64(b, uint64(now.Add(eapStateLife).UnixMilli()))
	return append(b, s.signEAPState(b, from, user)...)
}

func (s *Server) signEAPState(b []byte, from netip.Addr, user string) []byte {
	h := hmac.New(sha256.New, s.stateKey[:])
	h.Write(b)
	addr := from.As16()
	h.Write(addr[:])
	h.Write([]byte(user))
	return h.Sum(nil)[:16]
}

// openEAPState returns the challenge that a State belongs to.
func (s *Server) openEAPState(state []byte, id byte, from netip.Addr, user string, now time.Time) (challenge []byte, ok bool) {
	if len(state) != eapStateLength {
		return nil, false
	}
	b, signature := state[:eapStateLength-16], state[eapStateLength-16:]
	if !hmac.Equal(signature, s.signEAPState(b, from, user)) || b[16] != id {
		return nil, false
	}
	until := time.UnixMilli(int64(binary.BigEndian.Uint64(b[17:])))
	return b[:16], now.Before(until)
}

// eapStep reads the EAP part of a request. If the request answers a challenge
// it becomes one of Method EAPMD5; otherwise done is true and the answer is
// ready: another challenge, or a reject.
func (s *Server) eapStep(a *access, now time.Time) (done bool) {
	p, ok := parseEAP(a.req.Packet.Attributes)
	if !ok {
		a.verdict(false)
		return true
	}
	a.eap, a.eapID = true, p.id
	switch {
	case p.start:
		a.challenge(encodeEAP(eapRequest, 0, eapIdentity), nil)
		return true
	case p.kind == eapIdentity:
		var challenge [md5.Size]byte
		rand.Read(challenge[:])
		id := p.id + 1
		a.challenge(encodeEAP(eapRequest, id, append([]byte{eapMD5Type, md5.Size}, challenge[:]...)...),
			s.newEAPState(challenge[:], id, a.from.Addr(), a.req.UserName, now))
		return true
	case p.kind == eapMD5Type && len(p.data) >= 1+md5.Size && p.data[0] == md5.Size:
		challenge, ok := s.openEAPState(a.req.Packet.Get(rfc2865.State_Type), p.id, a.from.Addr(), a.req.UserName, now)
		if !ok {
			a.verdict(false)
			return true
		}
		a.req.Method = EAPMD5
		a.req.cred = credentials{chapID: p.id, challenge: challenge, response: p.data[1 : 1+md5.Size]}
		return false
	}
	a.verdict(false) // Nak, or what was not asked for
	return true
}
