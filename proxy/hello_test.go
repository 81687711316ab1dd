package proxy

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// helloSeeds are first flights of crypto/tls clients.
func helloSeeds(t testing.TB) map[string][]byte {
	many := make([]string, 60)
	for i := range many {
		many[i] = strings.Repeat(string(rune('a'+i%26)), 1+i)
	}
	seeds := make(map[string][]byte)
	for name, cfg := range map[string]*tls.Config{
		"plain":        {ServerName: "example.com"},
		"no name":      {InsecureSkipVerify: true},
		"address":      {ServerName: "192.0.2.1"},
		"upper case":   {ServerName: "EXAMPLE.Com"},
		"alpn":         {ServerName: "example.com", NextProtos: []string{"h2", "http/1.1"}},
		"many alpn":    {ServerName: "example.com", NextProtos: many},
		"1.2":          {ServerName: "example.com", MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		"1.0":          {ServerName: "example.com", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
		"1.3":          {ServerName: "example.com", MinVersion: tls.VersionTLS13},
		"classic":      {ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.X25519}},
		"post-quantum": {ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}, NextProtos: []string{"h2"}},
		"long name":    {ServerName: strings.Repeat("a.", 120) + "example.com"},
		"ech":          {ServerName: "secret.example", EncryptedClientHelloConfigList: echConfig(t), MinVersion: tls.VersionTLS13},
	} {
		seeds[name] = recordHello(t, cfg)
	}
	return seeds
}

// echConfig is a configuration of Encrypted ClientHello for public.example
// with a key of its own.
func echConfig(t testing.TB) []byte {
	key, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	vector := func(size int, b []byte) []byte {
		if size == 1 {
			return append([]byte{byte(len(b))}, b...)
		}
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	contents := slices.Concat([]byte{1, 0, 0x20}, vector(2, key.PublicKey().Bytes()),
		vector(2, []byte{0, 1, 0, 1}), // HKDF-SHA256, AES-128-GCM
		[]byte{32}, vector(1, []byte("public.example")), vector(2, nil))
	return vector(2, slices.Concat([]byte{0xfe, 0x0d}, vector(2, contents)))
}

// readHelloFrom reads input in pieces of the given sizes, over and over.
func readHelloFrom(input []byte, sizes []byte) (*clientHello, error) {
	var h helloReader
	for at, i := 0, 0; ; i++ {
		n := len(input) - at
		if len(sizes) > 0 {
			n = min(n, int(sizes[i%len(sizes)])+1)
		}
		at += n
		done, err := h.read(input[:at])
		if err != nil {
			return nil, err
		}
		if done {
			return h.parse()
		}
		if at == len(input) {
			return nil, io.ErrUnexpectedEOF
		}
	}
}

// bytesConn gives a server some input and nowhere to write to.
type bytesConn struct {
	net.Conn
	r io.Reader
}

func (c bytesConn) Read(b []byte) (int, error)  { return c.r.Read(b) }
func (c bytesConn) Write(b []byte) (int, error) { return len(b), nil }
func (c bytesConn) Close() error                { return nil }
func (c bytesConn) SetDeadline(time.Time) error { return nil }

// cryptoHello is what crypto/tls makes of the input.
func cryptoHello(input []byte) *tls.ClientHelloInfo {
	var got *tls.ClientHelloInfo
	tls.Server(bytesConn{r: bytes.NewReader(input)}, &tls.Config{
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			got = info
			return nil, errors.New("seen enough")
		},
	}).HandshakeContext(context.Background())
	return got
}

// mayRefuse lists what crypto/tls accepts and we do not: records before the
// hello, and record versions that no client sends.
func mayRefuse(input []byte) bool {
	for len(input) >= recordHeaderLen {
		if input[0] != recordTypeHandshake || input[1] != 3 {
			return true
		}
		n := int(binary.BigEndian.Uint16(input[3:]))
		if len(input) < recordHeaderLen+n {
			return false
		}
		input = input[recordHeaderLen+n:]
	}
	return false
}

