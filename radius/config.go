package radius

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// FieldError is a mistake in a configuration: the path of the field, such as
// "clients[3].secret", and what is wrong with it.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// Default ports, of RFC 2865 section 3, RFC 2866 section 3, RFC 6614 section
// 2.1 and RFC 5176 section 3.
const (
	DefaultPort           = 1812
	DefaultAccountingPort = 1813
	DefaultRadSecPort     = 2083
	DefaultCoAPort        = 3799
)

// Config is everything about the RADIUS server that can be written as JSON.
type Config struct {
	// ListenHost is the address that the ports bind on. The default "" means
	// all interfaces, IPv4 and IPv6.
	ListenHost string `json:"listenHost"`
	// Port is the UDP port for authentication. The default nil means 1812; 0
	// binds any free port.
	Port *int `json:"port"`
	// AccountingPort is the UDP port for accounting. The default nil means
	// 1813; 0 binds any free port.
	AccountingPort *int `json:"accountingPort"`
	// Secret is shared with clients that have none of their own (RFC 2865
	// section 3). Without Clients, anyone who knows it is a client. It may be
	// left out if every client has its own.
	Secret Secret `json:"secret"`
	// AllowWeakSecret accepts secrets of less than 16 octets, with a warning;
	// RFC 2865 section 3 wants more. The default nil means true.
	AllowWeakSecret *bool `json:"allowWeakSecret"`
	// RequireMessageAuthenticator is the default of the clients' field of that
	// name, and holds for all where there are no Clients.
	RequireMessageAuthenticator *bool `json:"requireMessageAuthenticator"`
	// Clients are the switches and access points that may ask. Empty means any
	// that knows Secret, and shows that in each request: see
	// [Client.RequireMessageAuthenticator].
	Clients []Client `json:"clients"`
	// MACAuth admits devices by their MAC address (MAC authentication bypass).
	// Nil means that VLANAssignment alone decides.
	MACAuth *MACAuth `json:"macAuth"`
	// VLANAssignment says which VLAN a device gets: the first rule that
	// matches its MAC address decides. What becomes of a device that no rule
	// matches MACAuth says; without it the device is rejected.
	VLANAssignment []VLANRule `json:"vlanAssignment"`
	// VLANTag is put on the attributes that name a VLAN, for switches that
	// want one (RFC 2868 section 3), 1 to 31. The default 0 means none.
	VLANTag int `json:"vlanTag"`
	// Accounting is about sessions.
	Accounting Accounting `json:"accounting"`
	// RadSec serves RADIUS over TLS too. Nil means not to.
	RadSec *RadSec `json:"radSec"`
	// Realms are user names that other servers decide about.
	Realms []Realm `json:"realms"`
	// Limits bound what clients and devices may ask of the server.
	Limits Limits `json:"limits"`
}

// Client is a switch, an access point or another that asks.
type Client struct {
	// Name is for logs and statistics.
	Name string `json:"name"`
	// IP is its address, or a CIDR block of several. Of overlapping ones the
	// longest prefix counts. Required.
	IP string `json:"ip" conf:"key"`
	// Secret is shared with it. The default "" means that of [Config].
	Secret Secret `json:"secret"`
	// RequireMessageAuthenticator ignores requests without
	// Message-Authenticator (RFC 3579 section 3.2), which alone protects
	// against forged answers (CVE-2024-3596). The default nil means from an
	// address's first request that has one on, EAP aside, which has one in any
	// case; and nil ignores requests without one that prove in no other way that
	// their sender knows the secret, where the entry is for more than one address
	// or there are no Clients. A User-Password proves it; no password, CHAP and
	// MS-CHAP do not, so that anybody in the block could ask about devices and
	// guess passwords. Whatever it is, requests without one that carry Proxy-State
	// are ignored, as the forgery needs that.
	RequireMessageAuthenticator *bool `json:"requireMessageAuthenticator"`
	// MACInCalledStation looks for a device's MAC address in Called-Station-Id
	// too, where some Dell switches put it.
	MACInCalledStation bool `json:"macInCalledStation"`
	// CoAPort is where it takes Disconnect and CoA requests. The default 0
	// means 3799.
	CoAPort int `json:"coaPort"`
	// CertificateNames are the DNS names or IP addresses of which its
	// certificate must have one, over RadSec. Empty means that any certificate
	// of the authority will do.
	CertificateNames []string `json:"certificateNames"`
}

