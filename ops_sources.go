package dcrouter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/radius"
)

// maxShownHeader bounds what is shown of a message, in bytes.
const maxShownHeader = 64 << 10

// page collects the part of a sequence that is asked for: the elements with the
// least keys after p.After.
type page[T any] struct {
	p    opsapi.Page
	keys []string
	list []T
}

// add takes an element, unless it is on another page or has not the text that
// is searched.
func (g *page[T]) add(key string, item T, text ...string) {
	if key <= g.p.After || !matches(g.p.Search, text...) {
		return
	}
	at, _ := slices.BinarySearch(g.keys, key)
	if at > g.p.Limit { // one more than asked for tells whether there is a next page
		return
	}
	g.keys, g.list = slices.Insert(g.keys, at, key), slices.Insert(g.list, at, item)
	if len(g.keys) > g.p.Limit+1 {
		g.keys, g.list = g.keys[:g.p.Limit+1], g.list[:g.p.Limit+1]
	}
}

func (g *page[T]) result() (list []T, next string) {
	if len(g.list) <= g.p.Limit {
		return g.list, ""
	}
	return g.list[:g.p.Limit], g.keys[g.p.Limit-1]
}

func matches(search string, text ...string) bool {
	if search == "" {
		return true
	}
	return slices.ContainsFunc(text, func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(search)) })
}

// opsLimits are the limits for the operations API.
func (r *Router) opsLimits() []opsapi.Limit {
	var list []opsapi.Limit
	for _, l := range r.Limits() {
		list = append(list, opsapi.Limit(l))
	}
	return list
}

// opsReputation asks the block lists of the mail system for the operations API.
type opsReputation struct{ checker *email.ReputationChecker }

func (o opsReputation) CheckReputation(ctx context.Context, address string) (opsapi.Reputation, error) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return opsapi.Reputation{}, err
	}
	known, err := o.checker.Check(ctx, addr)
	if err != nil {
		return opsapi.Reputation{}, err
	}
	rep := opsapi.Reputation{Address: address, Blocked: known.Blocked, Score: known.Score, Reason: known.Reason}
	for _, l := range known.Listings {
		rep.Listings = append(rep.Listings, opsapi.Listing{List: l.Provider, Detail: l.Text})
	}
	return rep, nil
}

// opsDNS is the DNS server for the operations API.
type opsDNS struct{ server *dnsserver.Server }

func (d opsDNS) Zones(context.Context) ([]opsapi.Zone, error) {
	var list []opsapi.Zone
	for _, z := range d.server.Zones() {
		keys, err := d.server.Keys(z.Name)
		list = append(list, opsapi.Zone{Name: z.Name, Serial: z.Serial, Loaded: z.Loaded, Names: z.Names, Signed: err == nil && len(keys) > 0})
	}
	return list, nil
}

func (d opsDNS) Records(_ context.Context, zone string, p opsapi.Page) ([]opsapi.Record, string, error) {
	if !slices.ContainsFunc(d.server.Zones(), func(z dnsserver.ZoneInfo) bool { return sameDomain(z.Name, zone) }) {
		return nil, "", fmt.Errorf("zone %q: %w", zone, opsapi.ErrNotFound)
	}
	skip := 0
	if p.After != "" {
		var err error
		if skip, err = strconv.Atoi(p.After); err != nil || skip < 0 {
			return nil, "", &FieldError{Path: "after", Msg: fmt.Sprintf("%q is not the next of a page", p.After)}
		}
	}
	records, err := d.server.Records(zone)
	if err != nil {
		return nil, "", err
	}
	var list []opsapi.Record
	n := 0
	for r := range records {
		if n++; n <= skip || !matches(p.Search, r.Name, r.Type, r.Value) {
			continue
		}
		if len(list) == p.Limit {
			return list, strconv.Itoa(n - 1), nil
		}
		list = append(list, opsapi.Record(r))
	}
	return list, "", nil
}

func (d opsDNS) UpdateRecords(ctx context.Context, c opsapi.RecordChanges) error {
	tx := new(dnsserver.Tx)
	tx.Remove(dnsRecords(c.Remove)...)
	tx.Set(dnsRecords(c.Set)...)
	tx.Add(dnsRecords(c.Add)...)
	return d.server.Update(ctx, tx)
}

func dnsRecords(list []opsapi.Record) []dnsserver.Record {
	records := make([]dnsserver.Record, len(list))
	for i, r := range list {
		records[i] = dnsserver.Record(r)
	}
	return records
}

// opsRADIUS is the RADIUS server for the operations API.
type opsRADIUS struct{ server *radius.Server }

// sessionKey names a session.
func sessionKey(s *radius.Session) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%q\n%s\n%q\n%x", s.Source, s.NASIdentifier, s.NASAddress, s.ID, s.Class))
	return hex.EncodeToString(sum[:12])
}

func (r opsRADIUS) Sessions(_ context.Context, p opsapi.Page) ([]opsapi.RADIUSSession, string, error) {
	found := page[opsapi.RADIUSSession]{p: p}
	for s := range r.server.Sessions() {
		one := opsapi.RADIUSSession{
			Key: sessionKey(&s), ID: s.ID, Source: s.Source.String(), NASIdentifier: s.NASIdentifier, NASPort: s.NASPortID,
			UserName: s.UserName, CallingStationID: s.CallingStationID, CalledStationID: s.CalledStationID, Start: s.Start, Updated: s.Updated,
			DurationSeconds: int64(s.Duration.Seconds()), InputOctets: s.InputOctets, OutputOctets: s.OutputOctets,
		}
		if n, err := strconv.Atoi(s.VLAN); err == nil {
			one.VLAN = n
		} else {
			one.VLANName = s.VLAN
		}
		if s.NASAddress.IsValid() {
			one.NASAddress = s.NASAddress.String()
		}
		if s.FramedIP.IsValid() {
			one.FramedIP = s.FramedIP.String()
		}
		if one.NASPort == "" && s.NASPort != 0 {
			one.NASPort = strconv.FormatUint(uint64(s.NASPort), 10)
		}
		found.add(one.Key, one, one.ID, one.Source, one.NASIdentifier, one.UserName, one.CallingStationID, one.CalledStationID, one.FramedIP)
	}
	list, next := found.result()
	return list, next, nil
}

func (r opsRADIUS) Clients(context.Context) ([]opsapi.RADIUSClient, error) {
	var list []opsapi.RADIUSClient
	for _, c := range r.server.Stats().Clients {
		list = append(list, opsapi.RADIUSClient{Name: c.Name, Address: c.IP, Requests: c.Requests, Accepts: c.Accepts, Rejects: c.Rejects, Dropped: c.Dropped})
	}
	return list, nil
}

func (r opsRADIUS) Disconnect(ctx context.Context, key string) error {
	for s := range r.server.Sessions() {
		if sessionKey(&s) == key {
			return r.server.Disconnect(ctx, s.Source, s.Identify())
		}
	}
	return fmt.Errorf("session %q: %w", key, opsapi.ErrNotFound)
}
