package radius

import "github.com/dcrouter/dcrouter/internal/conf"

// Secret is a shared secret. It prints as *** wherever it is shown; its Reveal
// method gives the value.
type Secret = conf.Secret

// FieldError is a mistake in a configuration, with the path of its field.
type FieldError = conf.FieldError

// Default ports, of RFC 2865 section 3 and RFC 2866 section 3.
const (
	DefaultPort           = 1812
	DefaultAccountingPort = 1813
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
	// Clients are the switches and access points that may ask. Empty means any
	// that knows Secret.
	Clients []Client `json:"clients"`
	// MACAuth admits devices by their MAC address (MAC authentication bypass).
	// Nil means that VLANAssignment alone decides.
	MACAuth *MACAuth `json:"macAuth"`
	// VLANAssignment says which VLAN a device gets: the first rule that
	// matches its MAC address decides. What becomes of a device that no rule
	// matches MACAuth says; without it the device is rejected.
	VLANAssignment []VLANRule `json:"vlanAssignment"`
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
	// against forged answers (CVE-2024-3596). The default nil means from the
	// client's first request that has one on.
	RequireMessageAuthenticator *bool `json:"requireMessageAuthenticator"`
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
}

// VLANRule assigns a VLAN.
type VLANRule struct {
	// Match says which devices it is for.
	Match VLANMatch `json:"match"`
	// VLAN is 1 to 4094 (IEEE 802.1Q). Required.
	VLAN int `json:"vlan"`
}

// VLANMatch describes devices. Exactly one field is given.
type VLANMatch struct {
	// MAC is an address or a prefix, as in AllowedMACs.
	MAC string `json:"mac"`
	// Default matches any device. The rule comes last.
	Default bool `json:"default"`
}
