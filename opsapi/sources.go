package opsapi

import (
	"context"
	"encoding/json"
	"time"
)

// What follows is what a Server asks of its host. All of it is optional: methods
// whose source is missing answer with CodeNotConfigured. Sources are called from
// several goroutines. They return [ErrNotFound] for what there is not, and
// [FieldError]s for what is wrong with what they were given, with paths from the
// top of it.

// Configuration is the configuration that the host runs by. Documents are JSON
// in one canonical form, so that equal configurations are equal bytes; secrets
// are in them unless said otherwise.
type Configuration interface {
	// Given returns the configuration that the host was started with. When it is
	// another one than at the start before, and something was changed through the API
	// since that, it replaces all that was changed, by the host, too.
	Given(ctx context.Context) (json.RawMessage, error)
	// Current returns the configuration in force. After Apply it is what was
	// applied.
	Current(ctx context.Context) (json.RawMessage, error)
	// Parse reads what a client sent, strictly, and validates it. A secret that is
	// *** is the one at the same place of prev. [IdentityFrom] of ctx says who the
	// client is, should there be what operators must not put into routes, such as
	// files of the machine by which they would become admins. It also reads what an
	// earlier version of the host has returned, doc and prev being the same, and
	// without a client: what means the same comes back as the same bytes.
	Parse(ctx context.Context, doc, prev json.RawMessage) (json.RawMessage, error)
	// Redact returns doc with *** for secrets.
	Redact(doc json.RawMessage) (json.RawMessage, error)
	// Apply makes doc take effect, all of it, or nothing and an error.
	Apply(ctx context.Context, doc json.RawMessage) error
}

// Component is a part of the host and how it is.
type Component struct {
	Name string `json:"name"`
	// Ready is whether it does its work.
	Ready bool `json:"ready"`
	// Detail is for people who have signed in.
	Detail string `json:"detail,omitempty"`
	// Addresses are what it listens on; for people who have signed in.
	Addresses []string `json:"addresses,omitempty"`
}

// Limit is a limit of the host that is in force.
type Limit struct {
	// Name is the path of its field in the configuration.
	Name string `json:"name" doc:"the path of its field in the configuration"`
	// Value is the limit, in Unit; 0 means that there is none.
	Value int64 `json:"value" doc:"0 means that there is none"`
	// Unit is what Value counts.
	Unit string `json:"unit"`
	// From says where Value comes from.
	From string `json:"from" doc:"section, limits or default"`
	// Used is how much of Value is taken now. Nil means that it is not counted.
	Used *int64 `json:"used,omitempty" doc:"absent where it is not counted"`
	// Reached is how often something was refused. Nil means that it is not counted.
	Reached *uint64 `json:"reached,omitempty" doc:"how often something was refused; absent where it is not counted"`
}

// Page asks for a part of a list.
type Page struct {
	// Search is text that an element must contain, of at most 256 bytes; "" takes all.
	Search string
	// Limit is the most elements that are returned, 1 or more.
	Limit int
	// After is the next of the page before, or "".
	After string
}

// States of a [QueuedMessage].
const (
	StateQueued     = "queued"     // to be tried for the first time
	StateDeferred   = "deferred"   // to be tried again
	StateQuarantine = "quarantine" // held back
	StateFailed     = "failed"     // given up
)

// QueuedMessage is a message of the mail system.
type QueuedMessage struct {
	ID         string            `json:"id"`
	ConnID     string            `json:"connId,omitempty" doc:"the connection that brought it, as in the log; of a bounce that of the message that it is about"`
	From       string            `json:"from" doc:"the envelope's sender, empty for bounces"`
	Recipients []QueuedRecipient `json:"recipients"`
	Size       int64             `json:"size" doc:"of the content, in bytes"`
	Arrived    time.Time         `json:"arrived"`
	Next       time.Time         `json:"next,omitzero" doc:"when it is tried again, or removed if it is held back or given up"`
	Tries      int               `json:"tries"`
	State      string            `json:"state" doc:"queued, deferred, quarantine or failed"`
	Reason     string            `json:"reason,omitempty" doc:"why it is in this state"`
}

