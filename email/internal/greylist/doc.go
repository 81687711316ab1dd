// Package greylist puts off mail from clients that are not known yet (RFC
// 6647): real mail servers try again, much of what sends spam does not.
//
// A delivery is known by the client's network, the sender and the recipient.
// The first attempt and all others within [Config.Delay] are put off; one after
// that is let through, and so are all later ones. A network from which enough
// deliveries came through is not asked to wait any more.
//
// The list is held in memory, bounded, and kept in storage in batches.
package greylist
