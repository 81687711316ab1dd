package dnsserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// journal keeps what has been changed in a zone while it was served, apart from
// the file and the configuration that it began with: for each set of records
// that was changed, what it is now. So both may change without getting in each
// other's way, and a set changed at run time stays as it was made.
//
// Each change is a value of its own, dns/zones/{zone}/journal/{number}. From time
// to time they are folded into dns/zones/{zone}/changes/{generation}-{part}, and
// dns/zones/{zone}/state says which of these count.
type journal struct {
	store  *storage.Store // nil: nothing is kept
	prefix string
	state  journalState
	next   uint64 // number of the next change
	before uint64 // changes from this number on are not read; 0 reads all
	// unkept is set if since the state was written a version was served that has
	// something that is not kept, so that it cannot be made again.
	unkept bool
}

type journalState struct {
	Serial     uint32 `json:"serial"`     // when this was written
	Base       string `json:"base"`       // hash of what the zone began with; empty if what was served had more
	Folded     uint64 `json:"folded"`     // the last change that the parts contain
	Generation uint64 `json:"generation"` // of the parts
	Parts      int    `json:"parts"`
}

const (
	foldAfter = 1024    // changes
	partSize  = 4 << 20 // octets
)

func newJournal(store *storage.Store, zone string) journal {
	return journal{store: store, prefix: "dns/zones/" + zoneFolder(zone)}
}

// zoneFolder is the part of the names in storage that stands for a zone.
func zoneFolder(zone string) string {
	name := strings.TrimSuffix(nameText(zone), ".")
	if name == "" {
		name = "@root"
	}
	return url.PathEscape(name) + "/"
}

// append keeps a change of the zone, and its serial number. That alone says of a
// change without sets that there was something else.
func (j *journal) append(ctx context.Context, z *zone, changed []setChange) error {
	if j.store == nil {
		return nil
	}
	text := fmt.Appendf(nil, "serial %d\n", z.serial())
	for i := range changed {
		c := &changed[i]
		rtype := c.after.rtype
		if c.after.count == 0 {
			rtype = c.before.rtype
		}
		name := string(append(appendLabels(nil, c.key), z.name...))
		text = appendSet(text, name, rtype, &c.after)
	}
	if err := j.store.Put(ctx, j.key(j.next), text); err != nil {
		return fmt.Errorf("keeping the change: %w", err)
	}
	j.next++
	j.unkept = j.unkept || len(changed) == 0
	return nil
}

func (j *journal) key(number uint64) string { return fmt.Sprintf("%sjournal/%016d", j.prefix, number) }

// appendSet appends a set as lines: what it is, then its records.
func appendSet(text []byte, name string, rtype uint16, set *rrset) []byte {
	text = fmt.Appendf(text, "set %s %s\n", nameText(name), dns.Type(rtype))
	for data := range set.data() {
		r := record{name, rtype, set.ttl(), data}
		text = append(append(text, r.text()...), '\n')
	}
	return text
}

// keptSet is a set as it was read.
type keptSet struct {
	name  string // wire
	rtype uint16
	ttl   uint32
	data  []string
}

// parseSets is the reverse of appendSet, for several sets and a serial number.
func parseSets(text []byte, set func(keptSet)) (serial uint32, err error) {
	var now *keptSet
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		words := strings.Fields(string(line))
		switch {
		case len(words) == 2 && words[0] == "serial":
			n, err := strconv.ParseUint(words[1], 10, 32)
			if err != nil {
				return 0, err
			}
			serial = uint32(n)
		case len(words) == 3 && words[0] == "set":
			if now != nil {
				set(*now)
			}
			now = new(keptSet)
			if now.name, err = wireName(words[1]); err != nil {
				return 0, err
			}
			var known bool
			if now.rtype, known = typeOf(words[2]); !known {
				return 0, fmt.Errorf("%.20q is no record type", words[2])
			}
		default:
			r, err := parseText(string(line))
			if err != nil {
				return 0, err
			}
			if now == nil || r.name != now.name || r.rtype != now.rtype {
				return 0, fmt.Errorf("%.60q is out of place", line)
			}
			now.ttl, now.data = r.ttl, append(now.data, r.data)
		}
	}
	if now != nil {
		set(*now)
	}
	return serial, nil
}

