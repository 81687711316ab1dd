package spool

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
)

// ID names a message for ever: 20 characters of 0-9 and a-z, so that it does
// as a file name on any system and as the id of a Received header. It begins
// with the time, in microseconds, and ends with 48 random bits: IDs sort by
// age, and no two are the same, whatever happens to the clock and however many
// stores there are.
type ID string

// NewID makes an ID for a message that comes in now.
func NewID(now time.Time) ID {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return key{
		micros: uint64(max(0, now.UnixMicro())) & (1<<52 - 1),
		random: binary.LittleEndian.Uint64(b[:]) & (1<<48 - 1),
	}.id()
}

// ParseID checks an ID that comes from elsewhere. It wraps ErrInvalidID.
func ParseID(s string) (ID, error) {
	_, err := ID(s).key()
	return ID(s), err
}

// Time returns when the ID was made, to the microsecond; the zero time if it
// is not a valid one.
func (id ID) Time() time.Time {
	k, err := id.key()
	if err != nil {
		return time.Time{}
	}
	return time.UnixMicro(int64(k.micros))
}

// key is an ID in 16 bytes without a pointer: the log has one a message.
type key struct {
	micros uint64 // since 1970; 52 bits, enough until 2112
	random uint64 // 48 bits
}

// The digits sort like their values in ASCII, and leave out what is mistaken
// for another (Crockford's base 32 in lower case).
const (
	idDigits = "0123456789abcdefghjkmnpqrstvwxyz"
	idLength = 20 // 100 bits, 5 a digit
)

func (k key) id() ID {
	var b [idLength]byte
	hi, lo := k.micros>>2, (k.micros&3)<<48|k.random // 50 bits each
	for i := idLength/2 - 1; i >= 0; i-- {
		b[i], b[i+idLength/2] = idDigits[hi&31], idDigits[lo&31]
		hi, lo = hi>>5, lo>>5
	}
	return ID(b[:])
}

func (id ID) key() (key, error) {
	if len(id) != idLength {
		return key{}, fmt.Errorf("%w: %.40q", ErrInvalidID, string(id))
	}
	var half [2]uint64
	for i := range idLength {
		d := digitValue(id[i])
		if d < 0 {
			return key{}, fmt.Errorf("%w: %q", ErrInvalidID, string(id))
		}
		h := &half[i/(idLength/2)]
		*h = *h<<5 | uint64(d)
	}
	return key{micros: half[0]<<2 | half[1]>>48, random: half[1] & (1<<48 - 1)}, nil
}

func digitValue(c byte) int {
	for i := range len(idDigits) {
		if idDigits[i] == c {
			return i
		}
	}
	return -1
}

func (k key) compare(o key) int {
	switch {
	case k.micros < o.micros, k.micros == o.micros && k.random < o.random:
		return -1
	case k == o:
		return 0
	}
	return 1
}
