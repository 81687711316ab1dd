package dnsserver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// Tx is changes of records that take effect together, in the order given: each
// zone that they concern has them all or none. The zero Tx changes nothing.
//
//	tx := new(dnsserver.Tx)
//	tx.Set(dnsserver.Record{Name: "www.example.com", Type: "A", Value: "192.0.2.2", TTL: 60})
//	err := server.Update(ctx, tx)
type Tx struct {
	steps []step
}

type stepKind int

const (
	addStep stepKind = iota
	removeStep
	clearStep // takes out a set, or all there is at a name
)

type step struct {
	kind   stepKind
	record Record
}

// Add adds records beside those there are. A record that is there already is
// left as it is, but for its TTL, which all records of a name and type take
// over.
func (tx *Tx) Add(records ...Record) { tx.append(addStep, records) }

// Remove takes records out. With an empty Value it takes out all of the name
// and type, and with an empty Type too all of the name. What is not there is
// no error.
func (tx *Tx) Remove(records ...Record) {
	for _, r := range records {
		kind := removeStep
		if r.Value == "" {
			kind = clearStep
		}
		tx.steps = append(tx.steps, step{kind, r})
	}
}

// Set puts records in the place of all that have their names and types.
func (tx *Tx) Set(records ...Record) {
	for _, r := range records {
		tx.steps = append(tx.steps, step{clearStep, Record{Name: r.Name, Type: r.Type}})
	}
	tx.append(addStep, records)
}

func (tx *Tx) append(kind stepKind, records []Record) {
	for _, r := range records {
		tx.steps = append(tx.steps, step{kind, r})
	}
}

// change is a step that has been read.
type change struct {
	kind   stepKind
	record record // rtype 0: any
}

// read checks all steps, and names each that is wrong.
func (tx *Tx) read() ([]change, error) {
	var list []change
	var errs []error
	for _, s := range tx.steps {
		c, err := s.read()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", s.record.Name, s.record.Type, err))
			continue
		}
		list = append(list, c)
	}
	return list, errors.Join(errs...)
}

func (s *step) read() (change, error) {
	if s.record.TTL < 0 || s.record.TTL > 1<<31-1 {
		return change{}, fmt.Errorf("a TTL of %d is not between 0 and 2147483647", s.record.TTL) // RFC 2181 section 8
	}
	if s.kind != clearStep {
		r, err := s.record.pack()
		if err == nil && ownType(r.rtype) {
			err = errOwnType
		}
		return change{s.kind, r}, err
	}
	name, err := wireName(s.record.Name)
	if err != nil {
		return change{}, err
	}
	c := change{clearStep, record{name: name}}
	switch text := strings.ToUpper(s.record.Type); text {
	case "":
	case "ALIAS":
		c.record.rtype = typeALIAS
	default:
		known := false
		if c.record.rtype, known = typeOf(text); !known {
			return change{}, fmt.Errorf("%.20q is not a known record type", s.record.Type)
		}
		if ownType(c.record.rtype) {
			return change{}, errOwnType
		}
	}
	return c, nil
}

var errOwnType = errors.New("records of this type are made by the server")

// ownType reports whether records of a type come from signing alone.
func ownType(rtype uint16) bool {
	switch rtype {
	case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM:
		return true
	}
	return false
}

// keyType reports whether records of a type are made from the keys of a signed
// zone.
func keyType(rtype uint16) bool {
	return rtype == dns.TypeDNSKEY || rtype == dns.TypeCDS || rtype == dns.TypeCDNSKEY
}

// apply makes a change. What takes out all of a name leaves the SOA and NS records
// at the top of a zone, as in RFC 2136 section 3.4.2.3, and what signing made there. They may go by their type,
// if others come in their place.
func (e *zoneEdit) apply(c *change) {
	r := &c.record
	switch c.kind {
	case addStep:
		e.add(r)
	case removeStep:
		e.remove(r.name, r.rtype, r.data)
	case clearStep:
		key := e.nodeKey(r.name)
		n := e.node(key)
		if n == nil {
			return
		}
		for _, set := range n.sets {
			all := r.rtype == 0 && !ownType(set.rtype) && (key != "" || set.rtype != dns.TypeSOA && set.rtype != dns.TypeNS && !(e.denial != nil && keyType(set.rtype)))
			if set.rtype == r.rtype || all {
				e.replace(key, rrset{rtype: set.rtype})
			}
		}
	}
}
