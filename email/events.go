package email

import (
	"net/netip"
	"time"
)

// Values of [Event.Kind].
const (
	// EventConnected is a client that was let in.
	EventConnected = "connected"
	// EventRefused is a client, sender, recipient or message that was refused.
	EventRefused = "refused"
	// EventSignedIn is a user who signed in, EventSignInFailed one who could not.
	EventSignedIn     = "signed-in"
	EventSignInFailed = "sign-in-failed"
	// EventReceived is a message that was accepted.
	EventReceived = "received"
	// EventQuarantined is a message that was accepted and is held back.
	EventQuarantined = "quarantined"
	// EventDelivered is a message that a mailbox or another server has taken.
	EventDelivered = "delivered"
	// EventDeferred is a message that is tried again later, EventFailed one that is not.
	EventDeferred = "deferred"
	EventFailed   = "failed"
	// EventReleased is a message that [Server.Release] has let out of quarantine.
	EventReleased = "released"
	// EventDropped is a message that was removed from the spool by [Server.Drop].
	EventDropped = "dropped"
	// EventDelayed is a message whose sender was told that it is still on its way.
	EventDelayed = "delayed"
	// EventBounced is a message that was delivered, and whose recipient's server has
	// reported later that it could not keep it.
	EventBounced = "bounced"
	// EventComplained is a message whose recipient has called it spam (RFC 5965).
	EventComplained = "complained"
	// EventExpired is a message that was in quarantine, or kept after it failed, for as
	// long as [Queue.KeepHeld] says, and was removed.
	EventExpired = "expired"
)

// Event is something that happened to a connection or message.
type Event struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	// ConnID is that of [Client.ID]. MessageID is that of [Message.ID], where
	// there is a message.
	ConnID    string `json:"connId,omitempty"`
	MessageID string `json:"messageId,omitempty"`
	// Client is the client's address.
	Client netip.Addr `json:"client,omitzero"`
	// User is who has signed in or tried to.
	User string `json:"user,omitempty"`
	// From and Recipients are the envelope's, as far as they are known. Of a
	// recipient that was refused, it is that one alone.
	From       string   `json:"from,omitempty"`
	Recipients []string `json:"recipients,omitempty"`
	// Route is the name of the route that decided.
	Route string `json:"route,omitempty"`
	// Reason says why, in words: what stood in the reply, or what another
	// server said, of which it has the first 1000 bytes.
	Reason string `json:"reason,omitempty"`
	// Cause is what [Stats.Refused] counts a refusal as, otherwise "".
	Cause string `json:"cause,omitempty"`
	// Status is the enhanced status code that came with it (RFC 3463), or "".
	Status string `json:"status,omitempty"`
	// Class says of what failed why: "hard" means that there is no such recipient,
	// "soft" that it may work another time, "block" that the mail or its sender is
	// not wanted. Otherwise it is "".
	Class string `json:"class,omitempty"`
	// Metadata is that of the [Email].
	Metadata map[string]string `json:"metadata,omitempty"`
	// Security is set for what hints at an attack or abuse.
	Security bool `json:"security,omitempty"`
}
