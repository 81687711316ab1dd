package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/dcrouter/dcrouter/internal/proxyheader"
)

// proxySignature2 begins a header of version 2.
const proxySignature2 = "\r\n\r\n\x00\r\nQUIT\n"

// header2 writes a header of version 2 by hand; command and family as in the
// specification. rest is what follows the fixed part.
func header2(command, family byte, rest ...string) string {
	body := strings.Join(rest, "")
	return proxySignature2 + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(body)))) + body
}

const (
	address4 = "\xc0\x00\x02\x01" + "\xcb\x00\x71\x09" + "\x30\x39" + "\x01\xbb" // 192.0.2.1:12345 to 203.0.113.9:443
	address6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39" + "\x01\xbb"
	mapped6 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x09" + "\x30\x39" + "\x01\xbb"
)

// unixAddresses are paths that read like addresses.
func unixAddresses() string {
	pad := func(s string) string { return s + strings.Repeat("\x00", 108-len(s)) }
	return pad("192.0.2.66:66") + pad("192.0.2.67:67")
}

const (
	from4, to4 = "192.0.2.1:12345", "203.0.113.9:443"
	from6, to6 = "[2001:db8::1]:12345", "[2001:db8::2]:443"
)

// proxyHeaders are well-formed ones and what they say, "" for nothing.
func proxyHeaders() map[string][3]string {
	return map[string][3]string{
		"1 IPv4":               {"PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\r\n", from4, to4},
		"1 IPv6":               {"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", from6, to6},
		"1 mapped":             {"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.9 12345 443\r\n", from4, to4},
		"1 IPv6, long":         {"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 2001:0db8:0000:0000:0000:0000:0000:0002 12345 443\r\n", from6, to6},
		"1 unknown":            {"PROXY UNKNOWN\r\n", "", ""},
		"1 unknown, more":      {"PROXY UNKNOWN 192.0.2.1 203.0.113.9 12345 443\r\n", "", ""},
		"1 longest":            {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "", ""},
		"1 ports":              {"PROXY TCP4 192.0.2.1 203.0.113.9 0 65535\r\n", "192.0.2.1:0", "203.0.113.9:65535"},
		"2 IPv4":               {header2(0x21, 0x11, address4), from4, to4},
		"2 IPv6":               {header2(0x21, 0x21, address6), from6, to6},
		"2 mapped":             {header2(0x21, 0x21, mapped6), from4, to4},
		"2 UDP over IPv4":      {header2(0x21, 0x12, address4), from4, to4},
		"2 UDP over IPv6":      {header2(0x21, 0x22, address6), from6, to6},
		"2 with TLVs":          {header2(0x21, 0x11, address4, "\x01\x00\x02h2", "\x05\x00\x04\x01\x02\x03\x04"), from4, to4},
		"2 with a broken TLV":  {header2(0x21, 0x11, address4, "\x01\xff\xff"), from4, to4},
		"2 longest":            {header2(0x21, 0x11, address4, strings.Repeat("\x04", 4096-12)), from4, to4},
		"2 Unix stream":        {header2(0x21, 0x31, unixAddresses()), "", ""},
		"2 Unix datagram":      {header2(0x21, 0x32, unixAddresses(), "\x04\x00\x00"), "", ""},
		"2 unspecified":        {header2(0x21, 0x00), "", ""},
		"2 unspecified, more":  {header2(0x21, 0x00, "whatever"), "", ""},
		"2 LOCAL":              {header2(0x20, 0x00), "", ""},
		"2 LOCAL, more":        {header2(0x20, 0x00, "\x04\x00\x00"), "", ""},
		"2 LOCAL IPv4":         {header2(0x20, 0x11, address4), "", ""},
		"2 LOCAL IPv4, no one": {header2(0x20, 0x11), "", ""},
		"2 LOCAL IPv6, short":  {header2(0x20, 0x21, "\x01"), "", ""},
		"2 LOCAL Unix":         {header2(0x20, 0x31, unixAddresses()), "", ""},
	}
}

