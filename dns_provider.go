package dcrouter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libdns/libdns"

	"github.com/dcrouter/dcrouter/dnsserver"
)

// DNSProvider changes the zones of a DNS server by the contracts of libdns, so
// that whatever works with libdns, such as ACME clients for their DNS-01
// challenges, works with the zones of this process: a record is served as soon
// as the call returns.
//
// Zones are named with or without final dot. What signing adds does not show. A
// TTL of 0 is that of [dnsserver.Record].
type DNSProvider struct {
	// Server has the zones; see [Router.DNS]. Required.
	Server *dnsserver.Server
}

var (
	_ libdns.RecordGetter   = DNSProvider{}
	_ libdns.RecordAppender = DNSProvider{}
	_ libdns.RecordSetter   = DNSProvider{}
	_ libdns.RecordDeleter  = DNSProvider{}
	_ libdns.ZoneLister     = DNSProvider{}
)

// ListZones lists the zones of the server.
func (p DNSProvider) ListZones(ctx context.Context) ([]libdns.Zone, error) {
	var list []libdns.Zone
	for _, z := range p.Server.Zones() {
		list = append(list, libdns.Zone{Name: z.Name})
	}
	return list, ctx.Err()
}

// GetRecords returns all records of a zone.
func (p DNSProvider) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	rrs, err := p.records(zone)
	if err != nil {
		return nil, err
	}
	return parsed(rrs), ctx.Err()
}

// AppendRecords adds records beside those there are.
func (p DNSProvider) AppendRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	tx := new(dnsserver.Tx)
	tx.Add(fromLibdns(zone, recs)...)
	return p.update(ctx, tx, recs)
}

// SetRecords puts records in the place of all that have their names and types.
func (p DNSProvider) SetRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	tx := new(dnsserver.Tx)
	tx.Set(fromLibdns(zone, recs)...)
	return p.update(ctx, tx, recs)
}

// DeleteRecords removes the records that are there as given; a type, TTL or value
// that is empty matches any. It returns those that it has removed.
func (p DNSProvider) DeleteRecords(ctx context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	have, err := p.records(zone)
	if err != nil {
		return nil, err
	}
	gone := slices.DeleteFunc(have, func(rr libdns.RR) bool {
		return !slices.ContainsFunc(recs, func(r libdns.Record) bool {
			want := r.RR()
			return strings.EqualFold(libdns.AbsoluteName(want.Name, zone), libdns.AbsoluteName(rr.Name, zone)) &&
				(want.Type == "" || want.Type == rr.Type) && (want.TTL == 0 || want.TTL == rr.TTL) && (want.Data == "" || want.Data == rr.Data)
		})
	})
	tx := new(dnsserver.Tx)
	tx.Remove(fromLibdns(zone, parsed(gone))...)
	return p.update(ctx, tx, parsed(gone))
}

func (p DNSProvider) update(ctx context.Context, tx *dnsserver.Tx, recs []libdns.Record) ([]libdns.Record, error) {
	if err := p.Server.Update(ctx, tx); err != nil {
		return nil, err
	}
	var rrs []libdns.RR
	for _, r := range recs {
		rrs = append(rrs, r.RR())
	}
	return parsed(rrs), nil
}

// records returns the records of a zone without those of signing.
func (p DNSProvider) records(zone string) ([]libdns.RR, error) {
	all, err := p.Server.Records(zone)
	if err != nil {
		return nil, err
	}
	keys, err := p.Server.Keys(zone)
	if err != nil {
		return nil, err
	}
	var list []libdns.RR
	for r := range all {
		switch r.Type {
		case "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM":
			continue
		case "DNSKEY", "CDS", "CDNSKEY":
			if len(keys) > 0 { // they are made from these
				continue
			}
		case "TXT", "SPF":
			if r.Value, err = dnsserver.UnquoteText(r.Value); err != nil {
				return nil, fmt.Errorf("%s %s: %w", r.Name, r.Type, err)
			}
		}
		list = append(list, libdns.RR{Name: libdns.RelativeName(r.Name, strings.ToLower(zone)), Type: r.Type, TTL: time.Duration(r.TTL) * time.Second, Data: r.Value})
	}
	return list, nil
}

func fromLibdns(zone string, recs []libdns.Record) []dnsserver.Record {
	var list []dnsserver.Record
	for _, rec := range recs {
		rr := rec.RR()
		r := dnsserver.Record{Name: libdns.AbsoluteName(rr.Name, zone), Type: rr.Type, Value: rr.Data, TTL: int(rr.TTL / time.Second)}
		if (r.Type == "TXT" || r.Type == "SPF") && r.Value != "" {
			r.Value = dnsserver.QuoteText(r.Value)
		}
		list = append(list, r)
	}
	return list
}

// parsed gives records the types that libdns has for them.
func parsed(rrs []libdns.RR) []libdns.Record {
	var list []libdns.Record
	for _, rr := range rrs {
		if r, err := rr.Parse(); err == nil {
			list = append(list, r)
		} else {
			list = append(list, rr)
		}
	}
	return list
}
