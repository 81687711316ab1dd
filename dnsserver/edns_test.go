package dnsserver

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Test vectors of the paper on SipHash, appendix A, and of RFC 9018 appendix A.
func TestSipHash(t *testing.T) {
	var data [15]byte
	for i := range data {
		data[i] = byte(i)
	}
	if got := sipHash([2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}, data[:]); got != 0xa129ca6149be45e5 {
		t.Errorf("%x", got)
	}
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCookieVectors(t *testing.T) {
	secret := unhex(t, "e5e973e5a6b2a43f48e7dc849e37bfcf")
	keys := &cookieKeys{current: [2]uint64{binary.LittleEndian.Uint64(secret), binary.LittleEndian.Uint64(secret[8:])}}
	for _, test := range []struct {
		client   string
		now      int64
		in, want string
		verified bool
	}{
		// A.1: the first cookie; A.2: one that is still young; A.3: one that is too old.
		{"198.51.100.100", 1559731985, "2464c4abcf10c957", "2464c4abcf10c957 010000005cf79f11 1f8130c3eee29480", false},
		{"198.51.100.100", 1559731985 + 600, "2464c4abcf10c957 010000005cf79f11 1f8130c3eee29480", "2464c4abcf10c957 010000005cf79f11 1f8130c3eee29480", true},
		{"203.0.113.203", 1559734700, "fc93fc62807ddb86 010000005cf78f71 a314227b6679ebf5", "fc93fc62807ddb86 010000005cf7a9ac f73a7810aca2381e", false},
	} {
		c := newCookies()
		c.now = func() time.Time { return time.Unix(test.now, 0) }
		c.keys.Store(keys)
		var out [24]byte
		from := &asker{addr: netip.AddrPortFrom(netip.MustParseAddr(test.client), 53)}
		if !c.answer(&out, unhex(t, test.in), from) || string(out[:]) != string(unhex(t, test.want)) || from.verified != test.verified {
			t.Errorf("%s: %x, verified %t; want %s", test.in, out, from.verified, test.want)
		}
	}
}

func TestCookies(t *testing.T) {
	c := newCookies()
	now := time.Unix(1e9, 0)
	c.now = func() time.Time { return now }
	from := func(addr string) *asker { return &asker{addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 1)} }
	var full [24]byte
	a := from("2001:db8::1")
	if !c.answer(&full, []byte("12345678"), a) || a.verified {
		t.Fatal("the first one")
	}
	good := func(cookie [24]byte, addr string) bool {
		who, out := from(addr), [24]byte{}
		return c.answer(&out, cookie[:], who) && who.verified
	}
	changed := full
	changed[23] ^= 1
	other := full
	other[0] ^= 1
	if !good(full, "2001:db8::1") || good(full, "2001:db8::2") || good(changed, "2001:db8::1") || good(other, "2001:db8::1") {
		t.Error("what is good is not, or the reverse")
	}
	c.rotate()
	if !good(full, "2001:db8::1") {
		t.Error("a new key ends cookies at once")
	}
	c.rotate()
	if good(full, "2001:db8::1") {
		t.Error("an old key counts for ever")
	}
	c.answer(&full, []byte("12345678"), a)
	now = now.Add(cookieLasts + 2*time.Second)
	if good(full, "2001:db8::1") {
		t.Error("an old cookie counts")
	}
	now = now.Add(-2 * cookieLasts)
	if good(full, "2001:db8::1") {
		t.Error("a cookie of the future counts")
	}
	for _, length := range []int{0, 7, 9, 15, 41} {
		if c.answer(&full, make([]byte, length), a) {
			t.Errorf("a cookie of %d octets", length)
		}
	}
}

