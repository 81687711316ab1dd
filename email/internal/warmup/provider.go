package warmup

import (
	"strings"

	"github.com/dcrouter/dcrouter/internal/glob"
)

// The providers that are known.
const (
	Gmail   = "gmail"   // and Google Workspace
	Outlook = "outlook" // Microsoft: Outlook, Hotmail, Exchange Online
	Yahoo   = "yahoo"   // and AOL
	Apple   = "apple"   // iCloud
	GMX     = "gmx"     // United Internet: GMX, WEB.DE, mail.com
	Other   = "other"   // everybody else
)

func known() []string { return []string{Gmail, Outlook, Yahoo, Apple, GMX, Other} }

func isKnown(name string) bool {
	switch name {
	case Gmail, Outlook, Yahoo, Apple, GMX, Other:
		return true
	}
	return false
}

func defaultShare(provider string) float64 {
	switch provider {
	case Gmail, Outlook, Other:
		return 0.5
	}
	return 0.25
}

// classify finds a known provider by the name of an MX host, in lower case.
func classify(host string) string {
	under := func(domains ...string) bool {
		for _, d := range domains {
			if host == d || strings.HasSuffix(host, "."+d) {
				return true
			}
		}
		return false
	}
	switch {
	case under("google.com", "googlemail.com", "psmtp.com"):
		return Gmail
	case under("outlook.com", "hotmail.com", "mx.microsoft"):
		return Outlook
	case under("yahoodns.net", "yahoo.com", "aol.com"):
		return Yahoo
	case under("icloud.com", "apple.com"):
		return Apple
	case under("gmx.net", "gmx.com", "gmx.de", "web.de", "mail.com"):
		return GMX
	}
	return Other
}

// mapping is a provider with patterns of its MX hosts.
type mapping struct {
	pattern glob.Pattern
	name    string
}

// Provider returns who runs an MX host: one of [Settings.Providers], a known one,
// or [Other]. Ask it about the best MX host of a domain.
func (p *Pools) Provider(mxHost string) string {
	host := strings.ToLower(strings.TrimSuffix(mxHost, "."))
	for _, m := range p.mappings {
		if m.pattern.Match(host) {
			return m.name
		}
	}
	return classify(host)
}
