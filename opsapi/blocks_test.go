package opsapi

import (
	"net/http"
	"net/netip"
	"testing"
)

// Nobody locks himself out, nor may who only watches block others.
func TestAddBlock(t *testing.T) {
	for text, want := range map[string]bool{"192.0.2.1": true, "192.0.2.0/24": true, "192.0.2.2": false, "2001:db8::/32": false, "x": false} {
		if isAround(text, netip.MustParseAddr("192.0.2.1")) != want {
			t.Errorf("%s around 192.0.2.1: want %t", text, want)
		}
	}
	for text, want := range map[string]bool{"2001:db8::2": true, "2001:db8::2/128": false, "2001:db8:0:1::1": false, "2001:db8::/32": true} {
		if isAround(text, netip.MustParseAddr("2001:db8::1")) != want {
			t.Errorf("%s around 2001:db8::1: want %t", text, want)
		}
	}
	h := newHost()
	d := openDesk(t, h, openStore(t))
	d.post(d.viewer(), "addBlock", map[string]any{"address": "192.0.2.1"}).fails(http.StatusForbidden, CodeForbidden)
	admin := d.admin()
	for _, request := range []map[string]any{{"address": "127.0.0.1"}, {"address": "127.0.0.0/8"}, {"address": "nobody"}, {}, {"address": "192.0.2.1", "seconds": -1}, {"address": "192.0.2.1", "seconds": 1 << 40}} {
		d.post(admin, "addBlock", request).fails(http.StatusBadRequest, CodeInvalid)
	}
	d.post(admin, "addBlock", map[string]any{"address": "192.0.2.1", "seconds": 60})
	if len(h.blocks) != 1 || h.blocks[0].Source != "operator" || h.blocks[0].Reason != "by admin" || h.blocks[0].Until.Sub(h.blocks[0].Since).Seconds() != 60 {
		t.Errorf("%+v", h.blocks)
	}
}
