// Package iprev says whether the name of a client's address leads back to it (RFC
// 8601 section 3).
package iprev

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// Code is the outcome of a check (RFC 8601 section 2.7.3).
type Code string

// The outcomes.
const (
	Pass      Code = "pass"
	Fail      Code = "fail"      // no name leads back
	TempError Code = "temperror" // DNS did not answer
	PermError Code = "permerror" // the address has no name
)

// Result is what became of a check.
type Result struct {
	Code Code
	// Name is the first name that leads back, as A-labels in lower case without a
	// final dot, or empty.
	Name string
	// Err says why, if the code is temperror or permerror.
	Err error
}

// maxNames bounds the names that are looked at, as in RFC 7208 section 4.6.4.
const maxNames = 10

// Check looks up the names of an address, and their addresses.
func Check(ctx context.Context, r lookup.Resolver, ip netip.Addr) Result {
	ip = ip.Unmap().WithZone("")
	names, err := r.LookupAddr(ctx, ip.String())
	if len(names) == 0 { // *net.Resolver gives names besides an error if one of them is malformed
		if err == nil || lookup.NotFound(err) {
			return Result{Code: PermError, Err: errors.New("the address has no name")}
		}
		return Result{Code: TempError, Err: err}
	}
	result := Result{Code: Fail}
	for _, name := range names[:min(len(names), maxNames)] {
		name, err := lookup.Domain(name)
		if err != nil || !strings.Contains(name, ".") {
			continue // "localhost" and others of the hosts file, which DNS does not know
		}
		list, err := r.LookupIPAddr(ctx, name+".")
		if err != nil && !lookup.NotFound(err) {
			result = Result{Code: TempError, Err: err}
		}
		for _, a := range list {
			if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == ip {
				return Result{Code: Pass, Name: name}
			}
		}
	}
	return result
}
