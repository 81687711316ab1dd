package sasl

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Bounds of what one verification may cost, in time and memory. The costs that
// are recommended are well below.
const (
	maxBcryptCost   = 15
	maxArgon2Memory = 256 << 10 // KiB
	maxArgon2Time   = 16
	maxArgon2Lanes  = 16
	maxArgon2Work   = 1 << 20 // memory times time, in KiB
)

// ParseCredential reads a credential of the configuration: a bcrypt hash
// ("$2a$", "$2b$", "$2y$"), an argon2id hash as PHC string ("$argon2id$"), and
// else a password. What begins like a hash and is none is an error, as is a
// hash that takes too much time or memory. Errors never show it.
func ParseCredential(s string) (Credential, error) {
	switch {
	case strings.HasPrefix(s, "$argon2"):
		return parseArgon2(s)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	}
	prepared, err := prepare(s)
	if err != nil {
		return nil, errors.New("the password is empty or has characters that SASLprep (RFC 4013) forbids")
	}
	return &password{plain: prepared, digest: sha256.Sum256([]byte(prepared))}, nil
}

// password is one that is known. As a decoy it has no password.
type password struct {
	plain  string
	digest [32]byte
	decoy  bool
}

func (p *password) Verify(s string) bool {
	digest := sha256.Sum256([]byte(s)) // so that lengths are equal
	return subtle.ConstantTimeCompare(digest[:], p.digest[:]) == 1 && !p.decoy
}

func (p *password) Scram(salt []byte) (ScramKeys, bool) {
	if p.decoy {
		return ScramKeys{}, false
	}
	return deriveScram(p.plain, salt), true
}

// bcryptHash is one of bcrypt, which looks at the first 72 bytes of a password.
type bcryptHash struct {
	hash  []byte
	decoy bool
}

func parseBcrypt(s string) (Credential, error) {
	cost, err := bcrypt.Cost([]byte(s))
	switch {
	case err != nil || len(s) != 60:
		return nil, errors.New("the bcrypt hash is malformed: it must be $2b$, the cost, and 53 characters")
	case cost > maxBcryptCost:
		return nil, fmt.Errorf("the bcrypt hash has cost %d, which takes too long: %d is the most", cost, maxBcryptCost)
	}
	return &bcryptHash{hash: []byte(s)}, nil
}

func (h *bcryptHash) Verify(s string) bool {
	return bcrypt.CompareHashAndPassword(h.hash, []byte(s)) == nil && !h.decoy
}

func (h *bcryptHash) Scram([]byte) (ScramKeys, bool) { return ScramKeys{}, false }

// argon2Hash is one of argon2id (RFC 9106).
type argon2Hash struct {
	memory, time uint32
	lanes        uint8
	salt, hash   []byte
	decoy        bool
}

// parseArgon2 reads $argon2id$v=19$m=65536,t=3,p=4$salt$hash.
func parseArgon2(s string) (Credential, error) {
	malformed := errors.New("the argon2 hash is malformed: it must be $argon2id$v=19$m=KiB,t=passes,p=lanes$salt$hash")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, malformed
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return nil, malformed
	}
	var numbers [3]uint32
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(params[i], name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n == 0 {
			return nil, malformed
		}
		numbers[i] = uint32(n)
	}
	memory, time, lanes := numbers[0], numbers[1], numbers[2]
	if memory > maxArgon2Memory || time > maxArgon2Time || lanes > maxArgon2Lanes || uint64(memory)*uint64(time) > maxArgon2Work {
		return nil, fmt.Errorf("the argon2 hash has m=%d,t=%d,p=%d, which takes too much: m=%d, t=%d, p=%d and m times t of %d are the most",
			memory, time, lanes, maxArgon2Memory, maxArgon2Time, maxArgon2Lanes, maxArgon2Work)
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	hash, err2 := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(hash) < 16 || len(hash) > 64 {
		return nil, malformed
	}
	return &argon2Hash{memory: memory, time: time, lanes: uint8(lanes), salt: salt, hash: hash}, nil
}

func (h *argon2Hash) Verify(s string) bool {
	hash := argon2.IDKey([]byte(s), h.salt, h.time, h.memory, h.lanes, uint32(len(h.hash)))
	return subtle.ConstantTimeCompare(hash, h.hash) == 1 && !h.decoy
}

func (h *argon2Hash) Scram([]byte) (ScramKeys, bool) { return ScramKeys{}, false }

// unknownUser stands for users of whom an [Authenticator] knows nothing, at the
// cost that RFC 9106 section 4 recommends second.
func unknownUser() Credential {
	return &argon2Hash{memory: 64 << 10, time: 3, lanes: 4, salt: make([]byte, 16), hash: make([]byte, 32), decoy: true}
}

// decoyOf returns a credential that takes the work of c and fits no password.
func decoyOf(c Credential) Credential {
	switch c := c.(type) {
	case *password:
		return &password{plain: c.plain, digest: c.digest, decoy: true}
	case *bcryptHash:
		return &bcryptHash{hash: c.hash, decoy: true}
	case *argon2Hash:
		d := *c
		d.decoy = true
		return &d
	}
	return unknownUser()
}