// MACAuth admits devices by their MAC address.
type MACAuth struct {
	// Enabled turns it on. The default nil means true where the section is
	// present.
	Enabled *bool `json:"enabled"`
	// AllowedMACs are addresses, in any vendor's notation, and prefixes ending
	// in *, as "aa:bb:cc:*", for all devices of a manufacturer.
	AllowedMACs []string `json:"allowedMacs"`
	// DefaultVLAN is for allowed devices for which VLANAssignment has no rule,
	// 1 to 4094. The default 0 means to name no VLAN.
	DefaultVLAN int `json:"defaultVlan"`
	// GuestVLAN is for devices that are not allowed, 1 to 4094. The default 0
	// means to reject them.
	GuestVLAN int `json:"guestVlan"`
	// Password is what switches send for every device where they are set to
	// one password for all; others are then refused. The default "" takes the
	// MAC address in any notation, an empty password and, where it can be read
	// (PAP), any text: it proves nothing about a device.
	Password Secret `json:"password"`
}

// VLANRule assigns a VLAN.
type VLANRule struct {
	// Match says which devices it is for.
	Match VLANMatch `json:"match"`
	// VLAN is 1 to 4094 (IEEE 802.1Q). Either it or VLANName is required.
	VLAN int `json:"vlan"`
	// VLANName names a VLAN that the switch knows by name.
	VLANName string `json:"vlanName"`
	// SessionTimeout ends the session, in whole seconds (Session-Timeout). The
	// default 0 means never.
	SessionTimeout time.Duration `json:"sessionTimeout"`
	// Reauthenticate makes the switch ask again when SessionTimeout is over,
	// in place of ending the session (Termination-Action).
	Reauthenticate bool `json:"reauthenticate"`
	// FilterID names a filter on the switch (Filter-Id).
	FilterID string `json:"filterId"`
}

// VLANMatch describes devices. Exactly one field is given.
type VLANMatch struct {
	// MAC is an address or a prefix, as in AllowedMACs.
	MAC string `json:"mac"`
	// Default matches any device. The rule comes last.
	Default bool `json:"default"`
}

// Accounting is about sessions.
type Accounting struct {
	// StaleAfter closes sessions that nothing was heard of for so long. The
	// default 0 means 24 hours; it should be several times the interval of the
	// NAS's interim updates.
	StaleAfter time.Duration `json:"staleAfter"`
	// MaxSessions is how many sessions may be open. Records of further ones are not
	// acknowledged. Those that have ended are kept for 10 minutes beside them, as
	// long as there are less than twice as many in all. The default 0 means
	// 2,000,000, which take about 600 MB of memory.
	MaxSessions int `json:"maxSessions"`
}

// RadSec is RADIUS over TLS (RFC 6614), with authentication, accounting and
// Status-Server on one port. Clients show a certificate, and come from an
// address in Clients where there are any. Their Secret does not count: over
// TLS it is "radsec" for all.
type RadSec struct {
	// Port is the TCP port. The default nil means 2083; 0 binds any free port.
	Port *int `json:"port"`
	// Certificate is what clients are shown. It may be left out with
	// [WithTLSConfig].
	Certificate Certificate `json:"certificate"`
	// ClientCAPath is a PEM file with the authorities of clients' certificates.
	// It may be left out with [WithTLSConfig] if that verifies clients.
	ClientCAPath string `json:"clientCaPath"`
	// MaxConnections is how many there may be at a time. The default 0 means
	// 256. One address gets a quarter of them, or 8.
	MaxConnections int `json:"maxConnections"`
}