// badProxyHeaders are refused, all of them before anything else is read.
func badProxyHeaders() map[string]string {
	return map[string]string{
		"HTTP":                          "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"TLS":                           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"almost 1":                      "PROXYS TCP4 192.0.2.1 203.0.113.9 12345 443\r\n",
		"1 in lower case":               "proxy TCP4 192.0.2.1 203.0.113.9 12345 443\r\n",
		"1 without CR":                  "PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\n",
		"1 with CR alone":               "PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\r" + strings.Repeat(" ", 70),
		"1 two spaces":                  "PROXY  TCP4 192.0.2.1 203.0.113.9 12345 443\r\n",
		"1 trailing space":              "PROXY TCP4 192.0.2.1 203.0.113.9 12345 443 \r\n",
		"1 no ports":                    "PROXY TCP4 192.0.2.1 203.0.113.9\r\n",
		"1 one port":                    "PROXY TCP4 192.0.2.1 203.0.113.9 12345\r\n",
		"1 large port":                  "PROXY TCP4 192.0.2.1 203.0.113.9 65536 443\r\n",
		"1 negative port":               "PROXY TCP4 192.0.2.1 203.0.113.9 -1 443\r\n",
		"1 padded port":                 "PROXY TCP4 192.0.2.1 203.0.113.9 012345 443\r\n",
		"1 IPv6 in TCP4":                "PROXY TCP4 2001:db8::1 2001:db8::2 12345 443\r\n",
		"1 IPv4 in TCP6":                "PROXY TCP6 192.0.2.1 203.0.113.9 12345 443\r\n",
		"1 padded address":              "PROXY TCP4 192.000.002.001 203.0.113.9 12345 443\r\n",
		"1 zone":                        "PROXY TCP6 fe80::1%eth0 fe80::2 12345 443\r\n",
		"1 name":                        "PROXY TCP4 localhost 203.0.113.9 12345 443\r\n",
		"1 UDP":                         "PROXY UDP4 192.0.2.1 203.0.113.9 12345 443\r\n",
		"1 nothing":                     "PROXY \r\n",
		"1 too long":                    "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n",
		"1 endless":                     "PROXY UNKNOWN " + strings.Repeat("f", 200),
		"2 version 1":                   header2(0x11, 0x11, address4),
		"2 version 3":                   header2(0x31, 0x11, address4),
		"2 command 2":                   header2(0x22, 0x11, address4),
		"2 family 4":                    header2(0x21, 0x41, address4),
		"2 transport 3":                 header2(0x21, 0x13, address4),
		"2 IPv4, short":                 header2(0x21, 0x11, address4[1:]),
		"2 IPv4, empty":                 header2(0x21, 0x11),
		"2 IPv6, short":                 header2(0x21, 0x21, address4),
		"2 Unix, short":                 header2(0x21, 0x31, address6),
		"2 too long":                    header2(0x21, 0x11, address4, strings.Repeat("\x04", 4097-12)),
		"2 LOCAL, too long":             header2(0x20, 0x00, strings.Repeat("\x04", 4097)),
		"2 as long as can be announced": proxySignature2 + "\x21\x11\xff\xff" + address4,
		"2 signature broken":            proxySignature2[:11] + "\x0d\x21\x11\x00\x0c" + address4,
	}
}

// headerConn gives bytes in pieces of the given sizes, the last one for ever.
type headerConn struct {
	net.Conn
	rest  []byte
	sizes []byte
	read  int
}

func (c *headerConn) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(b), len(c.rest))
	if len(c.sizes) > 0 {
		n = min(n, int(c.sizes[0])+1)
		if len(c.sizes) > 1 {
			c.sizes = c.sizes[1:]
		}
	}
	copy(b, c.rest[:n])
	c.rest = c.rest[n:]
	c.read += n
	return n, nil
}

// takeProxyHeader reads a header out of input, which comes in pieces. left is
// what a route would get.
func takeProxyHeader(input, sizes []byte) (client, local netip.AddrPort, left []byte, read int, err error) {
	from := &headerConn{rest: input, sizes: sizes}
	c := &conn{Conn: from}
	err = c.readProxyHeader()
	return c.client, c.local, append(c.takeHead(), from.rest...), from.read, err
}

