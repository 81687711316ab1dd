package suppress

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Reason says why no mail is sent to an address.
type Reason string

// The reasons.
const (
	Bounce      Reason = "bounce"
	Complaint   Reason = "complaint"
	Unsubscribe Reason = "unsubscribe"
	Manual      Reason = "manual"
)

// code is a reason's byte in storage, 0 for one that there is not.
func (r Reason) code() byte {
	switch r {
	case Bounce:
		return 'b'
	case Complaint:
		return 'c'
	case Unsubscribe:
		return 'u'
	case Manual:
		return 'm'
	}
	return 0
}

func reasonOf(code byte) Reason {
	for _, r := range []Reason{Bounce, Complaint, Unsubscribe, Manual} {
		if r.code() == code {
			return r
		}
	}
	return ""
}

// removed is the code of an address that was taken off the list.
const removed = 'r'

// BounceTime is for how long a bounce counts, if nothing else is said. Mailboxes
// that are gone come back now and then, as do domains, and servers are mistaken;
// one message in a quarter of a year to find out harms nobody's reputation.
const BounceTime = 90 * 24 * time.Hour

// MaxDetail is how many bytes of [Entry.Detail] are kept.
const MaxDetail = 240

// Entry is an address on the list.
type Entry struct {
	// Address is canonical, see [Canonical].
	Address string
	Reason  Reason
	// Detail is more about the reason, say a server's reply.
	Detail string
	// Added is when it was put on the list, Expires until when it stays there, zero
	// for ever.
	Added, Expires time.Time
}

func (e *Entry) expired(now time.Time) bool { return !e.Expires.IsZero() && !now.Before(e.Expires) }

// outlasts reports whether the entry stays at least as long as another.
func (e *Entry) outlasts(o *Entry) bool {
	return e.Expires.IsZero() || !o.Expires.IsZero() && e.Expires.After(o.Expires)
}

// Canonical is the form in which addresses are compared, of an address or, as in
// "@example.com", a whole domain. Domains are in lower case and A-labels. Local
// parts are in lower case too: RFC 5321 leaves them to each domain, but there is
// hardly one where Ann and ann are two people, and to write to somebody who said
// not to is worse than to spare two.
func Canonical(s string) (string, error) {
	if domain, ok := strings.CutPrefix(s, "@"); ok {
		domain, err := addr.ParseDomain(domain)
		return "@" + domain, err
	}
	a, err := addr.Parse(s)
	if err != nil {
		return "", err
	}
	a.Local = strings.ToLower(a.Local)
	return a.String(), nil
}

// domainOf returns the entry of a whole domain that would cover an address.
func domainOf(canonical string) string { return canonical[strings.LastIndexByte(canonical, '@'):] }

// record is a change of an address as it is kept in memory and in storage, in one
// piece because there may be a million: the address, a NUL, the code, three times
// in eight bytes each, and the detail.
type record string

const fixedSize = 1 + 1 + 3*8

// newRecord takes milliseconds since 1970; expires is 0 for never. Stamp orders the
// changes of an address.
func newRecord(address string, code byte, stamp, added, expires int64, detail string) record {
	b := make([]byte, 0, len(address)+fixedSize+len(detail))
	b = append(append(b, address...), 0, code)
	for _, n := range []int64{stamp, added, expires} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return record(append(b, detail...))
}

func (r record) address() string { return string(r[:strings.IndexByte(string(r), 0)]) }

// rest is what is behind the address.
func (r record) rest() string { return string(r[strings.IndexByte(string(r), 0)+1:]) }

func number(s string) int64 { return int64(binary.BigEndian.Uint64([]byte(s[:8]))) }

func (r record) stamp() int64   { return number(r.rest()[1:]) }
func (r record) expires() int64 { return number(r.rest()[17:]) }
func (r record) gone() bool     { return r.rest()[0] == removed }

// newer reports whether a record of the same address counts more than another. Of
// two from the same moment every process takes the same.
func (r record) newer(o record) bool {
	return cmp.Or(cmp.Compare(r.stamp(), o.stamp()), cmp.Compare(r, o)) > 0
}

func (r record) entry() Entry {
	rest := r.rest()
	e := Entry{Address: r.address(), Reason: reasonOf(rest[0]), Detail: rest[fixedSize-1:], Added: time.UnixMilli(number(rest[9:])).UTC()}
	if ms := number(rest[17:]); ms != 0 {
		e.Expires = time.UnixMilli(ms).UTC()
	}
	return e
}

// segmentVersion is the first byte of a segment. What follows are records, each
// behind its length in two bytes.
const segmentVersion = 1

func encodeSegment(records []record) []byte {
	size := 1
	for _, r := range records {
		size += 2 + len(r)
	}
	b := append(make([]byte, 0, size), segmentVersion)
	for _, r := range records {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(r))), r...)
	}
	return b
}

var errSegment = errors.New("not a segment of suppressed addresses")

// decodeSegment calls yield for each record. Those before damage are not lost.
func decodeSegment(b []byte, yield func(record)) error {
	if len(b) == 0 || b[0] != segmentVersion {
		return errSegment
	}
	for b = b[1:]; len(b) > 0; {
		if len(b) < 2 {
			return errSegment
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return errSegment
		}
		r := record(b[2 : 2+n]) // a copy, so that the rest of the segment can go
		b = b[2+n:]
		at := strings.IndexByte(string(r), 0)
		if at < 2 || n < at+fixedSize || r[at+1] != removed && reasonOf(r[at+1]) == "" {
			return errSegment
		}
		yield(r)
	}
	return nil
}

// prepare makes an entry fit to be kept.
func (e *Entry) prepare(now time.Time) (err error) {
	given := e.Address
	if e.Address, err = Canonical(given); err != nil {
		return fmt.Errorf("%.300q is not an address: %w", given, err)
	}
	if e.Reason.code() == 0 {
		return fmt.Errorf("the reason %.50q is none of bounce, complaint, unsubscribe and manual", e.Reason)
	}
	if e.Added.IsZero() {
		e.Added = now
	}
	if e.Expires.IsZero() && e.Reason == Bounce {
		e.Expires = e.Added.Add(BounceTime)
	}
	e.Detail = oneLine(e.Detail)
	return nil
}

// oneLine shortens text of strangers, and takes out what is not to be printed, or
// what a file of it would lose.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > MaxDetail {
		s = strings.ToValidUTF8(s[:MaxDetail], "") // not half a character
	}
	return strings.TrimSpace(s)
}
