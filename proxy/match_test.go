package proxy

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"example.com", "example.com"},
		{"Example.COM", "example.com"},
		{"example.com.", "example.com"},
		{"example.com:80", "example.com"},
		{"example.com.:80", "example.com"},
		{"example.com:", "example.com"},
		{"EXAMPLE.com:65535", "example.com"},
		{"localhost", "localhost"},
		{"a_b.example", "a_b.example"},
		{"_sip._tcp.example", "_sip._tcp.example"},
		{"1.example", "1.example"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"bücher.example:443", "xn--bcher-kva.example"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"XN--BCHER-KVA.EXAMPLE", "xn--bcher-kva.example"},
		{"faß.example", "xn--fa-hia.example"},
		{"192.0.2.1", "192.0.2.1"},
		{"192.0.2.1:80", "192.0.2.1"},
		{"[2001:db8::1]", "2001:db8::1"},
		{"[2001:DB8:0:0:0:0:0:1]:80", "2001:db8::1"},
		{"[::ffff:192.0.2.1]", "192.0.2.1"},
		{long + ".example", long + ".example"},
		{strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a"},
	} {
		if got, ok := canonicalHost(test.in); got != test.want || !ok {
			t.Errorf("%q: %q, %v, want %q", test.in, got, ok, test.want)
		}
	}
	for _, in := range []string{
		".", "..", ".example", "a..b", "a..", " a", "a b", "a\tb", "a\x00b", "a\nb", "a/b", "a\\b", "a@b", "a,b", "a;b", "a?b", "a#b", "a%41", "a*b", "*.a", "a\"b", "a<b", "a[b",
		"a:b", "a:-1", "a:+1", "a:123456", "a:1:2", "a:80:", "[a]", "[192.0.2.1]", "[::1", "::1]", "[::1]x", "[::1]:x", "[::1]::", "[::g]", "[]", "[]:80",
		"[fe80::1%eth0]", "[fe80::1%25eth0]", "fe80::1%ETH\n", "::1%a:80",
		long + "a.example", strings.Repeat("a.", 127) + "a",
		"a\xff", "\xc3", "ü..de", "ü。", "a：80", "℀.example", "ü b", "_ü.example",
	} {
		if got, ok := canonicalHost(in); ok {
			t.Errorf("%q is taken for the host %q", in, got)
		}
	}
}

// Host names come from strangers, and up to 64 KiB of them fit into a
// ClientHello.
func TestCanonicalHostTime(t *testing.T) {
	t.Parallel()
	var hostile strings.Builder
	for c := rune(0x4e00); hostile.Len() < 60000; c++ {
		hostile.WriteRune(c)
	}
	begin := time.Now()
	canonicalHost(hostile.String())
	if d := time.Since(begin); d > 100*time.Millisecond {
		t.Errorf("%v for one name", d)
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"example.com:80", "BÜCHER.example.", "[2001:DB8::1]:443", "fe80::1%Eth0", "a..b", "xn--a", "１２７.0.0.1", "ＡＢＣ.com", "a.", ".", "ß", "\xff", "xn--bcher-kva", "::ffff:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, ok := canonicalHost(s)
		if !ok {
			return
		}
		if again, ok := canonicalHost(host); again != host || !ok {
			// An IPv6 address in a Host header needs its brackets back.
			if again, ok = canonicalHost("[" + host + "]"); again != host || !ok {
				t.Errorf("%q gives %q, which gives %q, %v", s, host, again, ok)
			}
		}
		if len(host) > 253 || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") {
			t.Errorf("%q gives %q", s, host)
		}
		isIPv6 := strings.Contains(host, ":")
		for _, c := range []byte(host) {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == ':' && isIPv6:
			default:
				t.Fatalf("%q gives %q, with %q in it", s, host, c)
			}
		}
		if isIPv6 {
			if _, err := netip.ParseAddr(host); err != nil {
				t.Errorf("%q gives %q: %v", s, host, err)
			}
		}
		if kind, name, ok := domainPattern(host); ok && (kind != exactDomain || name != host) {
			t.Errorf("as a pattern %q is %v %q %v", host, kind, name, ok)
		}
	})
}