// Certificate names a server certificate. Written as JSON it is "auto", or an
// object with certPath and keyPath. Files that change are read again within
// seconds, when a client comes; as long as the two do not belong together the
// previous certificate stays in use.
type Certificate struct {
	// Auto takes the certificate from [WithGetCertificate], or in a Router
	// from certificate automation.
	Auto bool `json:"-"`
	// CertPath is a PEM file with the certificate and its chain.
	CertPath string `json:"certPath"`
	// KeyPath is a PEM file with the private key.
	KeyPath string `json:"keyPath"`
}

// Realm is the part of a user name behind its last @. Requests for users of a
// realm, and accounting of them, go to home servers.
type Realm struct {
	// Name is as in "example.com", in any case, or "*" for all realms that
	// have no entry of their own. Required.
	Name string `json:"name" conf:"key"`
	// HomeServers are tried in this order, those first that answer.
	HomeServers []HomeServer `json:"homeServers"`
	// StripRealm sends the user name without @ and realm, with EAP aside, which
	// has the name itself and must agree. MS-CHAPv2 has the name in its proof of
	// the password, so users need to have left the realm out there, or it fails.
	StripRealm bool `json:"stripRealm"`
}

// HomeServer decides about the users of a realm.
type HomeServer struct {
	// Host is its name or address. Required.
	Host string `json:"host" conf:"key"`
	// Port and AccountingPort are its UDP ports. The default 0 means 1812 and
	// 1813.
	Port           int `json:"port" conf:"key"`
	AccountingPort int `json:"accountingPort"`
	// Secret is shared with it. Required.
	Secret Secret `json:"secret"`
	// Timeout is how long an answer may take before the next server is tried.
	// The default 0 means 2 seconds.
	Timeout time.Duration `json:"timeout"`
	// AllowUnsignedReplies takes answers without Message-Authenticator, from
	// servers that are not patched against CVE-2024-3596. The default false
	// treats them as no answer.
	AllowUnsignedReplies bool `json:"allowUnsignedReplies"`
}

// Limits bound what clients and devices may ask of the server. What is over a
// limit is ignored, so that the client asks again, but where they say
// otherwise.
type Limits struct {
	// MaxConcurrent is how many requests may wait for the Authorizer, how many
	// records for the accounting sink and storage, and how many of each for the
	// home servers of a realm: what is slow or down holds up nothing else. Over
	// RadSec they wait for room, in turn with other connections, 256 requests and 256
	// records of a connection, 128 KiB of each; then the next packet is read when one
	// of the requests is answered, and further records are ignored. What waits is
	// given up when the client closes the connection. The default 0 means 256.
	MaxConcurrent int `json:"maxConcurrent"`
	// RateLimit holds for each address of a client. Nil means no limit.
	RateLimit *RateLimit `json:"rateLimit"`
	// MaxFailures is how often a device or user may be rejected at one client
	// in FailureWindow; then it is rejected for the rest of it without asking
	// anyone. The default 0 means 10; -1 means no limit. A user is counted by the
	// device (Calling-Station-Id) where there is one, and may be rejected 10 times
	// as often from all devices together. Who can send from a client's address can
	// use it up for others, unless the client must sign
	// (RequireMessageAuthenticator).
	MaxFailures int `json:"maxFailures"`
	// FailureWindow is the time that MaxFailures counts in. The default 0
	// means a minute.
	FailureWindow time.Duration `json:"failureWindow"`
}

// RateLimit is a token bucket.
type RateLimit struct {
	// RequestsPerSecond is the rate in the long run. Required.
	RequestsPerSecond int `json:"requestsPerSecond"`
	// Burst is how many requests may come at once. The default 0 means
	// RequestsPerSecond.
	Burst int `json:"burst"`
}

func valueOr[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func pointedOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
