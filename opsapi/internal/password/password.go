// Package password keeps passwords as argon2id hashes (RFC 9106) in the PHC
// string format, and compares with them.
package password

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// MaxLength bounds a password, in bytes.
const MaxLength = 1024

// What a new hash costs: 7 MiB, five passes, one lane. Of the settings that OWASP
// has for equally good it is that which takes the least memory.
const (
	memory  = 7 << 10 // KiB
	passes  = 5
	lanes   = 1
	saltLen = 16
	hashLen = 32
)

// Bounds of what one comparison may cost.
const (
	maxMemory = 256 << 10 // KiB
	maxPasses = 16
	maxLanes  = 16
	maxWork   = 1 << 20 // memory times passes, in KiB
)

// Hash is an argon2id hash.
type Hash struct {
	memory, passes uint32
	lanes          uint8
	salt, sum      []byte
}

// New hashes a password with a fresh salt.
func New(password string) Hash {
	h := Hash{memory: memory, passes: passes, lanes: lanes, salt: make([]byte, saltLen)}
	rand.Read(h.salt)
	h.sum = argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.lanes, hashLen)
	return h
}

// Dummy returns a hash that costs as much as h to compare with and that no
// password fits, so that time does not tell who exists.
func (h Hash) Dummy() Hash {
	d := h
	d.sum = make([]byte, len(h.sum))
	rand.Read(d.sum)
	return d
}

// IsHash reports whether text is meant as a hash rather than as a password.
func IsHash(text string) bool { return strings.HasPrefix(text, "$argon2") }

// Parse reads "$argon2id$v=19$m=19456,t=2,p=1$salt$hash". It refuses a hash
// that takes too much time or memory. Errors never show it.
func Parse(text string) (Hash, error) {
	malformed := errors.New("the argon2 hash is malformed: it must be $argon2id$v=19$m=KiB,t=passes,p=lanes$salt$hash")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return Hash{}, malformed
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return Hash{}, malformed
	}
	var numbers [3]uint32
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(params[i], name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n == 0 {
			return Hash{}, malformed
		}
		numbers[i] = uint32(n)
	}
	if numbers[0] > maxMemory || numbers[1] > maxPasses || numbers[2] > maxLanes || uint64(numbers[0])*uint64(numbers[1]) > maxWork {
		return Hash{}, fmt.Errorf("the argon2 hash has m=%d,t=%d,p=%d, which takes too much: m=%d, t=%d, p=%d and m times t of %d are the most",
			numbers[0], numbers[1], numbers[2], maxMemory, maxPasses, maxLanes, maxWork)
	}
	h := Hash{memory: numbers[0], passes: numbers[1], lanes: uint8(numbers[2])}
	var errSalt, errSum error
	h.salt, errSalt = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.sum, errSum = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errSalt != nil || errSum != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 64 {
		return Hash{}, malformed
	}
	return h, nil
}

// String returns the PHC string. It is a secret.
func (h Hash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.lanes,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.sum))
}

// Verify reports whether the password is the one. It takes tens of
// milliseconds and as much memory as the hash says.
func (h Hash) Verify(password string) bool {
	if len(password) > MaxLength {
		return false
	}
	sum := argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.lanes, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}
