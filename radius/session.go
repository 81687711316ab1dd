package radius

import (
	"context"
	"net/netip"
	"time"

	layeh "layeh.com/radius"
)

// Session is what accounting says about the use of a network by one device or
// user. Text is as the NAS wrote it.
type Session struct {
	// Source is the address that its records come from: of the NAS, or of a
	// proxy in between.
	Source netip.Addr `json:"source"`
	// NASIdentifier and NASAddress are how the NAS calls itself.
	NASIdentifier string     `json:"nasIdentifier,omitempty"`
	NASAddress    netip.Addr `json:"nasAddress,omitzero"`
	// NASPort is the port, by number; NASPortID by name.
	NASPort   uint32 `json:"nasPort,omitempty"`
	NASPortID string `json:"nasPortId,omitempty"`
	// ID (Acct-Session-Id), and Class if the Accept had one, tell the NAS's
	// sessions apart.
	ID    string `json:"id"`
	Class []byte `json:"class,omitempty"`
	// UserName is the name that the user or device was let in by.
	UserName string `json:"userName,omitempty"`
	// CallingStationID is the device, CalledStationID the port or wireless
	// network.
	CallingStationID string `json:"callingStationId,omitempty"`
	CalledStationID  string `json:"calledStationId,omitempty"`
	// VLAN is the number or name of the VLAN that the device is in: what its
	// records say, otherwise what it was let in with, otherwise "".
	VLAN string `json:"vlan,omitempty"`
	// FramedIP is the device's address in the network.
	FramedIP netip.Addr `json:"framedIp,omitzero"`
	// Start is when it began, Updated when the last record came, Stopped when
	// it ended, which is zero for open sessions.
	Start   time.Time `json:"start"`
	Updated time.Time `json:"updated"`
	Stopped time.Time `json:"stopped,omitzero"`
	// Duration is how long it has lasted by the NAS's count.
	Duration time.Duration `json:"duration"`
	// InputOctets came from the device, OutputOctets went to it; 64 bits wide
	// (RFC 2869 section 5.1).
	InputOctets   uint64 `json:"inputOctets"`
	OutputOctets  uint64 `json:"outputOctets"`
	InputPackets  uint32 `json:"inputPackets"`
	OutputPackets uint32 `json:"outputPackets"`
	// TerminateCause is why it ended (RFC 2866 section 5.10); 0 is unknown.
	TerminateCause uint32 `json:"terminateCause,omitempty"`
}

// Status is what an accounting record reports (Acct-Status-Type).
type Status uint32

// What records report. A NAS may send others too, which change no session.
const (
	StatusStart   Status = 1
	StatusStop    Status = 2
	StatusInterim Status = 3
	// StatusOn and StatusOff: the NAS has started, or is about to stop. All
	// its sessions are over.
	StatusOn  Status = 7
	StatusOff Status = 8
	// StatusStale is no NAS's: nothing was heard of the session for
	// [Accounting.StaleAfter]. Should it be heard of again, it is open again and
	// the sink is told of that; the counters are those of the whole session.
	StatusStale Status = 1 << 31
)

// Record is an accounting record.
type Record struct {
	Status Status
	// Client is the name of the client as configured, or "".
	Client string
	// Time is when it happened: Event-Timestamp, or without it now, less
	// Acct-Delay-Time.
	Time time.Time
	// Session is the state of the session with this record. Of StatusOn and
	// StatusOff it names the NAS only.
	Session Session
	// Closed are the sessions that StatusOn and StatusOff end, in the state
	// that was last reported.
	Closed []Session
	// Packet is the request as it came; nil for StatusStale. Its Secret is
	// empty.
	Packet *layeh.Packet
}

// An AccountingSink is told of each accounting record before it is stored and
// acknowledged. If it fails the record is neither, and the NAS sends it again,
// so it may have to do with a record twice, which then has the same Session
// fields NASIdentifier, NASAddress, ID, Class and Duration, and the same
// Status. It is called concurrently, at most [Limits.MaxConcurrent] at a time;
// records of one NAS that did not wait for its acknowledgements may come in
// another order.
type AccountingSink func(ctx context.Context, r *Record) error