func TestProxyHeader(t *testing.T) {
	t.Parallel()
	text := func(a netip.AddrPort) string {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	for name, test := range proxyHeaders() {
		for _, sizes := range [][]byte{nil, {0}, {15}, {12, 0, 1, 200}} {
			for _, rest := range []string{"", "x", "\r\nrest\n" + test[0]} {
				client, local, left, _, err := takeProxyHeader([]byte(test[0]+rest), sizes)
				if err != nil || text(client) != test[1] || text(local) != test[2] || string(left) != rest {
					t.Errorf("%s, then %q, in %v: %v to %v, left %q, %v", name, rest, sizes, client, local, left, err)
				}
			}
			for end := range len(test[0]) {
				if _, _, _, _, err := takeProxyHeader([]byte(test[0][:end]), sizes); err == nil {
					t.Errorf("%s in %v: taken after %d of %d bytes", name, sizes, end, len(test[0]))
				}
			}
		}
	}
	for name, text := range badProxyHeaders() {
		for _, sizes := range [][]byte{nil, {0}} {
			endless := append([]byte(text), bytes.Repeat([]byte("z"), 1<<16)...)
			client, _, _, read, err := takeProxyHeader(endless, sizes)
			if err == nil || errors.Is(err, io.EOF) || client.IsValid() || read > proxyheader.MaxSize {
				t.Errorf("%s in %v: client %v after %d bytes, %v", name, sizes, client, read, err)
			}
		}
	}
}

func TestAppendProxyHeader(t *testing.T) {
	t.Parallel()
	var none netip.AddrPort
	a4, b4 := netip.MustParseAddrPort(from4), netip.MustParseAddrPort(to4)
	a6, b6 := netip.MustParseAddrPort(from6), netip.MustParseAddrPort(to6)
	for _, test := range []struct {
		version       int
		client, local netip.AddrPort
		want          string
	}{
		{1, a4, b4, "PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\r\n"},
		{1, a6, b6, "PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n"},
		{1, a4, b6, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 12345 443\r\n"},
		{1, a6, b4, "PROXY TCP6 2001:db8::1 ::ffff:203.0.113.9 12345 443\r\n"},
		{1, none, none, "PROXY UNKNOWN\r\n"},
		{1, a4, none, "PROXY UNKNOWN\r\n"},
		{2, a4, b4, header2(0x21, 0x11, address4)},
		{2, a6, b6, header2(0x21, 0x21, address6)},
		{2, a4, b6, header2(0x21, 0x21, mapped6[:16], address6[16:])},
		{2, none, none, header2(0x20, 0x00)},
		{2, none, b4, header2(0x20, 0x00)},
	} {
		if got := string(appendProxyHeader([]byte("x"), test.version, test.client, test.local)); got != "x"+test.want {
			t.Errorf("%d, %v to %v: %q, want %q", test.version, test.client, test.local, got, test.want)
		}
	}
}

// FuzzProxyHeader compares what is taken with what the library makes of the
// same bytes, and how it comes must not matter.
func FuzzProxyHeader(f *testing.F) {
	for _, test := range proxyHeaders() {
		f.Add([]byte(test[0]), []byte(nil))
		f.Add([]byte(test[0]+"rest"), []byte{15, 3, 0})
	}
	for _, text := range badProxyHeaders() {
		f.Add([]byte(text), []byte{0})
	}
	f.Fuzz(func(t *testing.T, input, sizes []byte) {
		client, local, left, read, err := takeProxyHeader(slices.Clone(input), nil)
		client2, local2, left2, read2, err2 := takeProxyHeader(slices.Clone(input), sizes)
		if client != client2 || local != local2 || (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(left, left2) {
			t.Fatalf("at once: %v %v %q %v; in pieces: %v %v %q %v", client, local, left, err, client2, local2, left2, err2)
		}
		if max(read, read2) > proxyheader.MaxSize {
			t.Fatalf("read %d bytes", max(read, read2))
		}
		if err == nil && !bytes.HasSuffix(input, left) {
			t.Fatalf("left %q", left)
		}

		// All at once and with room for all of it: the library's own conditions.
		r := bytes.NewReader(input)
		br := bufio.NewReaderSize(r, max(len(input), 16))
		h, theirs := proxyproto.Read(br)
		unspecified := bytes.HasPrefix(input, []byte(proxySignature2+"\x21\x00"))
		if (err == nil) != (theirs == nil) && !unspecified {
			t.Fatalf("we say %v, the library %v", err, theirs)
		}
		if theirs != nil || err != nil {
			return
		}
		rest, _ := io.ReadAll(br)
		if !bytes.Equal(rest, left) {
			t.Fatalf("left %q, by the library %q", left, rest)
		}
		var want netip.AddrPort
		if ip, _, ok := h.IPs(); ok && h.Command.IsProxy() {
			port, _, _ := h.Ports()
			addr, _ := netip.AddrFromSlice(ip)
			want = netip.AddrPortFrom(addr.Unmap(), uint16(port))
		}
		if client != want {
			t.Fatalf("client is %v, by the library %v", client, want)
		}
	})
}
