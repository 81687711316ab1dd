package dnsserver

import "iter"

// denial proves, in a signed zone, that something does not exist (RFC 4035
// section 3.1.3). Its methods add records with their signatures to the
// authority section of a response.
type denial interface {
	// noData is for a name that exists, but not with the type asked for. n is
	// its node, which may have no records at all.
	noData(m *message, z *zone, n *node)
	// noName is for a name that does not exist, of which encloser is the nearest
	// one above that does. key is the name's.
	noName(m *message, z *zone, key []byte, encloser *node)
	// wildcard is for an answer made from the wildcard below encloser: there is
	// no better name. found is false if the wildcard has no such type.
	wildcard(m *message, z *zone, key []byte, encloser, star *node, found bool)
	// insecure is for a delegation without DS records.
	insecure(m *message, z *zone, cut *node)
	// records are those that belong to no node, for transfers: NSEC3.
	records(z *zone) iter.Seq[record]
}
