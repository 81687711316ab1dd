package dsn

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func testTime() time.Time { return time.Date(2026, 2, 1, 10, 0, 0, 0, time.UTC) }

func TestParseComplaint(t *testing.T) {
	for name, want := range map[string]Complaint{
		"arf": {
			Type: "abuse", UserAgent: "SomeGenerator/1.0", Recipients: []string{"bob@example.net", "carol@example.net"}, MailFrom: "bounce+x@example.com",
			SourceIP: netip.MustParseAddr("192.0.2.1"), ReportedDomains: []string{"example.com", "example.org"}, Arrival: testTime(), Incidents: 3,
			MessageID: "lunch-19@example.com", From: "Alïce <alice@example.com>", To: "bob@example.net", Subject: "Lunch",
		},
		"arf-hotmail": {
			Type: "abuse", Recipients: []string{"bob@hotmail.example"}, MailFrom: "bounce+y@example.com", SourceIP: netip.MustParseAddr("192.0.2.1"), Incidents: 1,
			MessageID: "lunch-20@example.com", From: "alice@example.com", To: "undisclosed-recipients:;", Subject: "Lunch",
		},
		"arf-redacted": {
			Type: "abuse", UserAgent: "Yahoo!-Mail-Feedback/2.0", MailFrom: "bounce+z@example.com", SourceIP: netip.MustParseAddr("2001:db8::1"), Incidents: 1,
			MessageID: "lunch-21@example.com", From: "alice@example.com",
		},
	} {
		c, err := ParseComplaint(section(sample(t, name)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "arf" && c.Arrival.Equal(want.Arrival) || name == "arf-redacted" {
			c.Arrival = want.Arrival // the same in another zone; "PST" is none
		}
		if !reflect.DeepEqual(*c, want) {
			t.Errorf("%s: %+v", name, *c)
		}
	}
	for _, name := range []string{"gmail", "person", "qmail", "tlsrpt", "forwarded", "out-of-office"} {
		if c, err := ParseComplaint(section(sample(t, name))); !errors.Is(err, ErrNoComplaint) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func checkClean(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		t.Errorf("not clean: %q", s)
	}
}

func FuzzParseComplaint(f *testing.F) {
	addSamples(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := ParseComplaint(section(content))
		if err != nil {
			return
		}
		for _, s := range append(append([]string{c.Type, c.UserAgent, c.MailFrom, c.EnvID, c.MessageID, c.From, c.To, c.Subject}, c.Recipients...), c.ReportedDomains...) {
			checkClean(t, s)
		}
		if c.Type == "" || c.Incidents < 1 || len(c.Recipients) > maxComplaint || len(c.ReportedDomains) > maxComplaint {
			t.Errorf("%+v", c)
		}
	})
}
