package dnsserver

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash"
	"time"

	"github.com/miekg/dns"
)

// tsigKey is a key for signing messages (RFC 8945).
type tsigKey struct {
	name      string // wire
	algorithm string // wire
	secret    []byte
	hash      func() hash.Hash
}

// tsigFudge is by how many seconds clocks may differ (RFC 8945 section 10).
const tsigFudge = 300

// hmacOf returns the hash of an algorithm (RFC 8945 section 6), or nil.
func hmacOf(algorithm string) func() hash.Hash {
	switch algorithm {
	case "hmac-sha1":
		return sha1.New
	case "hmac-sha224":
		return sha256.New224
	case "hmac-sha256":
		return sha256.New
	case "hmac-sha384":
		return sha512.New384
	case "hmac-sha512":
		return sha512.New
	}
	return nil
}

// keyring is keys by their names.
type keyring map[string]*tsigKey

// newKeyring reads keys that have been checked.
func newKeyring(list []TSIGKey) keyring {
	ring := make(keyring, len(list))
	for i := range list {
		k := &list[i]
		name, err := wireName(k.Name)
		if err != nil {
			continue
		}
		algorithm, _ := wireName(k.algorithm())
		secret, _ := base64.StdEncoding.DecodeString(k.Secret.Reveal())
		ring[name] = &tsigKey{name: name, algorithm: algorithm, secret: secret, hash: hmacOf(k.algorithm())}
	}
	return ring
}

// named returns a key by the name that the configuration has for it, or nil.
func (ring keyring) named(name string) *tsigKey {
	wire, err := wireName(name)
	if err != nil {
		return nil
	}
	return ring[wire]
}

// tsigRecord is a TSIG record (RFC 8945 section 4.2).
type tsigRecord struct {
	name, algorithm string // wire
	time            uint64 // Unix time in seconds, 48 bits
	fudge           uint16
	mac             []byte
	id              uint16
	err             uint16
	other           []byte
}

// readTSIG reads the TSIG record at an offset of a message, where one is.
func readTSIG(wire []byte, at int) (t tsigRecord, ok bool) {
	name, at, ok := readName(nil, wire, at)
	if !ok || at+10 > len(wire) {
		return t, false
	}
	t.name = lowerName(name)
	head := wire[at:]
	if binary.BigEndian.Uint16(head[2:]) != dns.ClassANY || binary.BigEndian.Uint32(head[4:]) != 0 {
		return t, false
	}
	at += 10
	end := at + int(binary.BigEndian.Uint16(head[8:]))
	if end > len(wire) {
		return t, false
	}
	algorithm, at, ok := readName(nil, wire[:end], at)
	if !ok || at+10 > end {
		return t, false
	}
	t.algorithm = lowerName(algorithm)
	b := wire[at:end]
	t.time = uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
	t.fudge = binary.BigEndian.Uint16(b[6:])
	n := int(binary.BigEndian.Uint16(b[8:]))
	if b = b[10:]; len(b) < n+6 {
		return t, false
	}
	t.mac, b = b[:n], b[n:]
	t.id, t.err = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	n = int(binary.BigEndian.Uint16(b[4:]))
	t.other = b[6:]
	return t, len(t.other) == n
}

// len is how long the record is.
func (t *tsigRecord) len() int {
	return len(t.name) + 10 + len(t.algorithm) + 16 + len(t.mac) + len(t.other)
}

// appendTo appends the record to the message that begins at base of b.
func (t *tsigRecord) appendTo(b []byte, base int) []byte {
	b = append(b, t.name...)
	b = append(b, 0, byte(dns.TypeTSIG), 0, dns.ClassANY, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.algorithm)+16+len(t.mac)+len(t.other)))
	b = append(b, t.algorithm...)
	b = t.appendTimers(b)
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.mac)))
	b = append(b, t.mac...)
	b = binary.BigEndian.AppendUint16(b, t.id)
	b = t.appendError(b)
	count := b[base+10:]
	binary.BigEndian.PutUint16(count, binary.BigEndian.Uint16(count)+1)
	return b
}

func (t *tsigRecord) appendTimers(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t.time>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(t.time))
	return binary.BigEndian.AppendUint16(b, t.fudge)
}

func (t *tsigRecord) appendError(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, t.err)
	b = binary.BigEndian.AppendUint16(b, uint16(len(t.other)))
	return append(b, t.other...)
}

// variables are what is signed beside the message (RFC 8945 section 4.3.3).
func (t *tsigRecord) variables() []byte {
	b := append(make([]byte, 0, 64+len(t.name)+len(t.algorithm)), t.name...)
	b = append(b, 0, dns.ClassANY, 0, 0, 0, 0)
	b = append(b, t.algorithm...)
	return t.appendError(t.appendTimers(b))
}