// QueuedRecipient is a recipient of a message.
type QueuedRecipient struct {
	Address string `json:"address"`
	Route   string `json:"route,omitempty" doc:"the route that took the recipient"`
	State   string `json:"state" doc:"pending, delivered or failed"`
	Reply   string `json:"reply,omitempty" doc:"what was said last when it was tried"`
}

// MessageEvent is a step in the life of a message.
type MessageEvent struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Recipient string    `json:"recipient,omitempty"`
	Host      string    `json:"host,omitempty"`
	Text      string    `json:"text"`
}

// MessageDetail is all about a message.
type MessageDetail struct {
	// Message is nil for one that is in the queue no more.
	Message *QueuedMessage `json:"message,omitempty"`
	// Timeline is what happened to it, the oldest first.
	Timeline []MessageEvent `json:"timeline"`
	// Headers is the header of the message as it is, or "".
	Headers string `json:"headers,omitempty"`
}

// MailQueue is the queue of the mail system.
type MailQueue interface {
	// Messages lists messages in the state, or all for "".
	Messages(ctx context.Context, state string, p Page) (list []QueuedMessage, next string, err error)
	// Message returns one, also one that is finished and still remembered.
	Message(ctx context.Context, id string) (MessageDetail, error)
	// Retry has it tried now, Drop removes it, Release lets one go that is held
	// back, Quarantine holds one back.
	Retry(ctx context.Context, id string) error
	Drop(ctx context.Context, id string) error
	Release(ctx context.Context, id string) error
	Quarantine(ctx context.Context, id, reason string) error
}

// Suppressed is an address that no mail is sent to.
type Suppressed struct {
	Address string    `json:"address"`
	Reason  string    `json:"reason"`
	Detail  string    `json:"detail,omitempty"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires,omitzero"`
}

// Suppression is the list of addresses that no mail is sent to.
type Suppression interface {
	Suppressed(ctx context.Context, p Page) (list []Suppressed, next string, err error)
	Suppress(ctx context.Context, s Suppressed) error
	Unsuppress(ctx context.Context, address string) error
}

// MailDomain is a domain of the mail system, and what its DNS should say.
type MailDomain struct {
	Domain string `json:"domain"`
	Mode   string `json:"mode" doc:"who has its DNS"`
	// Ready is whether all records are as they should be.
	Ready   bool         `json:"ready"`
	Records []MailRecord `json:"records"`
}

// MailRecord is a record that a [MailDomain] should have.
type MailRecord struct {
	Name  string   `json:"name"`
	Type  string   `json:"type"`
	Value string   `json:"value"`
	State string   `json:"state" doc:"ok, missing, differs or unknown"`
	Found []string `json:"found,omitempty" doc:"what is there instead"`
}

// MailDomains tells about the domains of the mail system.
type MailDomains interface {
	MailDomains(ctx context.Context) ([]MailDomain, error)
}

// Reputation is what others say about an address.
type Reputation struct {
	Address  string    `json:"address"`
	Blocked  bool      `json:"blocked"`
	Score    float64   `json:"score"`
	Reason   string    `json:"reason,omitempty"`
	Listings []Listing `json:"listings"`
}

// Listing is a list that an address is on.
type Listing struct {
	List   string `json:"list"`
	Detail string `json:"detail,omitempty"`
}

// ReputationSource tells about addresses.
type ReputationSource interface {
	CheckReputation(ctx context.Context, address string) (Reputation, error)
}

// Zone is a zone of the DNS server.
type Zone struct {
	Name   string `json:"name"`
	Serial uint32 `json:"serial"`
	Loaded bool   `json:"loaded" doc:"whether it is served"`
	Names  int    `json:"names" doc:"how many it has"`
	Signed bool   `json:"signed" doc:"by DNSSEC"`
}

