package email

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/scan"
)

// change does what scanners want to have done with fields of the header that they
// were shown. The new form of a field stands in front of all. Where two scanners
// change the same field, the later in the configuration has its way.
func (m *incoming) change(shown message.Header, changes []scan.Change) {
	if len(changes) == 0 {
		return
	}
	var front []byte
	add := func(f scan.Field) {
		if f.Value != "" {
			front = fmt.Appendf(front, "%s: %s\r\n", f.Name, f.Value)
		}
	}
	changed := make(map[int]scan.Field) // by the index of the field
	for _, c := range changes {
		meant := find(shown, c.Name, c.Index)
		if len(meant) == 0 {
			add(c.Field)
		}
		for _, i := range meant {
			changed[i] = c.Field
		}
	}
	env := &m.tx.env
	var prefix []byte // what stays of it
	var cuts []span
	at, ours := int64(0), int64(len(env.Prefix))
	for i, f := range shown {
		start := at
		at += int64(len(f.Raw))
		field, gone := changed[i]
		if gone = gone && (start >= ours || !isTrace(f.Name)); gone {
			add(field)
		}
		switch {
		case start < ours && !gone:
			prefix = append(prefix, f.Raw...)
		case start >= ours && gone:
			cuts = append(cuts, uncut(span{start - ours, at - ours}, env.Cuts))
		}
	}
	if at < ours {
		prefix = append(prefix, env.Prefix[at:]...) // the end of a header that is all ours
	}
	env.Prefix = append(front, prefix...)
	env.Cuts = append(slices.Clone(env.Cuts), cuts...)
	slices.SortFunc(env.Cuts, func(a, b span) int { return int(a.Start - b.Start) })
}

// isTrace knows the fields by which others see how a message came. Milters that
// verify take away those of our name, and would take ours for forged ones.
func isTrace(name string) bool {
	return strings.EqualFold(name, "Received") || strings.EqualFold(name, "Authentication-Results")
}

// find returns the indexes of the fields that a change is about.
func find(h message.Header, name string, n int) (list []int) {
	for i, f := range h {
		if strings.EqualFold(f.Name, name) {
			list = append(list, i)
		}
	}
	if n < 0 {
		n += len(list) + 1
		if n <= 0 {
			return nil
		}
	}
	switch {
	case n == 0:
		return list
	case n <= len(list):
		return list[n-1 : n]
	}
	return nil
}

// uncut finds where a range of what cuts have left was before. The cuts are in
// order, and none is in the middle of the range.
func uncut(s span, cuts []span) span {
	for _, c := range cuts {
		if c.Start > s.Start {
			break
		}
		s.Start += c.End - c.Start
		s.End += c.End - c.Start
	}
	return s
}