func compareHello(t *testing.T, input, sizes []byte) {
	t.Helper()
	ours, err := readHelloFrom(input, nil)
	cut, cutErr := readHelloFrom(input, sizes)
	if (err == nil) != (cutErr == nil) || err == nil && (ours.serverName != cut.serverName || !slices.Equal(ours.protocols, cut.protocols)) {
		// What is wrong may be seen sooner, but not differently.
		t.Errorf("whole: %+v, %v; in pieces of %v: %+v, %v", ours, err, sizes, cut, cutErr)
	}
	theirs := cryptoHello(input)
	switch {
	case theirs == nil:
	case err != nil:
		if !mayRefuse(input) {
			t.Errorf("crypto/tls accepts a hello for %q, we say %v", theirs.ServerName, err)
		}
	case theirs.ServerName != ours.serverName || !slices.Equal(theirs.SupportedProtos, ours.protocols):
		t.Errorf("crypto/tls reads %q %q, we %q %q", theirs.ServerName, theirs.SupportedProtos, ours.serverName, ours.protocols)
	}
}

// Whatever crypto/tls reads in a hello we read too: a connection must not be
// routed by one name and served under another.
func FuzzClientHello(f *testing.F) {
	for _, hello := range helloSeeds(f) {
		f.Add(hello, []byte(nil))
		f.Add(hello, []byte{0})
		f.Add(inRecords(hello, 1), []byte{3, 0, 200})
		f.Add(inRecords(hello, 100), []byte{99})
		f.Add(hello[:len(hello)-1], []byte{50})
		f.Add(append(slices.Clone(hello), "trailing"...), []byte{255})
	}
	f.Add([]byte("\x15\x03\x01\x00\x02\x01\x00"), []byte(nil))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), []byte(nil))
	f.Fuzz(compareHello)
}

// The seeds must be understood, or the fuzz target compares nothing.
func TestHelloSeeds(t *testing.T) {
	t.Parallel()
	want := map[string]string{"no name": "", "address": "", "upper case": "EXAMPLE.Com", "long name": strings.Repeat("a.", 120) + "example.com", "ech": "public.example"}
	seeds := helloSeeds(t)
	for name, input := range seeds {
		hello, err := readHelloFrom(input, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		server, ok := want[name]
		if !ok {
			server = "example.com"
		}
		if hello.serverName != server {
			t.Errorf("%s: name %q, want %q", name, hello.serverName, server)
		}
		if cryptoHello(input) == nil {
			t.Errorf("%s: crypto/tls does not take it", name)
		}
		// Every way to cut it in two, as segments and as records.
		for n := 1; n < len(input); n++ {
			var h helloReader
			if done, err := h.read(input[:n]); done || err != nil {
				t.Fatalf("%s: after %d of %d bytes: %v, %v", name, n, len(input), done, err)
			}
			if done, err := h.read(input); !done || err != nil {
				t.Fatalf("%s: cut after %d bytes: %v, %v", name, n, done, err)
			}
		}
		for _, n := range []int{1, 2, 3, 4, 5, 100, 1000} {
			compareHello(t, inRecords(input, n), []byte{byte(n)})
			if hello, err := readHelloFrom(inRecords(input, n), nil); err != nil || hello.serverName != server {
				t.Errorf("%s in records of %d bytes: %+v, %v", name, n, hello, err)
			}
		}
	}
	if len(seeds["post-quantum"]) < 1300 {
		t.Errorf("the post-quantum hello has only %d bytes", len(seeds["post-quantum"]))
	}
	if h, _ := readHelloFrom(seeds["alpn"], nil); !slices.Equal(h.protocols, []string{"h2", "http/1.1"}) {
		t.Errorf("ALPN %q", h.protocols)
	}
}

// Changed seeds, the same every time: a fuzz run of no length.
func TestHelloMutations(t *testing.T) {
	t.Parallel()
	for name, input := range helloSeeds(t) {
		step := 1 + len(input)/400
		for i := 0; i < len(input); i += step {
			for _, b := range []byte{0, 1, 0xff, input[i] ^ 0x80, input[i] + 1, input[i] - 1} {
				changed := slices.Clone(input)
				changed[i] = b
				compareHello(t, changed, []byte{byte(i)})
				if t.Failed() {
					t.Fatalf("%s with byte %d set to %d", name, i, b)
				}
			}
		}
	}
}

// helloWith is a minimal hello with these extensions.
func helloWith(extensions ...[]byte) []byte {
	body := slices.Concat([]byte{3, 3}, make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0})
	if extensions != nil {
		all := slices.Concat(extensions...)
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(all))), all...)
	}
	message := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}

