package dmarcrpt

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// namespace is that of RFC 9990 section 5.1.
const namespace = "urn:ietf:params:xml:ns:dmarc-2.0"

// feedback is the XML document of a report (RFC 9990 section 3.1.1), with elements
// in the order that older schemas want too.
type feedback struct {
	XMLName  xml.Name        `xml:"feedback"`
	XMLNS    string          `xml:"xmlns,attr"`
	Version  string          `xml:"version"`
	Metadata metadata        `xml:"report_metadata"`
	Policy   policyPublished `xml:"policy_published"`
	Records  []record        `xml:"record"`
}

type metadata struct {
	Organization string `xml:"org_name"`
	Email        string `xml:"email"`
	Contact      string `xml:"extra_contact_info,omitempty"`
	ReportID     string `xml:"report_id"`
	Begin        int64  `xml:"date_range>begin"`
	End          int64  `xml:"date_range>end"`
	Error        string `xml:"error,omitempty"`
	Generator    string `xml:"generator"`
}

type policyPublished struct {
	Domain      string `xml:"domain"`
	DKIM        string `xml:"adkim"`
	SPF         string `xml:"aspf"`
	Policy      string `xml:"p"`
	Subdomains  string `xml:"sp,omitempty"`
	NonExistent string `xml:"np,omitempty"`
	Testing     string `xml:"testing"`
	Discovery   string `xml:"discovery_method"`
}

type record struct {
	Source      string       `xml:"row>source_ip"`
	Count       int          `xml:"row>count"`
	Disposition string       `xml:"row>policy_evaluated>disposition"`
	DKIM        string       `xml:"row>policy_evaluated>dkim"`
	SPF         string       `xml:"row>policy_evaluated>spf"`
	Reasons     []reason     `xml:"row>policy_evaluated>reason"`
	From        string       `xml:"identifiers>envelope_from"` // empty for the null sender
	HeaderFrom  string       `xml:"identifiers>header_from"`
	Signatures  []dkimResult `xml:"auth_results>dkim"`
	SPFResult   spfResult    `xml:"auth_results>spf"`
}

type reason struct {
	Type    string `xml:"type"`
	Comment string `xml:"comment,omitempty"`
}

type dkimResult struct {
	Domain   string `xml:"domain"`
	Selector string `xml:"selector"`
	Result   string `xml:"result"`
}

type spfResult struct {
	Domain string `xml:"domain"`
	Scope  string `xml:"scope"`
	Result string `xml:"result"`
}

// document builds the report about a domain's day.
func (r *Reporter) document(e *domain) ([]byte, error) {
	doc := feedback{
		XMLNS: namespace, Version: "1.0",
		Metadata: metadata{
			Organization: r.cfg.Organization, Email: r.cfg.Email, Contact: r.cfg.Contact,
			ReportID: r.reportID(e), Begin: e.begin(), End: e.end(), Generator: "dcrouter",
		},
		Policy: policyPublished{
			Domain: e.name, DKIM: alignment(e.policy.StrictDKIM), SPF: alignment(e.policy.StrictSPF),
			Policy: string(e.policy.Policy), Subdomains: string(e.policy.Subdomains), NonExistent: string(e.policy.NonExistent),
			Testing: "n", Discovery: "treewalk",
		},
	}
	if e.policy.Testing {
		doc.Policy.Testing = "y"
	}
	if e.omitted > 0 {
		doc.Metadata.Error = fmt.Sprintf("%d of %d messages are missing from this report: they differ in too many ways", e.omitted, e.messages)
	}
	lines := slices.SortedFunc(maps.Keys(e.rows), func(a, b row) int {
		return cmp.Or(a.Source.Compare(b.Source), -cmp.Compare(e.rows[a], e.rows[b]),
			cmp.Compare(a.HeaderFrom, b.HeaderFrom), cmp.Compare(a.EnvelopeFrom, b.EnvelopeFrom), cmp.Compare(a.Signatures, b.Signatures))
	})
	for _, line := range lines {
		doc.Records = append(doc.Records, line.record(e.rows[line]))
	}
	text, err := xml.MarshalIndent(doc, "", " ")
	return append(append([]byte(xml.Header), text...), '\n'), err
}

func (r *row) record(count int) record {
	rec := record{
		Source: r.Source.String(), Count: count, Disposition: r.Disposition, DKIM: passed(r.DKIM), SPF: passed(r.SPF),
		From: r.EnvelopeFrom, HeaderFrom: r.HeaderFrom,
		SPFResult: spfResult{r.SPFDomain, "mfrom", r.SPFResult},
	}
	for line := range lines(r.Reasons) {
		kind, comment, _ := strings.Cut(line, " ")
		rec.Reasons = append(rec.Reasons, reason{kind, comment})
	}
	for line := range lines(r.Signatures) {
		domain, rest, _ := strings.Cut(line, " ")
		selector, result, _ := strings.Cut(rest, " ")
		rec.Signatures = append(rec.Signatures, dkimResult{domain, selector, result})
	}
	return rec
}

func lines(s string) func(yield func(string) bool) {
	if s == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(s, "\n")
}

func alignment(strict bool) string {
	if strict {
		return "s"
	}
	return "r"
}

func passed(ok bool) string {
	if ok {
		return "pass"
	}
	return "fail"
}

// begin and end are the first and last second of the day.
func (k key) begin() int64 { return k.day * daySeconds }
func (k key) end() int64   { return k.begin() + daySeconds - 1 }

// reportID is the same whenever the report is made (RFC 9990 section 3.5.1).
func (r *Reporter) reportID(e *domain) string {
	return fmt.Sprintf("%d-%s@%s", e.begin(), e.name, r.cfg.Hostname)
}
