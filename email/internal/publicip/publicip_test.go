package publicip

import (
	"net/netip"
	"testing"
)

func TestIs(t *testing.T) {
	for address, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "::ffff:192.0.2.1": true, "64:ff9b::c000:201": true,
		"127.0.0.1": false, "10.1.2.3": false, "169.254.169.254": false, "100.100.100.200": false, "0.0.0.0": false, "0.1.2.3": false,
		"::1": false, "fe80::1": false, "fd00::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "2002:7f00:1::": false, "2002:a00:1::1": false, "224.0.0.1": false,
		"192.0.0.8": false, "198.19.0.1": false, "250.0.0.1": false, "64:ff9b:1::a00:1": false, "::a00:1": false, "fec0::1": false,
	} {
		if got := Is(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

func TestControl(t *testing.T) {
	for address, want := range map[string]bool{"192.0.2.1:25": true, "[2001:db8::1]:25": true, "127.0.0.1:25": false, "[64:ff9b::7f00:1]:25": false, "somewhere": false} {
		if err := Control("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}