func extension(kind int, body ...byte) []byte {
	return slices.Concat([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body))}, body)
}

func TestHelloExtensions(t *testing.T) {
	t.Parallel()
	name := extension(0, 0, 4, 0, 0, 1, 'a')
	for _, test := range []struct {
		what   string
		hello  []byte
		server string
		ok     bool
	}{
		{"none", helloWith(), "", true},
		{"an empty list", helloWith([]byte{}), "", true},
		{"a name", helloWith(name), "a", true},
		{"a name after others", helloWith(extension(43, 2, 3, 4), extension(0xfafa), name), "a", true},
		{"another type of name before", helloWith(extension(0, 0, 8, 7, 0, 1, 'x', 0, 0, 1, 'a')), "a", true},
		{"only another type of name", helloWith(extension(0, 0, 4, 7, 0, 1, 'x')), "", true},
		{"two names", helloWith(extension(0, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b')), "", false},
		{"the extension twice", helloWith(name, name), "", false},
		{"an empty name", helloWith(extension(0, 0, 3, 0, 0, 0)), "", false},
		{"an empty list of names", helloWith(extension(0, 0, 0)), "", false},
		{"an empty extension", helloWith(extension(0)), "", false},
		{"a name longer than its list", helloWith(extension(0, 0, 4, 0, 0, 2, 'a')), "", false},
		{"a list longer than its extension", helloWith(extension(0, 0, 5, 0, 0, 1, 'a')), "", false},
		{"bytes after the list", helloWith(extension(0, 0, 4, 0, 0, 1, 'a', 'x')), "", false},
		{"an extension longer than all", helloWith([]byte{0, 0, 0, 9, 0, 4, 0, 0, 1, 'a'}), "", false},
		{"ALPN with an empty protocol", helloWith(name, extension(16, 0, 1, 0)), "", false},
		{"ALPN with an empty list", helloWith(name, extension(16, 0, 0)), "", false},
		{"ALPN twice", helloWith(extension(16, 0, 2, 1, 'x'), extension(16, 0, 2, 1, 'x')), "", false},
	} {
		hello, err := readHelloFrom(test.hello, nil)
		if (err == nil) != test.ok || err == nil && hello.serverName != test.server {
			t.Errorf("%s: %+v, %v", test.what, hello, err)
		}
		compareHello(t, test.hello, []byte{0})
	}
}

// Another message with the contents of a hello is none.
func TestHelloType(t *testing.T) {
	t.Parallel()
	input := helloWith(extension(0, 0, 4, 0, 0, 1, 'a'))
	for kind := range 256 {
		input[5] = byte(kind)
		if hello, err := readHelloFrom(input, nil); (err == nil) != (kind == typeClientHello) {
			t.Errorf("message type %d: %+v, %v", kind, hello, err)
		}
		compareHello(t, input, []byte{0})
	}
}

// What the reader keeps is bounded by what a hello may be.
func TestHelloBounds(t *testing.T) {
	t.Parallel()
	var h helloReader
	endless := []byte{22, 3, 1, 0, 4, 1, 1, 0, 0} // announces 64 KiB
	for len(endless) < 1<<20 {
		endless = append(endless, 22, 3, 1, 0x40, 0)
		endless = append(endless, make([]byte, maxRecord)...)
		if done, err := h.read(endless); err != nil {
			break
		} else if done {
			if len(h.message) > 4+maxHello {
				t.Errorf("kept %d bytes", len(h.message))
			}
			break
		}
	}
	if cap(h.message) > 4*maxHello {
		t.Errorf("took %d bytes", cap(h.message))
	}
	if _, err := readHelloFrom([]byte{22, 3, 1, 0, 4, 1, 1, 0, 1}, nil); !errors.Is(err, errNotTLS) {
		t.Errorf("a hello of 64 KiB and one byte: %v", err)
	}
}