func TestEDNS(t *testing.T) {
	r := testResponder(manyNames(t, 10))
	r.nsid, r.version, r.cookies = "node-1", "dcrouter", newCookies()
	r.idle = func() time.Duration { return 10 * time.Second }
	options := func(q *dns.Msg, how transport) (*dns.Msg, *dns.OPT) {
		t.Helper()
		m := answerTo(t, r, q, how)
		return m, m.IsEdns0()
	}
	query := func(options ...dns.EDNS0) *dns.Msg {
		q := new(dns.Msg).SetQuestion("host-1.example.com.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = options
		return q
	}
	if _, opt := options(query(), overUDP); opt == nil || opt.UDPSize() != 1232 || len(opt.Option) != 0 || opt.Do() {
		t.Errorf("%v", opt)
	}
	if m := answerTo(t, r, new(dns.Msg).SetQuestion("host-1.example.com.", dns.TypeA), overUDP); m.IsEdns0() != nil {
		t.Error("EDNS where none was asked for")
	}
	q := query()
	q.IsEdns0().SetVersion(1)
	if m, opt := options(q, overUDP); m.Rcode != dns.RcodeBadVers || opt.Version() != 0 || len(m.Answer) != 0 {
		t.Errorf("version 1: %v", m)
	}
	if _, opt := options(query(&dns.EDNS0_NSID{Code: dns.EDNS0NSID}), overUDP); len(opt.Option) != 1 || opt.Option[0].String() != hex.EncodeToString([]byte("node-1")) {
		t.Errorf("NSID: %v", opt)
	}
	cookie := &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}
	if _, opt := options(query(cookie), overUDP); len(opt.Option) != 1 || len(opt.Option[0].(*dns.EDNS0_COOKIE).Cookie) != 48 {
		t.Errorf("cookie: %v", opt)
	}
	alive := &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}
	if _, opt := options(query(alive), overTCP); len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_TCP_KEEPALIVE).Timeout != 100 {
		t.Errorf("keepalive: %v", opt)
	}
	if _, opt := options(query(alive), overUDP); len(opt.Option) != 0 {
		t.Errorf("keepalive over UDP: %v", opt)
	}
	pad := &dns.EDNS0_PADDING{Padding: make([]byte, 10)}
	if m, _ := options(query(pad), overTLS); func() int { m.Compress = true; b, _ := m.Pack(); return len(b) }()%paddingBlock != 0 {
		t.Errorf("padding: %d octets", m.Len())
	}
	if _, opt := options(query(pad), overTCP); len(opt.Option) != 0 {
		t.Errorf("padding in the clear: %v", opt)
	}
	chaos := func(name string) string {
		q := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
		q.Question[0].Qclass = dns.ClassCHAOS
		m := answerTo(t, r, q, overUDP)
		if len(m.Answer) == 0 {
			return dns.RcodeToString[m.Rcode]
		}
		return m.Answer[0].(*dns.TXT).Txt[0]
	}
	if got := chaos("VERSION.bind.") + chaos("id.server.") + chaos("version.example."); got != "dcrouternode-1REFUSED" {
		t.Error(got)
	}
	if r.nsid, r.version = "", ""; chaos("version.bind.")+chaos("id.server.") != "REFUSEDREFUSED" {
		t.Error("it tells about itself without being told to")
	}
}

