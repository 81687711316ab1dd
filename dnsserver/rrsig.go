package dnsserver

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// sigMaker makes signatures. It is not for concurrent use: it keeps its memory.
type sigMaker struct {
	zone       string // wire name
	inception  uint32
	expiration uint32 // at the latest
	jitter     uint32 // by which it may be earlier, in seconds

	text, out []byte
	data      []string
}

// clockSkew is how far the clocks of validators may be behind.
const clockSkew = time.Hour

func (c *DNSSEC) newSigMaker(zone string, now time.Time) *sigMaker {
	return &sigMaker{
		zone:       zone,
		inception:  uint32(now.Add(-clockSkew).Unix()), // times are modulo 2^32, RFC 4034 section 3.1.5
		expiration: uint32(now.Add(c.SignatureValidity).Unix()),
		jitter:     uint32(c.jitter() / time.Second),
	}
}

// jitter is within what time the signatures of a day end, so that not all are
// due at once.
func (c *DNSSEC) jitter() time.Duration { return (c.SignatureValidity - c.Refresh) / 4 }

// sign returns the signatures of a set at a wire name by keys.
func (s *sigMaker) sign(owner string, set *rrset, keys []*key) (sigs string, err error) {
	s.out = s.out[:0]
	for _, k := range keys {
		if err := s.append(owner, set, k); err != nil {
			return "", err
		}
	}
	return string(s.out), nil
}

func (s *sigMaker) append(owner string, set *rrset, k *key) error {
	s.out = binary.BigEndian.AppendUint16(s.out, questionPtr)
	s.out = binary.BigEndian.AppendUint16(s.out, dns.TypeRRSIG)
	s.out = binary.BigEndian.AppendUint16(s.out, dns.ClassINET)
	s.out = binary.BigEndian.AppendUint32(s.out, set.ttl())
	s.out = append(s.out, 0, 0)
	start := len(s.out)
	s.out = binary.BigEndian.AppendUint16(s.out, set.rtype)
	s.out = append(s.out, k.Algorithm, signedLabels(owner))
	s.out = binary.BigEndian.AppendUint32(s.out, set.ttl())
	s.out = binary.BigEndian.AppendUint32(s.out, s.expiration-s.early(owner, set.rtype))
	s.out = binary.BigEndian.AppendUint32(s.out, s.inception)
	s.out = binary.BigEndian.AppendUint16(s.out, k.tag)
	s.out = append(s.out, s.zone...)

	// RFC 4034 section 3.1.8.1
	s.text = append(s.text[:0], s.out[start:]...)
	s.data = s.data[:0]
	for data := range set.data() {
		s.data = append(s.data, canonicalData(set.rtype, data))
	}
	slices.Sort(s.data)
	for _, data := range s.data {
		s.text = append(s.text, owner...)
		s.text = binary.BigEndian.AppendUint16(s.text, set.rtype)
		s.text = binary.BigEndian.AppendUint16(s.text, dns.ClassINET)
		s.text = binary.BigEndian.AppendUint32(s.text, set.ttl())
		s.text = binary.BigEndian.AppendUint16(s.text, uint16(len(data)))
		s.text = append(s.text, data...)
	}
	var err error
	if s.out, err = k.appendSignature(s.out, s.text); err != nil {
		return err
	}
	binary.BigEndian.PutUint16(s.out[start-2:], uint16(len(s.out)-start))
	return nil
}

// early is how much before the latest time the signature of a set ends. It is
// the same for a set each time, so that once spread they stay so.
func (s *sigMaker) early(owner string, rtype uint16) uint32 {
	if s.jitter == 0 {
		return 0
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(owner) {
		h = (h ^ uint32(owner[i])) * 16777619
	}
	h = (h ^ uint32(rtype)) * 16777619
	return uint32(uint64(h) * uint64(s.jitter) >> 32)
}

// signedLabels is the number of labels of a name, without that of the root and
// that of a wildcard (RFC 4034 section 3.1.3).
func signedLabels(owner string) byte {
	n := byte(0)
	owner = strings.TrimPrefix(owner, "\x01*")
	for i := 0; owner[i] != 0; i += int(owner[i]) + 1 {
		n++
	}
	return n
}

// The fields of the data of a signature.
func sigExpiration(data string) uint32 { return uint32At(data, 8) }
func sigInception(data string) uint32  { return uint32At(data, 12) }
func sigTag(data string) uint16        { return uint16At(data, 16) }

// isFresh reports whether a set has the signatures of these keys, and none of
// them begins after now or ends before a time.
func (s *rrset) isFresh(keys []*key, now time.Time, until uint32) bool {
	if int(s.signs) != len(keys) {
		return false
	}
	i := 0
	for data := range eachData(s.sigs) {
		if sigTag(data) != keys[i].tag || serialAfter(until, sigExpiration(data)) || serialAfter(sigInception(data), uint32(now.Unix())) {
			return false
		}
		i++
	}
	return true
}

// withTTL returns records or signatures with another TTL.
func withTTL(wire string, ttl uint32) string {
	b := []byte(wire)
	for at := 0; at < len(b); at += recordHead + int(binary.BigEndian.Uint16(b[at+10:])) {
		binary.BigEndian.PutUint32(b[at+6:], ttl)
	}
	return string(b)
}
