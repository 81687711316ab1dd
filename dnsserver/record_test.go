package dnsserver

import (
	"testing"

	"github.com/miekg/dns"
)

// What is served can be kept: as text it comes back as it was. And what an
// interface gives out it takes.
func TestRecordsOfAnyType(t *testing.T) {
	for text := range dns.StringToType {
		for _, value := range []string{"", `\# 0`, `\# 1 00`, `\# 1 0a`, `\# 4 01020304`, `\# 2 c000`, `\# 8 000000000000c000`, "1", "a b c", "0 0 0 ."} {
			r, err := Record{Name: "a.example.com", Type: text, Value: value}.pack()
			if err != nil {
				continue
			}
			if again, err := parseText(r.text()); err != nil || again != r {
				t.Errorf("%s %s: %q became %q, %v", text, value, r.text(), again.text(), err)
			}
			if r.rtype == typeALIAS || value == "" {
				continue
			}
			if again, err := r.public().pack(); err != nil || again != r {
				t.Errorf("%s %s: %+v became %+v, %v", text, value, r.public(), again.public(), err)
			}
		}
	}
	for _, text := range []string{"OPT", "TSIG", "TKEY", "AXFR", "MAILB", "TYPE0", "TYPE200"} {
		if _, err := (Record{Name: "a.example.com", Type: text, Value: `\# 0`}).pack(); err == nil {
			t.Errorf("there are %s records", text)
		}
	}
}
