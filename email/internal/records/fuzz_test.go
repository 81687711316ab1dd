package records

import (
	"context"
	"net"
	"strings"
	"testing"
)

// said is a resolver that has one answer.
type said string

func (s said) LookupTXT(context.Context, string) ([]string, error) { return []string{string(s)}, nil }
func (s said) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: string(s)}}, nil
}
func (s said) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return []net.IPAddr{{IP: net.IP(s)}}, nil
}
func (s said) LookupAddr(context.Context, string) ([]string, error) { return []string{string(s)}, nil }

func FuzzFound(f *testing.F) {
	for _, text := range []string{"v=spf1 mx -all", publicKey, "v=DMARC1; p=none", "v=STSv1; id=1;", "v=TLSRPTv1; rua=mailto:x@example.com", "v = DKIM1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := example()
		for _, finding := range Check(context.Background(), said(text), s, Wanted(s)) {
			if finding.Type == "TXT" && finding.Kind != DMARC && finding.State == Unknown {
				t.Errorf("%q: %+v", text, finding)
			}
		}
		if SameKey(text, text) != SameKey(text, text+";") && !strings.HasSuffix(strings.TrimSpace(text), ";") {
			t.Errorf("%q: a semicolon makes another key", text)
		}
	})
}
