package sasl

import (
	"context"
	"encoding/binary"
	"fmt"
)

// User is one of [NewUsers].
type User struct {
	// Name is compared exactly, after SASLprep (RFC 4013).
	Name string
	// Password is as for [ParseCredential].
	Password string
}

// Users is an [Authenticator] of a fixed list. Whoever is not in it gets the
// decoy of a user that is, always the same, so that of each kind and cost of
// hash there are as many unknown users as known ones.
type Users struct {
	byName map[string]Credential
	decoys []Credential
	pick   *salter
}

// NewUsers reads a list. The error names the index of the user and not the
// password.
func NewUsers(list []User) (*Users, error) {
	u := &Users{byName: make(map[string]Credential, len(list)), pick: newSalter()}
	for i, user := range list {
		name, err := prepare(user.Name)
		if err != nil {
			return nil, fmt.Errorf("users[%d]: the name %q is empty or has characters that SASLprep (RFC 4013) forbids", i, user.Name)
		}
		c, err := ParseCredential(user.Password)
		if err != nil {
			return nil, fmt.Errorf("users[%d]: %w", i, err)
		}
		if u.byName[name] != nil {
			return nil, fmt.Errorf("users[%d]: the name %q is there twice", i, name)
		}
		u.byName[name] = c
		u.decoys = append(u.decoys, decoyOf(c))
	}
	return u, nil
}

// Lookup returns the credential of username, or a decoy.
func (u *Users) Lookup(_ context.Context, username string) (Credential, error) {
	if c := u.byName[username]; c != nil {
		return c, nil
	}
	if len(u.decoys) == 0 {
		return nil, ErrUnknownUser
	}
	n := binary.BigEndian.Uint64(u.pick.salt(username))
	return u.decoys[n%uint64(len(u.decoys))], nil
}
