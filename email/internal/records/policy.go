package records

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// Policy is an MTA-STS policy (RFC 8461 section 3.2).
type Policy struct {
	// Mode is "enforce", "testing" or "none".
	Mode string
	// MX are the hosts, or patterns as "*.example.net", that mail for the domain
	// is taken at.
	MX []string
	// MaxAge is for how long senders keep it, in seconds.
	MaxAge int
}

// PolicyHost is the host that a domain's policy is fetched from (RFC 8461 section
// 3.3), at [PolicyPath].
func PolicyHost(domain string) string { return "mta-sts." + domain }

// PolicyPath is the path of policies there.
const PolicyPath = "/.well-known/mta-sts.txt"

// Text is the policy as it is served.
func (p *Policy) Text() string {
	var b strings.Builder
	b.WriteString("version: STSv1\r\nmode: " + p.Mode + "\r\n")
	for _, mx := range p.MX {
		b.WriteString("mx: " + mx + "\r\n")
	}
	b.WriteString("max_age: " + strconv.Itoa(p.MaxAge) + "\r\n")
	return b.String()
}

// ID tells policies apart (RFC 8461 section 3.1): it changes with the text.
func (p *Policy) ID() string {
	sum := sha256.Sum256([]byte(p.Text()))
	return hex.EncodeToString(sum[:16])
}
