package radius

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	layeh "layeh.com/radius"
)

// An Authorizer decides about an Access-Request. It is called concurrently, at
// most [Limits.MaxConcurrent] at a time, and once for a request however often
// the client repeats it. The zero Decision rejects. After an error the client
// gets no answer, so that it asks again, or another server: it means that
// nothing could be found out. ctx ends when the Server stops and does not wait
// any longer; the Authorizer must return then, as Stop waits for it.
//
// Where the request has a password (see [Request.Method]) it is up to the
// Authorizer to check it, with [Request.CheckPassword] or [Request.Password].
type Authorizer func(ctx context.Context, r *Request) (Decision, error)

// Request is an Access-Request, verified as far as the shared secret goes. It
// holds for the call that it is given to.
type Request struct {
	// Client is the name of the client as configured, or "".
	Client string
	// Remote is where the request came from.
	Remote netip.AddrPort
	// UserName is what User-Name says, without changes.
	UserName string
	// MAC is the device's address as in "aa:bb:cc:dd:ee:ff" if the client asks
	// about a device by its MAC address: User-Name and Calling-Station-Id are
	// the same address. Otherwise it is "". It proves nothing: anyone can send
	// from another's address. Let it do what anyone may, and bind it to the
	// port that it belongs to (NAS-Port-Id).
	MAC string
	// Method is how the request proves that its sender knows a password.
	Method Method
	// Packet is the request as it came, for all its other attributes: see
	// layeh.com/radius/rfc2865 and the like. Its Secret is empty.
	Packet *layeh.Packet

	cred credentials
}

// Format prints who asks for what, whatever the verb, and no password.
func (r Request) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "request of %v (%q) for user %q by %s", r.Remote, r.Client, r.UserName, r.Method)
}

// Method is a way to prove that one knows a password.
type Method string

// The methods that there are.
const (
	// NoPassword: the request has none, as if it were empty.
	NoPassword Method = "none"
	// PAP gives the server the password to read (User-Password).
	PAP Method = "pap"
	// CHAP is a challenge and response (RFC 1994).
	CHAP Method = "chap"
	// MSCHAPv2 is Microsoft's (RFC 2759, RFC 2548). What [Request.CheckPassword]
	// has found is part of the answer, so an Accept without it counts as an
	// error of the Authorizer.
	MSCHAPv2 Method = "mschapv2"
	// EAPMD5 is CHAP within EAP (RFC 3748 section 5.4).
	EAPMD5 Method = "eap-md5"
	// UnknownMethod is one that this package does not know, as MS-CHAP version 1.
	UnknownMethod Method = "unknown"
)

// Password returns the password, if the request has one that can be read: its
// Method is PAP, or NoPassword where it is "".
func (r *Request) Password() (password string, ok bool) {
	switch r.Method {
	case PAP:
		return r.cred.password, true
	case NoPassword:
		return "", true
	}
	return "", false
}

// CheckPassword reports whether the request proves knowledge of password,
// whatever its Method, in constant time. All but PAP need the password itself,
// not a hash of it.
func (r *Request) CheckPassword(password string) bool { return r.cred.check(r, password) }

// CheckNTHash is CheckPassword for a host that keeps the MD4 hash of the
// password in UTF-16 in place of the password, as Active Directory does. It
// works for MSCHAPv2 only.
func (r *Request) CheckNTHash(hash [16]byte) bool { return r.cred.checkNTHash(r, hash) }

// Decision is the answer to an Access-Request.
type Decision struct {
	// Accept admits; false rejects.
	Accept bool
	// VLAN is the number of the VLAN to put the port into, 1 to 4094, and
	// VLANName its name where the switch knows it by that. At most one is
	// given; without, the switch decides.
	VLAN     int
	VLANName string
	// SessionTimeout ends the session, in whole seconds; with Reauthenticate
	// the client asks again instead. 0 means never.
	SessionTimeout time.Duration
	Reauthenticate bool
	// FilterID names a filter of the client's.
	FilterID string
	// ReplyMessage is shown to the user, if the client can, also with a
	// Reject.
	ReplyMessage string
	// Attributes are added to the answer as they are: all to an Accept, of
	// those a Reject may have (RFC 2865 section 5.44) Reply-Message and
	// vendors'. Message-Authenticator, EAP-Message, State and Proxy-State are
	// left out: the Server sets them.
	Attributes layeh.Attributes
}
