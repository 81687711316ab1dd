package dnsserver

import (
	"slices"
	"strings"
	"testing"
)

func TestTransferConfig(t *testing.T) {
	var c Config
	err := c.UnmarshalJSON([]byte(`{
		"tsigKeys": [{"name": "a.key", "secret": "c2VjcmV0"}, {"name": "A.key.", "algorithm": "md5", "secret": "***"}, {"name": "b"}, {"name": "c", "secret": "?"}],
		"resolvers": ["192.0.2.1", "::1", "[::1]:53", "resolver.example"],
		"records": [{"name": "www.copy.example", "type": "A", "value": "192.0.2.1"}],
		"zones": [
			{"name": "copy.example", "file": "x", "dnssec": {}, "primaries": [{"addr": "192.0.2.1"}, {"addr": "192.0.2.1:0", "key": "no.key"}], "allowUpdate": [{"key": "a.key"}]},
			{"name": "example.com", "allowTransfer": ["10.0.0.0/8", "key:a.key", "key:no.key", "nobody"], "notify": [{"addr": "x"}], "catalogZone": "copy.example",
			 "allowUpdate": [{"names": ["example.org", "*.example.com"], "types": ["A", "ANY", "NSEC"]}]},
			{"name": "cat.example", "catalog": {"groups": {"g": [{"addr": ""}]}}}
		]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		got = append(got, strings.SplitN(strings.TrimSpace(line), ": ", 2)[0])
	}
	want := []string{
		"records[0].name",
		"resolvers[3]",
		"tsigKeys[1].algorithm", "tsigKeys[1].name", "tsigKeys[1].secret", "tsigKeys[2].secret", "tsigKeys[3].secret",
		"zones[0].allowUpdate", "zones[0].dnssec", "zones[0].file", "zones[0].primaries[1].addr", "zones[0].primaries[1].key",
		"zones[1].allowTransfer[2]", "zones[1].allowTransfer[3]", "zones[1].allowUpdate[0].key", "zones[1].allowUpdate[0].names[0]",
		"zones[1].allowUpdate[0].types[1]", "zones[1].allowUpdate[0].types[2]", "zones[1].catalogZone", "zones[1].notify[0].addr",
		"zones[2].catalog", `zones[2].catalog.groups["g"][0].addr`,
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q\n%v", got, want, err)
	}
}
