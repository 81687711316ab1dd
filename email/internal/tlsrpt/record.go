package tlsrpt

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// maxAddresses bounds where the report about one domain goes.
const maxAddresses = 5

// errNoRecord says that a domain wants no reports.
var errNoRecord = errors.New("there is no TLSRPT record")

// parseRecord finds the addresses in the TXT records of _smtp._tls.DOMAIN (RFC
// 8460 section 3): "mailto:" and "https:" URIs. Those of other schemes, and what
// is none, are passed over.
func parseRecord(txts []string) (rua []string, err error) {
	txts = slices.DeleteFunc(slices.Clone(txts), func(s string) bool {
		version, _, _ := strings.Cut(s, ";")
		return strings.TrimRight(version, " \t") != "v=TLSRPTv1"
	})
	switch len(txts) {
	case 0:
		return nil, errNoRecord
	case 1:
	default:
		return nil, fmt.Errorf("there are %d TLSRPT records", len(txts))
	}
	for field := range strings.SplitSeq(txts[0], ";") {
		value, ok := strings.CutPrefix(strings.Trim(field, " \t"), "rua=")
		if !ok {
			continue
		}
		for uri := range strings.SplitSeq(value, ",") {
			uri = strings.Trim(uri, " \t")
			if usable(uri) && !slices.Contains(rua, uri) && len(rua) < maxAddresses {
				rua = append(rua, uri)
			}
		}
		break
	}
	if len(rua) == 0 {
		return nil, errors.New("the TLSRPT record has no address that can be used")
	}
	return rua, nil
}

func usable(uri string) bool {
	if _, ok := mailbox(uri); ok {
		return true
	}
	u, err := url.Parse(uri)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && u.User == nil
}

// mailbox returns the address of a "mailto:" URI. Header fields that such a URI
// may carry are not for strangers to set.
func mailbox(uri string) (string, bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "mailto" {
		return "", false
	}
	s, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return "", false
	}
	a, err := addr.Parse(s)
	if err != nil || !a.IsASCII() {
		return "", false
	}
	return a.String(), true
}
