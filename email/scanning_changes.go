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
		if i := nth(shown, c.Name, c.Index); i >= 0 {
			changed[i] = c.Field
		} else {
			add(c.Field)
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
		if gone {
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

// nth returns the index of the n-th field of this name, counted from 1, or -1.
func nth(h message.Header, name string, n int) int {
	for i, f := range h {
		if strings.EqualFold(f.Name, name) {
			if n--; n == 0 {
				return i
			}
		}
	}
	return -1
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
