package warmup

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf"
)

func TestProvider(t *testing.T) {
	p := open(t, Config{Settings: Settings{Providers: []Provider{
		{Name: "proofpoint", MX: []string{"*.pphosted.com"}},
		{Name: Gmail, MX: []string{"mx?.my-gmail.test"}, Share: 0.9},
		{Name: Other, Share: 1},
	}}})
	for host, want := range map[string]string{
		"gmail-smtp-in.l.google.com":                 Gmail,
		"ASPMX.L.GOOGLE.COM.":                        Gmail,
		"alt1.aspmx.l.google.com":                    Gmail,
		"aspmx2.googlemail.com":                      Gmail,
		"mx1.my-gmail.test":                          Gmail,
		"example-com.mail.protection.outlook.com":    Outlook,
		"hotmail-com.olc.protection.outlook.com":     Outlook,
		"example-com.o-v1.mx.microsoft":              Outlook,
		"mta5.am0.yahoodns.net":                      Yahoo,
		"mx-aol.mail.gm0.yahoodns.net":               Yahoo,
		"mx01.mail.icloud.com":                       Apple,
		"mx00.gmx.net":                               GMX,
		"mx-ha02.web.de":                             GMX,
		"mx00.mail.com":                              GMX,
		"mx1.example.com":                            Other,
		"evilgoogle.com":                             Other,
		"google.com.example.net":                     Other,
		"":                                           Other,
		"mx0a-00112233.pphosted.com":                 "proofpoint",
		"mx0a-00112233.gslb.pphosted.com":            "proofpoint",
		strings.Repeat("a.", 200) + "mail.gmail.com": Other,
	} {
		if got := p.Provider(host); got != want {
			t.Errorf("%q: %s, not %s", host, got, want)
		}
	}
	if p.shares[Gmail] != 0.9 || p.shares["proofpoint"] != 0.25 || p.shares[Outlook] != 0.5 || p.shares[Other] != 1 {
		t.Errorf("%v", p.shares)
	}
}

func TestValidate(t *testing.T) {
	s := Settings{
		Pools: []Pool{
			{Name: "a", Overflow: "warm", Addresses: []Address{{Address: "192.0.2.1", HELO: "mx.example.com", Since: "2026-11-01"}, {Address: "2001:db8::1", Warm: true}}},
			{Name: "a", Overflow: "never", Senders: []string{"", "/(/"}},
			{Addresses: []Address{
				{Address: "::ffff:192.0.2.1"}, {Address: "localhost"}, {Address: "0.0.0.0"}, {Address: "fe80::1%eth0"},
				{Address: "192.0.2.3", HELO: "a b", Since: "yesterday"}, {Address: "192.0.2.4", Since: "2026-11-01", Warm: true},
			}},
		},
		Schedule:  []int{5, 4, 0},
		Providers: []Provider{{Name: "new"}, {Name: "new", MX: []string{"*"}, Share: 1.1}, {}},
		Hold:      Hold{Bounces: -1, Complaints: 2},
	}
	want := []string{
		"pools[1].name", "pools[1].addresses", "pools[1].senders[0]", "pools[1].senders[1]", "pools[1].overflow",
		"pools[2].name", "pools[2].addresses[0].address", "pools[2].addresses[1].address", "pools[2].addresses[2].address",
		"pools[2].addresses[3].address", "pools[2].addresses[4].helo", "pools[2].addresses[4].since", "pools[2].addresses[5].since",
		"schedule[1]", "schedule[2]", "schedule[2]", "providers[0].mx", "providers[1].name", "providers[1].share",
		"providers[2].name", "providers[2].mx", "hold.bounces", "hold.complaints",
	}
	var got []string
	err := s.Validate()
	for _, f := range conf.Fields(err) {
		got = append(got, f.Path)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
	}
	if _, err := Open(t.Context(), Config{Settings: s}); err == nil {
		t.Error("Open takes it")
	}
	if err := (&Settings{Pools: s.Pools[:1]}).Validate(); err != nil {
		t.Error(err)
	}
}
