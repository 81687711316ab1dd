package radius

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"time"
)

// Sessions are kept encoded, in memory as in storage: a million of them then
// take a third of the memory, and the garbage collector has one pointer of each
// to follow.

// sessionVersion is the first octet of the encoding, vlanVersion where a VLAN
// follows at the end.
const (
	sessionVersion = 1
	vlanVersion    = 2
)

var errBadSession = errors.New("radius: the stored session cannot be read")

// appendSession encodes s. NAS first: that is what Accounting-On looks for.
func appendSession(b []byte, s *Session) []byte {
	version := byte(sessionVersion)
	if s.VLAN != "" {
		version = vlanVersion
	}
	b = append(b, version)
	b = appendAddr(b, s.Source)
	b = appendString(b, s.NASIdentifier)
	b = appendAddr(b, s.NASAddress)
	b = appendTime(b, s.Updated)
	b = appendTime(b, s.Stopped)
	b = appendTime(b, s.Start)
	b = appendString(b, s.ID)
	b = appendString(b, string(s.Class))
	b = appendString(b, s.UserName)
	b = appendString(b, s.CallingStationID)
	b = appendString(b, s.CalledStationID)
	b = appendString(b, s.NASPortID)
	b = appendAddr(b, s.FramedIP)
	for _, n := range []uint64{uint64(s.NASPort), uint64(s.Duration / time.Second), s.InputOctets, s.OutputOctets,
		uint64(s.InputPackets), uint64(s.OutputPackets), uint64(s.TerminateCause)} {
		b = binary.AppendUvarint(b, n)
	}
	if s.VLAN != "" {
		b = appendString(b, s.VLAN)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	return appendString(b, string(a.AsSlice()))
}

// appendTime keeps milliseconds; 0 is the zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(t.UnixMilli()))
}

// decoder reads an encoding. After a mistake everything it returns is zero.
type decoder struct {
	s   string
	bad bool
}

func (d *decoder) number() uint64 {
	var v uint64
	for i := 0; i < len(d.s) && i < binary.MaxVarintLen64; i++ {
		c := d.s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.s = d.s[i+1:]
			return v
		}
	}
	d.s, d.bad = "", true
	return 0
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.s)) {
		d.s, d.bad = "", true
		return ""
	}
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

func (d *decoder) addr() netip.Addr {
	s := d.text()
	a, ok := netip.AddrFromSlice([]byte(s))
	if !ok && s != "" {
		d.bad = true
	}
	return a
}

func (d *decoder) time() time.Time {
	n := d.number()
	if n == 0 || n > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMilli(int64(n))
}

// decodeSession is the way back from appendSession.
func decodeSession(encoded string) (Session, error) {
	d := decoder{s: encoded}
	if len(encoded) == 0 || encoded[0] != sessionVersion && encoded[0] != vlanVersion {
		return Session{}, errBadSession
	}
	d.s = d.s[1:]
	var s Session
	s.Source, s.NASIdentifier, s.NASAddress = d.addr(), d.text(), d.addr()
	s.Updated, s.Stopped, s.Start = d.time(), d.time(), d.time()
	s.ID = d.text()
	if class := d.text(); class != "" {
		s.Class = []byte(class)
	}
	s.UserName, s.CallingStationID, s.CalledStationID, s.NASPortID = d.text(), d.text(), d.text(), d.text()
	s.FramedIP = d.addr()
	s.NASPort = uint32(d.number())
	s.Duration = time.Duration(uint32(d.number())) * time.Second
	s.InputOctets, s.OutputOctets = d.number(), d.number()
	s.InputPackets, s.OutputPackets = uint32(d.number()), uint32(d.number())
	s.TerminateCause = uint32(d.number())
	if encoded[0] == vlanVersion {
		s.VLAN = d.text()
	}
	if d.bad || d.s != "" {
		return Session{}, errBadSession
	}
	return s, nil
}

// sessionHead is what there is to know of a session without reading all of it.
type sessionHead struct {
	nasHead
	updated, stopped time.Time
}

func decodeHead(encoded string) (h sessionHead) {
	d := decoder{s: encoded[1:]}
	h.source, h.identifier, h.addr = d.text(), d.text(), d.text()
	h.updated, h.stopped = d.time(), d.time()
	return h
}

// isOver reports whether a session that has ended need not be remembered any
// longer. The end is by the NAS's clock, which may be wrong by years.
func (h *sessionHead) isOver(now time.Time) bool {
	return !h.stopped.IsZero() && now.Sub(h.updated) > closedLife && (now.Sub(h.stopped) > closedLife || h.stopped.After(now))
}