func TestOddMessages(t *testing.T) {
	r := testResponder(manyNames(t, 10))
	from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:53")}
	send := func(wire []byte) (*dns.Msg, bool) {
		got := r.respond(r.newScratch(), []byte("before"), wire, from)
		if string(got[:6]) != "before" {
			t.Fatal("what was in the buffer is not there any more")
		}
		if len(got) == 6 {
			return nil, false
		}
		m := new(dns.Msg)
		if err := m.Unpack(got[6:]); err != nil {
			t.Fatalf("%x: %v", wire, err)
		}
		return m, true
	}
	good := func(change func(q *dns.Msg)) []byte {
		q := new(dns.Msg).SetQuestion("host-1.example.com.", dns.TypeA)
		change(q)
		wire, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	plain := good(func(*dns.Msg) {})
	for name, test := range map[string]struct {
		wire  []byte
		rcode int // -1: silence
	}{
		"nothing":         {nil, -1},
		"half a header":   {plain[:11], -1},
		"an answer":       {good(func(q *dns.Msg) { q.Response = true }), -1},
		"header alone":    {plain[:12], dns.RcodeFormatError},
		"half a question": {plain[:20], dns.RcodeFormatError},
		"no question":     {good(func(q *dns.Msg) { q.Question = nil }), dns.RcodeFormatError},
		"two questions":   {good(func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), dns.RcodeFormatError},
		"rest":            {append(append([]byte(nil), plain...), 0), dns.RcodeFormatError},
		"status":          {good(func(q *dns.Msg) { q.Opcode = dns.OpcodeStatus }), dns.RcodeNotImplemented},
		"a session":       {good(func(q *dns.Msg) { q.Opcode, q.Question = 6, nil }), dns.RcodeNotImplemented},
		"opcode 15":       {good(func(q *dns.Msg) { q.Opcode = 15 }), dns.RcodeNotImplemented},
		"class HS":        {good(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassHESIOD }), dns.RcodeRefused},
		"class ANY":       {good(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassANY }), dns.RcodeSuccess},
		"two OPT":         {good(func(q *dns.Msg) { q.SetEdns0(512, false); q.Extra = append(q.Extra, q.Extra[0]) }), dns.RcodeFormatError},
		"a record it ignores": {good(func(q *dns.Msg) {
			q.Answer = append(q.Answer, &dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: 1, Class: 1}, A: []byte{1, 2, 3, 4}})
		}), dns.RcodeSuccess},
		"elsewhere": {good(func(q *dns.Msg) { q.Question[0].Name = "example.net." }), dns.RcodeRefused},
		"the root":  {good(func(q *dns.Msg) { q.Question[0].Name = "." }), dns.RcodeRefused},
		"above":     {good(func(q *dns.Msg) { q.Question[0].Name = "com." }), dns.RcodeRefused},
	} {
		m, answered := send(test.wire)
		if answered != (test.rcode >= 0) || answered && (m.Rcode != test.rcode || len(m.Ns) > 0 || m.Id != binary.BigEndian.Uint16(test.wire)) {
			t.Errorf("%s: %v", name, m)
		}
	}
	compressed := append(append([]byte(nil), plain[:12]...), 0xc0, 12, 0, 1, 0, 1)
	if m, _ := send(compressed); m.Rcode != dns.RcodeFormatError {
		t.Errorf("a name that points to itself: %v", m)
	}
}

func TestTruncation(t *testing.T) {
	e := newZone("\x01z\x00")
	add := func(r Record) {
		rec, err := r.pack()
		if err != nil {
			t.Fatal(err)
		}
		e.add(&rec)
	}
	add(Record{Name: "z", Type: "SOA", Value: "a. b. 1 2 3 4 5"})
	for i := range 8 {
		add(Record{Name: "big.z", Type: "TXT", Value: strings.Repeat("x", 180) + string(rune('a'+i))})
		add(Record{Name: "mid.z", Type: "TXT", Value: strings.Repeat("x", 60) + string(rune('a'+i))})
	}
	r := testResponder(e.finish())
	for _, test := range []struct {
		name      string
		edns      uint16
		how       transport
		truncated bool
	}{
		{"big.z.", 0, overUDP, true}, {"big.z.", 1232, overUDP, true}, {"big.z.", 65535, overUDP, true}, {"big.z.", 0, overTCP, false},
		{"mid.z.", 0, overUDP, true}, {"mid.z.", 100, overUDP, true}, {"mid.z.", 1232, overUDP, false},
	} {
		q := new(dns.Msg).SetQuestion(test.name, dns.TypeTXT)
		if test.edns > 0 {
			q.SetEdns0(test.edns, false)
		}
		m := answerTo(t, r, q, test.how)
		if m.Truncated != test.truncated || !m.Authoritative || m.Rcode != 0 || (len(m.Answer) == 8) == test.truncated || (m.IsEdns0() != nil) != (test.edns > 0) {
			t.Errorf("%+v: %v", test, m)
		}
	}
}