func TestDomainPattern(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in   string
		kind domainKind
		name string
	}{
		{"*", anyDomain, ""},
		{"example.com", exactDomain, "example.com"},
		{"Example.com.", exactDomain, "example.com"},
		{"*.Example.com", wildDomain, "example.com"},
		{"*.com", wildDomain, "com"},
		{"bücher.example", exactDomain, "xn--bcher-kva.example"},
		{"*.bücher.example", wildDomain, "xn--bcher-kva.example"},
		{"192.0.2.1", exactDomain, "192.0.2.1"},
		{"2001:db8::1", exactDomain, "2001:db8::1"},
		{"[2001:db8::1]", exactDomain, "2001:db8::1"},
	} {
		if kind, name, ok := domainPattern(test.in); kind != test.kind || name != test.name || !ok {
			t.Errorf("%q: %v %q %v", test.in, kind, name, ok)
		}
	}
	for _, in := range []string{"", ".", "*.", "**", "*.*", "*.*.com", "a.*.com", "*a.com", "a*.com", "com.*", "example.com:443", "*.example.com:443", "http://a", "a/b", "a b", "a,b", "..", "*..a"} {
		if kind, name, ok := domainPattern(in); ok {
			t.Errorf("%q: %v %q", in, kind, name)
		}
	}
}

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/%61", "/a"},
		{"/%41%5A", "/AZ"},
		{"/a%20b", "/a b"},
		{"/%C3%BC", "/ü"},
		{"/%c3%bc", "/ü"},
		{"/ü", "/ü"},
		{"/a%2fb", "/a%2Fb"},
		{"/a%2Fb", "/a%2Fb"},
		{"/a%5cb", "/a%5Cb"},
		{"/a%25b", "/a%25b"},
		{"/%2541", "/%2541"}, // undone once, not twice
		{"/a%0ab", "/a%0Ab"},
		{"/a%7fb", "/a%7Fb"},
		{"//a", "//a"},
		{"/...", "/..."},
		{"/.a/b.", "/.a/b."},
		{"/a;b", "/a;b"},
		{"/%3f%23", "/?#"},
	} {
		if got, ok := canonicalPath(test.in); got != test.want || !ok {
			t.Errorf("%q: %q, %v, want %q", test.in, got, ok, test.want)
		}
	}
	for _, in := range []string{
		"/.", "/..", "/./", "/../", "/a/.", "/a/..", "/a/../b", "/%2e", "/%2E%2e/", "/.%2e", "/a%2f..%2fb", "/a%2F..", `/a\..\b`, `/..\`, "/a%5C..", "/..;", "/..;a/b", "/.;/", "/%2e%2e;x/", "/..%3b/",
		"/%00", "/a%00.html", "/%", "/%4", "/%g0", "/%0g", "/a%", "/%u0041",
	} {
		if got, ok := canonicalPath(in); ok {
			t.Errorf("%q is taken for %q", in, got)
		}
	}
}

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a%2Fb", "/%2e%2e/", "/a;b/..;c", "/%25%32%65", "/\\..", "/ü%C3%BC", "/%00", "/%", "/a%2f..%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := canonicalPath(s)
		if !ok {
			return
		}
		decoded, err := url.PathUnescape(s)
		if err != nil {
			t.Fatalf("%q, which is no encoded path, is taken for %q", s, got)
		}
		// Whoever decodes it all and takes both slashes for one must find no
		// dot segment.
		for segment := range strings.FieldsFuncSeq(decoded, func(r rune) bool { return r == '/' || r == '\\' }) {
			if segment == "." || segment == ".." {
				t.Errorf("%q, decoded %q, passes as %q", s, decoded, got)
			}
		}
		if strings.Contains(decoded, "\x00") && !strings.Contains(s, "\x00") {
			t.Errorf("%q passes as %q", s, got)
		}
		// What was left encoded and what was not must decode to the same.
		if again, err := url.PathUnescape(got); err != nil || again != decoded {
			t.Errorf("%q gives %q, which decodes to %q, not %q", s, got, again, decoded)
		}
	})
}

func TestPathPattern(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern string
		kind    pathKind
		yes, no string // paths, separated by spaces
	}{
		{"", anyPath, "/ /a *", ""},
		{"/", exactPath, "/", "/a //"},
		{"/a", exactPath, "/a", "/ /a/ /A /ab /a/b"},
		{"/a.b", exactPath, "/a.b", "/axb"},
		{"/a/*", globPath, "/a/ /a/b /a/b/c", "/a /ab /b/a/x"},
		{"/a*", globPath, "/a /ab /a/b", "/b /ba"},
		{"*", globPath, "/ /a/b *", ""},
		{"*.png", globPath, "/a.png /b/c.png", "/a.pngx /apng"},
		{"/*/x", globPath, "/a/x /a/b/x //x", "/x /a/xx"},
		{"/a*b*c", globPath, "/abc /aXbYc /a/b/c", "/ab /abcd"},
		{"/v?/x", globPath, "/v1/x", "/v/x /v12/x"},
		{"/a+(b)/*", globPath, "/a+(b)/c", "/aab/c"},
		{`/a\*`, globPath, `/a\b`, "/ab"},
		{"~^/v[0-9]+/", regexPath, "/v1/ /v22/x", "/v/x /a/v1/"},
		{"~b", regexPath, "/abc /b", "/ac"},
		{"~(?i)^/ABC$", regexPath, "/abc /aBc", "/abcd"},
	} {
		p, err := newPathPattern(test.pattern)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		if p.kind != test.kind {
			t.Errorf("%q: kind %v, want %v", test.pattern, p.kind, test.kind)
		}
		for _, path := range strings.Fields(test.yes) {
			if !p.matches(path) {
				t.Errorf("%q does not match %q", test.pattern, path)
			}
		}
		for _, path := range strings.Fields(test.no) {
			if p.matches(path) {
				t.Errorf("%q matches %q", test.pattern, path)
			}
		}
	}
	p, _ := newPathPattern("/a*z")
	if !p.matches("/a\n\xff z") {
		t.Error("* does not stand for every byte")
	}
	for _, bad := range []string{"a", "a/*", "http://a/", "~(", "~[", "?"} {
		if _, err := newPathPattern(bad); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

func TestIPSet(t *testing.T) {
	t.Parallel()
	set, err := newIPSet([]string{"192.0.2.1", "10.0.0.0/8", "10.1.2.3/16", "2001:db8::/32", "::ffff:198.51.100.0/120", "::ffff:203.0.113.7", "0.0.0.0/32"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"192.0.2.1": true, "192.0.2.2": false,
		"10.255.0.1": true, "11.0.0.1": false, "9.255.255.255": false,
		"2001:db8:ffff::1": true, "2001:db9::1": false,
		"198.51.100.99": true, "198.51.101.1": false,
		"203.0.113.7": true, "203.0.113.8": false,
		"0.0.0.0": true, "::": false,
	} {
		if got := set.contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	var none *ipSet
	if none.contains(netip.MustParseAddr("192.0.2.1")) {
		t.Error("the empty set has an address")
	}
	if set, err := newIPSet(nil); set != nil || err != nil {
		t.Error(set, err)
	}
	everyone, err := newIPSet([]string{"0.0.0.0/0"})
	if err != nil || !everyone.contains(netip.MustParseAddr("1.2.3.4")) || everyone.contains(netip.MustParseAddr("2001:db8::1")) {
		t.Errorf("0.0.0.0/0: %v, or it holds other than IPv4", err)
	}
	for _, bad := range []string{"", "x", "192.0.2", "192.0.2.1/33", "192.0.2.1/", "192.0.2.1/-1", "/8", "fe80::1%eth0", "fe80::1%eth0/64", "192.0.2.1:80", "[::1]", "010.0.0.1", "192.0.2.1 "} {
		if _, err := newIPSet([]string{bad}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// A block of IPv4-mapped addresses that is wider than all IPv4 has them all.
	wide, err := newIPSet([]string{"::ffff:0:0/95"})
	if err == nil && !wide.contains(netip.MustParseAddr("192.0.2.1")) {
		t.Error("::ffff:0:0/95 passes without an error and lacks 192.0.2.1")
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		first string
		want  looks
	}{
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", looksTLS},
		{"\x16\x03\x03", looksTLS},
		{"\x16\x02\x01", looksOther},
		{"GET / HTTP/1.1\r\n", looksHTTP},
		{"OPTIONS * HTTP/1.1\r\n", looksHTTP},
		{"CONNECT a:443 HTTP/1.1\r\n", looksHTTP},
		{"GET http://a/ HTTP/1.1\r\n", looksHTTP},
		{"GET HTTPS://a/ HTTP/1.1\r\n", looksHTTP},
		{"POST /x HTTP/1.0\r\n", looksHTTP},
		{"PURGE /x HTTP/1.1\r\n", looksHTTP},
		{"M-SEARCH * HTTP/1.1\r\n", looksHTTP},
		{"BASELINE-CONTROL /x HTTP/1.1\r\n", looksHTTP},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", looksHTTP},
		{"GET /\r\n", looksHTTP},
		// Lenient: not what net/http takes, but what some servers do. It must
		// not pass as a stream.
		{"\r\nGET / HTTP/1.1\r\n", looksHTTP},
		{"\n\n\nGET / HTTP/1.1\r\n", looksHTTP},
		{" GET / HTTP/1.1\r\n", looksHTTP},
		{"GET  / HTTP/1.1\r\n", looksHTTP},
		{"GET\t/ HTTP/1.1\r\n", looksHTTP},
		{"get / HTTP/1.1\r\n", looksHTTP},
		{"Get / HTTP/1.1\r\n", looksHTTP},
		{"GET x HTTP/1.1\r\n", looksHTTP},
		{"X / HTTP/1.1\r\n", looksHTTP},
		{"M1 / HTTP/1.1\r\n", looksHTTP},
		{strings.Repeat("A", 100) + " /x HTTP/1.1\r\n", looksHTTP}, // any token is a method
		{"GET\x0b/ HTTP/1.1\r\n", looksHTTP},                       // white space by RFC 9112 section 3
		{"GET\x0c/ HTTP/1.1\r\n", looksHTTP},
		{"GET\r/ HTTP/1.1\r\n", looksHTTP},
		{"GET\x1c/ HTTP/1.1\r\n", looksHTTP}, // by Python's split
		{"GET\xa0/ HTTP/1.1\r\n", looksHTTP},
		{"GET http://a/x\r\n", looksHTTP},          // HTTP/0.9
		{"GET http://a/x RTSP/1.0\r\n", looksHTTP}, // by Node.js
		{"OPTIONS rtsp://a/x RTSP/1.0\r\n", looksHTTP},
		{"GET x:/y z\r\n", looksHTTP}, // by Java's HttpServer
		{"GET key\r\n", looksHTTP},
		{"GET key \n", looksHTTP},
		{strings.Repeat("A", 9000), looksHTTP}, // nobody knows yet
		{"GET http://a/" + strings.Repeat("a", 5000), looksHTTP},
		{"A" + strings.Repeat(" b", 5000), looksHTTP},
		// What a target that takes PROXY headers would read a request behind.
		{"PROXY TCP4 10.0.0.1 10.0.0.2 1 80\r\nGET /", looksHTTP},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x11", looksHTTP},
		// Other protocols in which the client speaks first.
		{"EHLO mail.example\r\n", looksOther},
		{"HELO x\r\n", looksOther},
		{"MAIL FROM:<a@b>\r\n", looksOther},
		{"SSH-2.0-OpenSSH_9.6\r\n", looksOther},
		{"*1\r\n$4\r\nPING\r\n", looksOther},
		{"PING\r\n", looksOther},
		{"SET key value\r\n", looksOther},
		{"get key\r\n", looksOther}, // memcached
		{"GET key value\r\n", looksOther},
		{"MAIL FROM:<a/b@c>\r\n", looksOther},
		{"get a/b\r\n", looksOther},
		{"INVITE sip:a@b SIP/2.0\r\n", looksOther},
		{"0\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", looksOther}, // LDAP, whose length is a blank
		{"0\x20\x02\x01\x01\x60\x1b\x02\x01\x03\x04\x0ccn=a,dc=b,dc=c\x80\x03abc", looksOther},
		{"0\x1d\x02\x01\x01\x60\x18\x02\x01\x03", looksOther},
		{"USER anonymous\r\n", looksOther},
		{"NICK somebody\r\n", looksOther},
		{"a001 LOGIN x y\r\n", looksOther},
		{"CAPA\r\n", looksOther},
		{"\x00\x00\x00\x08\x04\xd2\x16\x2f", looksOther}, // PostgreSQL SSLRequest
		{"\x00\x00\x00\x54\x00\x03\x00\x00user\x00", looksOther},
		{"J\x00\x00\x00\x0a8.0.36\x00", looksOther}, // MySQL greeting
		{"\x20\x00\x00\x01\x85\xa6\xff\x01", looksOther},
		{"\x03\x00\x00\x13\x0e\xe0\x00\x00", looksOther}, // RDP
		{"\x10\x10\x00\x04MQTT\x04\x02", looksOther},     // MQTT
		{"\x05\x01\x00", looksOther},                     // SOCKS 5
		{"\x00\x1d\xab\xcd\x01\x00\x00\x01", looksOther}, // DNS over TCP
		{"AMQP\x00\x00\x09\x01", looksOther},             // AMQP
		{"\x80\x2e\x01\x03\x01", looksOther},             // SSL 2
		{"\x13BitTorrent protocol", looksOther},          //
	} {
		kind, sure := look([]byte(test.first))
		if kind != test.want || !sure {
			t.Errorf("%q: %v, sure %v, want %v", test.first, kind, sure, test.want)
		}
		// Fewer bytes may leave it open, but never say something else.
		for n := range test.first {
			if kind, sure := look([]byte(test.first[:n])); sure && kind != test.want {
				t.Errorf("%q: %v after %d bytes, want %v", test.first, kind, n, test.want)
				break
			}
		}
	}
	if _, sure := look(nil); sure {
		t.Error("sure of nothing")
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	value := func(name string) string { return "<" + name + ">" }
	for _, test := range []struct{ in, want string }{
		{"", ""}, {"plain", "plain"}, {"{a}", "<a>"}, {"x{a}y{b}z", "x<a>y<b>z"}, {"{a}{a}", "<a><a>"}, {"}", "}"}, {"a}b{c}", "a}b<c>"},
	} {
		if got := expand(test.in, value); got != test.want {
			t.Errorf("%q: %q, want %q", test.in, got, test.want)
		}
	}
	// What a variable holds is not expanded again.
	if got := expand("{host}", func(string) string { return "{port}" }); got != "{port}" {
		t.Errorf("expanded twice: %q", got)
	}
	for _, ok := range []string{"", "plain", "{host}", "{host}:{port}", "tab\there", "ü"} {
		if err := checkTemplate(ok, headerVariables); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"{", "{host", "a{b}", "{}", "{ host}", "{{host}}", "{HOST}", "{uri}", "a\nb", "a\rb", "a\x00b", "a\x7fb"} {
		if err := checkTemplate(bad, headerVariables); err == nil {
			t.Errorf("%q is taken for a template", bad)
		}
	}
}

func TestAcceptsCoding(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		header string
		want   bool
	}{
		{"", false}, {"gzip", true}, {"GZIP", true}, {"br, gzip", true}, {"br,gzip;q=0.5", true}, {"gzip;q=1.0", true}, {"gzip; q=0.001", true},
		{"br", false}, {"gzip;q=0", false}, {"gzip; q=0.0", false}, {"gzip;q=0.00", false}, {"gzip ; q=0.000", false}, {"gzip;Q=0", false}, {"gzip;\tq=0", false},
		{"xgzip", false}, {"gzipx", false}, {"identity", false}, {"br;q=1, gzip;q=0", false},
	} {
		if got := acceptsCoding([]string{test.header}, "gzip"); got != test.want {
			t.Errorf("%q: %v", test.header, got)
		}
	}
	if !acceptsCoding([]string{"br", "gzip"}, "gzip") {
		t.Error("only the first header line counts")
	}
}

// What security.md and Match.Path say of paths that some targets read otherwise.
func TestHTTPPathsReadOtherwise(t *testing.T) {
	t.Parallel()
	everybody := Security{IPBlockList: []string{"0.0.0.0/0", "::/0"}}
	admin, odd, rest := handlerRoute("admin", Match{Path: "/admin/*"}), handlerRoute("odd", Match{Path: `~//|;|%2F|%5C|\\`}), handlerRoute("rest", Match{})
	admin.Action.Security, odd.Action.Security, odd.Priority = everybody, everybody, 1
	open := startBare(t, Config{Routes: []Route{admin, rest}})
	closed := startBare(t, Config{Routes: []Route{admin, rest, odd}})
	for path, want := range map[string][2]int{
		"/x": {200, 200}, "/admin/x": {403, 403}, "/%61dmin/x": {403, 403},
		"//admin/x": {200, 403}, "/admin;a/x": {200, 403}, "/;/admin/x": {200, 403}, "/%2fadmin/x": {200, 403},
		"/admin%2Fx": {200, 403}, "/admin%5cx": {200, 403}, `/admin\x`: {200, 403}, "/admin%3Ba/x": {200, 403},
	} {
		for i, p := range []*Proxy{open, closed} {
			got := wireTalk(t, addr(t, p, 0), "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if wireStatus(got) != want[i] {
				t.Errorf("%s, odd paths refused %v: %.40q, want %d", path, i == 1, got, want[i])
			}
		}
	}
}
