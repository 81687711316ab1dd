package certs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libdns/cloudflare"
	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3/acme"
)

// zoneSolver answers DNS-01 in zones of this process.
type zoneSolver struct {
	dns   DNS
	owner string // of the answer
}

func (*zoneSolver) kind() string { return DNS01 }

func (s *zoneSolver) record(c acme.Challenge) Record {
	return Record{Name: s.owner, Type: "TXT", Value: c.DNS01KeyAuthorization()}
}

func (s *zoneSolver) present(ctx context.Context, c acme.Challenge) error {
	s.owner = s.dns.Owner(c.DNS01TXTRecordName())
	return s.dns.Add(ctx, s.record(c))
}

func (s *zoneSolver) cleanUp(ctx context.Context, c acme.Challenge) error {
	return s.dns.Remove(ctx, s.record(c))
}

// cloudflareSolver answers DNS-01 in zones at Cloudflare.
type cloudflareSolver struct {
	provider *cloudflare.Provider
	visible  visibility
	patience time.Duration
	zone     string // where the answer is
}

func (m *Manager) cloudflareSolver() solver {
	p := &cloudflare.Provider{APIToken: m.opts.cloudflare, HTTPClient: m.opts.httpClient}
	if p.HTTPClient == nil {
		p.HTTPClient = m.plainClient
	}
	return &cloudflareSolver{provider: p, visible: m.opts.visible, patience: m.cfg.PropagationTimeout}
}

func (*cloudflareSolver) kind() string { return DNS01 }

// present tries the longest zone first: which zones there are cannot be told
// otherwise by tokens for one zone alone.
func (s *cloudflareSolver) present(ctx context.Context, c acme.Challenge) error {
	name := strings.TrimSuffix(c.DNS01TXTRecordName(), ".")
	var errs []error
	for _, zone := range parents(name) {
		if _, err := s.provider.AppendRecords(ctx, zone, []libdns.Record{cloudflareRecord(c, zone)}); err != nil {
			errs = append(errs, fmt.Errorf("zone %s at Cloudflare: %w", zone, err))
			continue
		}
		s.zone = zone
		return s.wait(ctx, name, c.DNS01KeyAuthorization())
	}
	return errors.Join(errs...)
}

// wait waits until the answer shows. Then the authority is asked in any case.
func (s *cloudflareSolver) wait(ctx context.Context, name, value string) error {
	waiting, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for !s.visible(waiting, s.zone, name, value) {
		if pause(waiting, 2*time.Second) != nil {
			break
		}
	}
	return ctx.Err()
}

func (s *cloudflareSolver) cleanUp(ctx context.Context, c acme.Challenge) error {
	if s.zone == "" {
		return nil
	}
	_, err := s.provider.DeleteRecords(ctx, s.zone, []libdns.Record{cloudflareRecord(c, s.zone)})
	return err
}

func cloudflareRecord(c acme.Challenge, zone string) libdns.Record {
	name := strings.TrimSuffix(c.DNS01TXTRecordName(), ".")
	return libdns.TXT{Name: libdns.RelativeName(name, zone), Text: c.DNS01KeyAuthorization(), TTL: 2 * time.Minute}
}

// parents are the domains that a name may be in the zone of, but not
// top-level domains.
func parents(name string) []string {
	var list []string
	for {
		_, rest, ok := strings.Cut(name, ".")
		if !ok || !strings.Contains(rest, ".") {
			return list
		}
		name = rest
		list = append(list, name)
	}
}

// visibleAtNameServers asks each name server of a zone.
func visibleAtNameServers(ctx context.Context, zone, name, value string) bool {
	servers, err := net.DefaultResolver.LookupNS(ctx, zone)
	if err != nil || len(servers) == 0 {
		return false
	}
	for _, server := range servers {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server.Host, "53"))
		}}
		texts, err := r.LookupTXT(ctx, name+".")
		if err != nil || !slices.Contains(texts, value) {
			return false
		}
	}
	return true
}