func FuzzRespond(f *testing.F) {
	for _, name := range []string{"host-1.example.com.", ".", "a.b.c.d.example.com."} {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		wire, _ := q.Pack()
		f.Add(wire, uint8(0))
		q.SetEdns0(4096, true)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}, &dns.EDNS0_PADDING{Padding: make([]byte, 3)}}
		wire, _ = q.Pack()
		f.Add(wire, uint8(2))
	}
	r := testResponder(manyNames(f, 100))
	r.nsid, r.version, r.cookies = "node-1", "dcrouter", newCookies()
	r.idle = func() time.Duration { return 10 * time.Second }
	sc := r.newScratch()
	f.Fuzz(func(t *testing.T, wire []byte, how uint8) {
		from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:53"), transport: transport(how % uint8(overQUIC+1))}
		got := r.respond(sc, nil, wire, from)
		if len(got) == 0 {
			return
		}
		if limit := r.sizeLimit(&sc.query, from); len(got) > limit {
			t.Fatalf("%d octets where the limit is %d", len(got), limit)
		}
		m := new(dns.Msg)
		if err := m.Unpack(got); err != nil {
			t.Fatalf("%v in %x", err, got)
		}
		// What we can read, others can too, and in the same way.
		q := new(dns.Msg)
		if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
			if q.Unpack(wire) == nil && (len(q.Question) != 1 || q.Question[0].Name != m.Question[0].Name) {
				t.Fatalf("asked %v, answered %v", q.Question, m.Question)
			}
		}
	})
}

func FuzzZoneFile(f *testing.F) {
	f.Add(exampleZone)
	f.Add("$ORIGIN a.\n@ 1 IN SOA . . 1 1 1 1 1\n*.b TXT \"\\000\" ( \"c\"\n )\n$GENERATE 1-3 h$ A 192.0.2.$\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToUpper(text), "$GENERATE") {
			return // as many records as the file's owner likes
		}
		name := "\x01a\x00"
		e := newZone(name)
		if err := readZone(strings.NewReader(text), "", name, func(r record) error { e.add(&r); return e.err }); err != nil {
			return
		}
		if e.check() != nil {
			return
		}
		z := e.finish()
		// A zone that could be read is written so that it is read as the same.
		var out strings.Builder
		if err := writeZone(&out, z, z.records()); err != nil {
			t.Fatal(err)
		}
		again := newZone(name)
		if err := readZone(strings.NewReader(out.String()), "", name, func(r record) error { again.add(&r); return nil }); err != nil {
			t.Fatalf("%v in\n%s", err, out.String())
		}
		if a, b := e.hash(), again.hash(); a != b {
			t.Fatalf("different after writing\n%s", out.String())
		}
	})
}

// What clients are told about idle connections is what is done with them.
func TestKeepaliveIsPatience(t *testing.T) {
	s := newServer(t, Config{IdleTimeout: 10 * time.Second, MaxConnections: 2})
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	for _, want := range []uint16{100, 100, 5} { // tenths of a second
		m := answerTo(t, &s.responder, q, overTCP)
		if got := m.IsEdns0().Option[0].(*dns.EDNS0_TCP_KEEPALIVE).Timeout; got != want {
			t.Errorf("%d, want %d", got, want)
		}
		s.limits.take(netip.MustParseAddr("192.0.2.1"))
	}
}

func TestMalformedCookie(t *testing.T) {
	r := testResponder(manyNames(t, 10))
	r.cookies = newCookies()
	for length, want := range map[int]int{0: 1, 7: 1, 8: 0, 9: 1, 15: 1, 16: 0, 40: 0, 41: 1} {
		q := new(dns.Msg).SetQuestion("host-1.example.com.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: make([]byte, length)}}
		if m := answerTo(t, r, q, overUDP); m.Rcode != want || (len(m.IsEdns0().Option) == 1) != (want == 0) {
			t.Errorf("%d octets: %v", length, m)
		}
	}
}
