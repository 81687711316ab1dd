package radius

import (
	"net/netip"
	"sync"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2868"
)

// vlan returns what a packet says of a VLAN (RFC 3580 section 3.31), without the
// tag in front of it, or "".
func (d datagram) vlan() string {
	for at := headerLength; len(d)-at >= 2; {
		length := int(d[at+1])
		if length < 2 || length > len(d)-at {
			break
		}
		if layeh.Type(d[at]) == rfc2868.TunnelPrivateGroupID_Type {
			value := d[at+2 : at+length]
			if len(value) > 0 && value[0] <= maxTag {
				value = value[1:]
			}
			return string(value)
		}
		at += length
	}
	return ""
}

// maxTag is the greatest first octet that is a tag (RFC 2868 section 3.6).
const maxTag = 0x1f

// vlans remembers which VLAN an Accept has put somebody into, since few NASes say
// so in their records.
type vlans struct {
	mu sync.Mutex
	of map[subject]string
}

// accepted notes what an Accept says.
func (v *vlans) accepted(s subject, accept datagram) {
	vlan := accept.vlan()
	v.mu.Lock()
	defer v.mu.Unlock()
	if vlan == "" {
		delete(v.of, s)
		return
	}
	if v.of == nil {
		v.of = make(map[subject]string)
	}
	if _, known := v.of[s]; !known && len(v.of) >= maxTracked {
		for other := range v.of { // any: most are of use for a few seconds only
			delete(v.of, other)
			break
		}
	}
	v.of[s] = vlan
}

func (v *vlans) find(s subject) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.of[s]
}

// newSubject says who a request or record is about.
func newSubject(client netip.Addr, user, calling string) subject {
	s := subject{client, user}
	if calling != "" {
		s.who = calling
		if mac, ok := parseMAC(calling, false); ok {
			s.who = mac.String()
		}
	}
	return s
}
