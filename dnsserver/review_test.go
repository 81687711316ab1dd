package dnsserver

import (
	"testing"

	"github.com/miekg/dns"
)

// Of several sets at once none has additional records, whose names would point
// to somewhere else in the message.
func TestManyTypesAtOnce(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+
		"multi A 192.0.2.1\n TXT \"some text\"\n SRV 1 2 3 web\n HTTPS 1 web alpn=h2\n")}}})
	for _, how := range []transport{overUDP, overTCP} {
		for _, name := range []string{"multi.example.com.", "example.com."} {
			for _, qtype := range []uint16{dns.TypeANY, dns.TypeRRSIG} {
				m := answerTo(t, r, new(dns.Msg).SetQuestion(name, qtype), how)
				if (how == overTCP || qtype == dns.TypeRRSIG) && len(m.Extra) != 0 || (qtype == dns.TypeRRSIG) != (len(m.Answer) == 0 && len(m.Ns) == 1) {
					t.Errorf("%v", m)
				}
			}
		}
	}
}