// Record is a record of the DNS server.
type Record struct {
	Name  string `json:"name" doc:"the fully qualified owner name"`
	Type  string `json:"type"`
	Value string `json:"value" doc:"the data as in a zone file"`
	TTL   int    `json:"ttl" doc:"in seconds"`
}

// RecordChanges are changes of records that are made together or not at all.
type RecordChanges struct {
	Set    []Record `json:"set" doc:"in place of all of the same name and type"`
	Add    []Record `json:"add"`
	Remove []Record `json:"remove" doc:"without a value all of the type, without a type all of the name"`
}

// DNS is the DNS server.
type DNS interface {
	Zones(ctx context.Context) ([]Zone, error)
	Records(ctx context.Context, zone string, p Page) (list []Record, next string, err error)
	UpdateRecords(ctx context.Context, changes RecordChanges) error
}

// Certificate is a certificate in use, or one that there should be.
type Certificate struct {
	Name       string    `json:"name"`
	Source     string    `json:"source" doc:"acme, local (localCa) or self-signed"`
	State      string    `json:"state" doc:"valid, expiring, expired, missing or failing"`
	Issuer     string    `json:"issuer,omitempty"`
	NotBefore  time.Time `json:"notBefore,omitzero"`
	NotAfter   time.Time `json:"notAfter,omitzero"`
	Challenge  string    `json:"challenge,omitempty" doc:"by which the name was proven to be ours"`
	InProgress bool      `json:"inProgress,omitempty" doc:"whether one is being obtained"`
	Failures   int       `json:"failures,omitempty" doc:"in a row"`
	LastError  string    `json:"lastError,omitempty"`
	NextTry    time.Time `json:"nextTry,omitzero"`
}

// Certificates tells about certificates.
type Certificates interface {
	Certificates(ctx context.Context) ([]Certificate, error)
	// Renew has a new one obtained now.
	Renew(ctx context.Context, name string) error
}

// RADIUSSession is somebody's use of a network.
type RADIUSSession struct {
	// Key names the session for Disconnect.
	Key              string    `json:"key"`
	ID               string    `json:"id" doc:"Acct-Session-Id"`
	Source           string    `json:"source" doc:"the address that its records come from"`
	NASIdentifier    string    `json:"nasIdentifier,omitempty"`
	NASAddress       string    `json:"nasAddress,omitempty"`
	NASPort          string    `json:"nasPort,omitempty"`
	UserName         string    `json:"userName,omitempty"`
	CallingStationID string    `json:"callingStationId,omitempty"`
	CalledStationID  string    `json:"calledStationId,omitempty"`
	FramedIP         string    `json:"framedIp,omitempty"`
	VLAN             int       `json:"vlan,omitempty"`
	VLANName         string    `json:"vlanName,omitempty" doc:"of a VLAN that is known by its name"`
	Start            time.Time `json:"start"`
	Updated          time.Time `json:"updated"`
	DurationSeconds  int64     `json:"durationSeconds"`
	InputOctets      uint64    `json:"inputOctets" doc:"from the device"`
	OutputOctets     uint64    `json:"outputOctets" doc:"to the device"`
}

// RADIUSClient is a network access server.
type RADIUSClient struct {
	Name     string    `json:"name"`
	Address  string    `json:"address" doc:"an address or a network"`
	Requests uint64    `json:"requests"`
	Accepts  uint64    `json:"accepts"`
	Rejects  uint64    `json:"rejects"`
	Dropped  uint64    `json:"dropped"`
	LastSeen time.Time `json:"lastSeen,omitzero"`
}

// RADIUS is the RADIUS server.
type RADIUS interface {
	Sessions(ctx context.Context, p Page) (list []RADIUSSession, next string, err error)
	Clients(ctx context.Context) ([]RADIUSClient, error)
	// Disconnect ends the session.
	Disconnect(ctx context.Context, key string) error
}
