package dnsserver

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// Source returns the zone in which records of a name can be made here, with
// final dot. It is an error if there is none: [ErrNoZone], [ErrNotLoaded], or
// because the zone is a copy of another server's, or the name has been delegated
// to others.
func (s *Server) Source(name string) (zone string, err error) {
	z, _, _, err := s.place(name)
	if err != nil {
		return "", err
	}
	return nameText(z.name), nil
}

// Lookup returns the records of a type at a name as they are in the zone: it
// follows no aliases and knows no wildcards. The errors are those of
// [Server.Source].
func (s *Server) Lookup(name, rtype string) ([]Record, error) {
	number, known := typeOf(strings.ToUpper(rtype))
	if strings.EqualFold(rtype, "ALIAS") {
		number, known = typeALIAS, true
	}
	if !known {
		return nil, fmt.Errorf("%.20q is not a known record type", rtype)
	}
	_, version, key, err := s.place(name)
	if err != nil {
		return nil, err
	}
	n := version.nodes.get(key)
	if n == nil {
		return nil, nil
	}
	set := n.set(number)
	if set == nil {
		return nil, nil
	}
	var list []Record
	set.records(version.nameOf(n), func(r record) bool {
		if r.rtype != dns.TypeRRSIG {
			list = append(list, r.public())
		}
		return true
	})
	return list, nil
}

// HasRecords reports whether there are records at a name itself, rather than by a
// wildcard or only below it. The errors are those of [Server.Source].
func (s *Server) HasRecords(name string) (bool, error) {
	_, version, key, err := s.place(name)
	if err != nil {
		return false, err
	}
	n := version.nodes.get(key)
	return n != nil && len(n.sets) > 0, nil
}

// Wildcard returns the wildcard that answers for a name, without final dot: it is
// "" if the name is in the zone itself, also if only because there are names below
// it (RFC 4592 section 2.2.2), or if there is no wildcard for it. The errors are
// those of [Server.Source].
func (s *Server) Wildcard(name string) (string, error) {
	wire, err := wireName(name)
	if err != nil {
		return "", fmt.Errorf("%.60q is %w", name, err)
	}
	_, version, key, err := s.place(name)
	if err != nil || version.nodes.get(key) != nil {
		return "", err
	}
	encloser := version.nodes.get(key)
	for encloser == nil { // the top is there
		wire = wire[1+int(wire[0]):]
		encloser = version.nodes.get(version.nodeKey(wire))
	}
	star := version.nodes.get(encloser.key + starKey)
	if star == nil {
		return "", nil
	}
	return strings.TrimSuffix(nameText(version.nameOf(star)), "."), nil
}

// place finds where the records of a name are.
func (s *Server) place(name string) (*servedZone, *zone, string, error) {
	wire, err := wireName(name)
	if err != nil {
		return nil, nil, "", fmt.Errorf("%.60q is %w", name, err)
	}
	z, err := s.contents.find(wire)
	if err != nil {
		return nil, nil, "", err
	}
	version := z.ref.current.Load()
	if version == nil {
		return nil, nil, "", fmt.Errorf("%s: %w", nameText(z.name), ErrNotLoaded)
	}
	key := version.nodeKey(wire)
	cut := version.cutAbove(key)
	if n := version.nodes.get(key); cut == nil && n != nil && isDelegation(n) {
		cut = n
	}
	switch {
	case z.copy != nil:
		return nil, nil, "", fmt.Errorf("%s: %w", nameText(z.name), errSecondary)
	case cut != nil:
		return nil, nil, "", fmt.Errorf("%s is delegated at %s", nameText(wire), nameText(version.nameOf(cut)))
	}
	return z, version, key, nil
}
