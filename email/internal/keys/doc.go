// Package keys looks after the DKIM keys (RFC 6376, RFC 8463) of mail domains,
// from their making to the end of their records.
//
// Each domain has an RSA key and an Ed25519 key, and mail gets a signature by
// both: not all receivers know the second kind (RFC 8463 section 3). A key goes
// through these states:
//
//	pending    its record is not known to be in DNS yet
//	published  its record is there; it waits until everybody can see it
//	active     it signs
//	retiring   a newer key signs; the record stays for mail on its way
//	revoked    the record says so (an empty p=), and the private key is gone
//
// and then it is forgotten. So a domain whose new record nobody puts into DNS
// goes on to sign with its old key, and mail that was signed before a rotation
// can be verified as long as it may wait in a queue.
//
// The keys of a domain are one value in the storage, as one takes over from the
// other in one step. Several Managers may share a storage: who changes keys
// holds a lease, and the others take over what it has changed.
package keys