// typeOf reads a record type by its mnemonic, or as RFC 3597 writes it.
func typeOf(text string) (uint16, bool) {
	if t, ok := dns.StringToType[text]; ok {
		return t, true
	}
	number, ok := strings.CutPrefix(text, "TYPE")
	n, err := strconv.ParseUint(number, 10, 16)
	return uint16(n), ok && err == nil
}

// load reads what is kept. It returns the serial number that the zone had last,
// or false if nothing is known of it.
func (j *journal) load(ctx context.Context, set func(keptSet)) (serial uint32, known bool, err error) {
	if j.store == nil {
		return 0, false, nil
	}
	text, err := j.store.Get(ctx, j.prefix+"state")
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return 0, false, err
	default:
		if err := json.Unmarshal(text, &j.state); err != nil {
			return 0, false, fmt.Errorf("%sstate: %w", j.prefix, err)
		}
		known = true
	}
	read := func(key string) error {
		text, err := j.store.Get(ctx, key)
		if err != nil {
			return err
		}
		empty := true
		n, err := parseSets(text, func(s keptSet) {
			empty = false
			set(s)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		j.unkept = j.unkept || empty
		if n != 0 {
			serial, known = n, true
		}
		return nil
	}
	serial = j.state.Serial
	for i := range j.state.Parts {
		if err := read(j.part(j.state.Generation, i)); err != nil {
			return 0, false, err
		}
	}
	numbers, err := j.numbers(ctx)
	if err != nil {
		return 0, false, err
	}
	j.next = j.state.Folded + 1
	for _, n := range numbers {
		if n > j.state.Folded && (j.before == 0 || n < j.before) {
			if err := read(j.key(n)); err != nil {
				return 0, false, err
			}
			j.next = n + 1
		}
	}
	return serial, known, nil
}

func (j *journal) part(generation uint64, i int) string {
	return fmt.Sprintf("%schanges/%d-%d", j.prefix, generation, i)
}

// numbers returns the numbers of the changes that there are, in order.
func (j *journal) numbers(ctx context.Context) ([]uint64, error) {
	var list []uint64
	for key, err := range j.store.List(ctx, j.prefix+"journal/") {
		if err != nil {
			return nil, err
		}
		if n, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 10, 64); err == nil {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}

// fold writes all that is kept anew, sets once each, in the place of the changes
// one by one, which are left to tidy. If it is interrupted nothing is lost: the
// state comes last. base is the hash of what the zone began with, or empty if
// that and what is kept do not make what is served under the serial number.
func (j *journal) fold(ctx context.Context, base string, serial uint32) error {
	if j.store == nil {
		return nil
	}
	type setKey struct {
		name  string
		rtype uint16
	}
	sets := make(map[setKey]keptSet)
	// A change that was refused because the storage failed may be there all the
	// same. The next one is going to take its place.
	again := journal{store: j.store, prefix: j.prefix, before: j.next}
	if _, _, err := again.load(ctx, func(s keptSet) { sets[setKey{s.name, s.rtype}] = s }); err != nil {
		return err
	}
	state := journalState{Serial: serial, Base: base, Folded: again.next - 1, Generation: again.state.Generation + 1}
	var text []byte
	write := func() error {
		if len(text) == 0 {
			return nil
		}
		state.Parts++
		err := j.store.Put(ctx, j.part(state.Generation, state.Parts-1), text)
		text = text[:0]
		return err
	}
	for _, s := range sets {
		set := newSet(s.rtype, s.ttl, s.data)
		if text = appendSet(text, s.name, s.rtype, &set); len(text) > partSize {
			if err := write(); err != nil {
				return err
			}
		}
	}
	if err := write(); err != nil {
		return err
	}
	encoded, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := j.store.Put(ctx, j.prefix+"state", encoded); err != nil {
		return err
	}
	j.state, j.unkept = state, false
	return nil
}

// tidy deletes what fold has made superfluous, be it one before that was cut
// short. Nothing reads it any more.
func (j *journal) tidy(ctx context.Context) error {
	if j.store == nil {
		return nil
	}
	numbers, err := j.numbers(ctx)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n <= j.state.Folded {
			if err := j.store.Delete(ctx, j.key(n)); err != nil {
				return err
			}
		}
	}
	counts := make(map[string]bool)
	for i := range j.state.Parts {
		counts[j.part(j.state.Generation, i)] = true
	}
	var old []string
	for key, err := range j.store.List(ctx, j.prefix+"changes/") {
		if err != nil {
			return err
		}
		if !counts[key] {
			old = append(old, key)
		}
	}
	for _, key := range old {
		if err := j.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