// tsigSigner signs the messages of one side of an exchange: a request, or all
// messages of a response. The first is signed with all there is to say, those
// that follow with the timers alone (RFC 8945 section 5.3.1).
type tsigSigner struct {
	key       *tsigKey
	prior     []byte // MAC before: the request's for the first response
	id        uint16 // of the request as its sender wrote it
	following bool
	now       func() time.Time
}

// room is how long the TSIG record is.
func (s *tsigSigner) room() int {
	return len(s.key.name) + len(s.key.algorithm) + 10 + 16 + s.key.hash().Size()
}

// sign appends the TSIG record to the message that begins at base of b.
func (s *tsigSigner) sign(b []byte, base int) []byte {
	t := tsigRecord{name: s.key.name, algorithm: s.key.algorithm, time: uint64(s.now().Unix()), fudge: tsigFudge, id: s.id}
	return s.finish(&t, b, base)
}

// finish computes the MAC of a record, and appends it.
func (s *tsigSigner) finish(t *tsigRecord, b []byte, base int) []byte {
	h := s.key.begin(s.prior)
	h.Write(b[base:])
	if s.following {
		h.Write(t.appendTimers(nil))
	} else {
		h.Write(t.variables())
	}
	t.mac = h.Sum(nil)
	s.prior, s.following = t.mac, true
	return t.appendTo(b, base)
}

// begin returns the MAC of what follows upon another one.
func (k *tsigKey) begin(prior []byte) hash.Hash {
	h := hmac.New(k.hash, k.secret)
	if prior != nil {
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(prior))))
		h.Write(prior)
	}
	return h
}

// verify reports whether the MAC of t is the sum of h, and how long it is
// allowed to be: rcode is 0, FORMERR, BADSIG or BADTRUNC.
func (t *tsigRecord) verify(h hash.Hash) (rcode int) {
	sum := h.Sum(nil)
	switch n := len(t.mac); {
	case n > len(sum), n < max(10, len(sum)/2): // RFC 8945 section 5.2.2.1
		return dns.RcodeFormatError
	case !hmac.Equal(sum[:n], t.mac):
		return dns.RcodeBadSig
	case n < len(sum):
		return dns.RcodeBadTrunc
	}
	return 0
}

// timely reports whether a signature is of now. No more fudge is granted than
// we take ourselves, as that is how long updates are remembered.
func (t *tsigRecord) timely(now time.Time) bool {
	d := now.Unix() - int64(t.time)
	return max(d, -d) <= int64(min(t.fudge, tsigFudge))
}

// unsigned returns a copy of a message as it was before the TSIG record at an
// offset was appended.
func (t *tsigRecord) unsigned(wire []byte, at int) []byte {
	b := append(make([]byte, 0, at), wire[:at]...)
	binary.BigEndian.PutUint16(b, t.id)
	binary.BigEndian.PutUint16(b[10:], binary.BigEndian.Uint16(b[10:])-1)
	return b
}

// maxUnsigned is how many messages of a response may go without a signature
// before one has it (RFC 8945 section 5.3.1).
const maxUnsigned = 99

var (
	errUnsigned = errors.New("the answer is not signed as it should be (TSIG)")
	errTSIG     = errors.New("the signature of the answer is wrong (TSIG)")
	errTSIGTime = errors.New("the signature of the answer is too old, or a clock is wrong (TSIG)")
)

// tsigVerifier checks the messages of a response to a request that we signed.
type tsigVerifier struct {
	key      *tsigKey
	sum      hash.Hash
	first    bool
	unsigned int // messages since the last signature
}

// newTSIGVerifier checks what answers the request with this MAC.
func newTSIGVerifier(key *tsigKey, mac []byte) *tsigVerifier {
	return &tsigVerifier{key: key, sum: key.begin(mac), first: true}
}

// message checks the next message, of which the TSIG record is at an offset, or
// 0. It is not authentic before another call with a signature has succeeded.
func (v *tsigVerifier) message(wire []byte, at int, now time.Time) error {
	if at == 0 {
		if v.unsigned++; v.first || v.unsigned > maxUnsigned {
			return errUnsigned
		}
		v.sum.Write(wire)
		return nil
	}
	t, ok := readTSIG(wire, at)
	if !ok || t.name != v.key.name || t.algorithm != v.key.algorithm {
		return errTSIG
	}
	if t.err == dns.RcodeBadTime {
		return errTSIGTime
	}
	v.sum.Write(t.unsigned(wire, at))
	if v.first {
		v.sum.Write(t.variables())
	} else {
		v.sum.Write(t.appendTimers(nil))
	}
	if t.verify(v.sum) != 0 {
		return errTSIG
	}
	if !t.timely(now) {
		return errTSIGTime
	}
	v.first, v.unsigned, v.sum = false, 0, v.key.begin(t.mac)
	return nil
}
