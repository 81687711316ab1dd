package email

import (
	"net/netip"
	"time"
)

// Values of [Event.Kind].
const (
	// Connected is a client that was let in.
	Connected = "connected"
	// Refused is a client, sender, recipient or message that was refused.
	Refused = "refused"
	// SignedIn is a user who signed in, SignInFailed one who could not.
	SignedIn     = "signed-in"
	SignInFailed = "sign-in-failed"
	// Received is a message that was accepted.
	Received = "received"
	// Quarantined is a message that was accepted and is held back.
	Quarantined = "quarantined"
	// Delivered is a message that a mailbox or another server has taken.
	Delivered = "delivered"
	// Deferred is a message that is tried again later, Failed one that is not.
	Deferred = "deferred"
	Failed   = "failed"
	// Expired is a message that was in quarantine, or kept after it failed, for as
	// long as [Queue.KeepHeld] says, and was removed.
	Expired = "expired"
)

// Event is something that happened to a connection or message.
type Event struct {
	Time time.Time
	Kind string
	// ConnID is that of [Client.ID]. MessageID is that of [Message.ID], where
	// there is a message.
	ConnID, MessageID string
	// Client is the client's address.
	Client netip.Addr
	// User is who has signed in or tried to.
	User string
	// From and Recipients are the envelope's, as far as they are known. Of a
	// recipient that was refused, it is that one alone.
	From       string
	Recipients []string
	// Route is the name of the route that decided.
	Route string
	// Reason says why, in words: what stood in the reply, or what another
	// server said.
	Reason string
	// Security is set for what hints at an attack or abuse.
	Security bool
}
