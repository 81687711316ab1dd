package dmarcrpt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// A destination is where a report is wanted.
type destination struct {
	addr  addr.Address
	limit int64 // of the compressed report, in bytes
}

// parseURI reads a URI of rua: "mailto:" and an address, and a limit of size
// behind "!", which RFC 7489 section 6.4 had.
func parseURI(uri string) (destination, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	if !strings.EqualFold(scheme, "mailto") {
		return destination{}, fmt.Errorf("%.100q is not a mailto URI", uri)
	}
	rest, size, limited := strings.Cut(rest, "!")
	rest, _, _ = strings.Cut(rest, "?") // header fields that the owner would like
	d := destination{limit: math.MaxInt64}
	if limited {
		var err error
		if d.limit, err = parseSize(size); err != nil {
			return destination{}, fmt.Errorf("%.100q has no valid size behind \"!\"", uri)
		}
	}
	text, err := url.PathUnescape(rest)
	if err == nil {
		d.addr, err = addr.Parse(text)
	}
	if err != nil || d.addr.Domain == "" || d.addr.IsLiteral() || !d.addr.IsASCII() {
		return destination{}, fmt.Errorf("%.100q has no valid address", uri)
	}
	return d, nil
}

// parseSize reads a number and a unit: k, m, g, t, for powers of 2^10.
func parseSize(s string) (int64, error) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("kmgt", s[len(s)-1]|0x20); i >= 0 {
			s, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, errors.New("no size")
	}
	if n > math.MaxInt64>>shift {
		return math.MaxInt64, nil
	}
	return int64(n) << shift, nil
}

// destinations returns where the reports about a policy domain go. An error is one
// of DNS, which may be gone later.
func (r *Reporter) destinations(ctx context.Context, policyDomain string, rua []string) ([]destination, error) {
	var list []destination
	seen := map[addr.Address]bool{}
	for _, uri := range rua {
		d, err := parseURI(uri)
		if err != nil {
			r.cfg.Log.Debug("a domain wants DMARC reports where they can't be sent", "domain", policyDomain, "err", err)
			continue
		}
		agreed, err := r.agreed(ctx, policyDomain, d)
		if err != nil {
			return nil, err
		}
		for _, d := range agreed {
			if !seen[d.addr] && len(list) < maxURIs {
				seen[d.addr] = true
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// agreed returns where reports for a destination go: there, if it is of the policy
// domain's organization; else only if its host says so, which may name other
// addresses of its own (RFC 9990 section 4).
func (r *Reporter) agreed(ctx context.Context, policyDomain string, d destination) ([]destination, error) {
	host := d.addr.Domain
	if host == policyDomain {
		return []destination{d}, nil
	}
	theirs, err := r.organization(ctx, host)
	if err != nil {
		return nil, err
	}
	ours, err := r.organization(ctx, policyDomain)
	if err != nil {
		return nil, err
	}
	if theirs == ours {
		return []destination{d}, nil
	}
	query := policyDomain + "._report._dmarc." + host
	if _, err := lookup.Domain(query); err != nil {
		return nil, nil // too long to be asked for
	}
	list, err := lookup.TXT(ctx, r.cfg.Resolver, query)
	if err != nil {
		return nil, err
	}
	ok := false
	for _, txt := range list {
		rec, valid := dmarc.ParseRecord(txt)
		if !valid {
			continue
		}
		ok = true
		if len(rec.Aggregate) > 0 {
			return overriding(host, rec.Aggregate), nil
		}
	}
	if !ok {
		return nil, nil
	}
	return []destination{d}, nil
}

// overriding returns the addresses that a host wants in place of the one that was
// asked about; none if there is one elsewhere.
func overriding(host string, uris []string) []destination {
	var list []destination
	for _, uri := range uris {
		d, err := parseURI(uri)
		if err != nil {
			continue
		}
		if d.addr.Domain != host {
			return nil
		}
		list = append(list, d)
	}
	return list
}

// organization finds the organizational domain (RFC 9989 section 4.10.2) as for
// an author of that domain.
func (r *Reporter) organization(ctx context.Context, domain string) (string, error) {
	h, _, err := message.ReadHeader(bufio.NewReader(strings.NewReader("From: postmaster@"+domain+"\r\n\r\n")), 1024)
	if err != nil {
		return "", err
	}
	switch res := dmarc.Check(ctx, r.cfg.Resolver, h, dmarc.Identifiers{}); res.Code {
	case dmarc.TempError:
		return "", res.Err
	case dmarc.PermError:
		return domain, nil
	default:
		return res.Organization, nil
	}
}
