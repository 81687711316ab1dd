package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// readConn reads from r and takes what is written.
type readConn struct {
	net.Conn
	r io.Reader
	w bytes.Buffer
}

func (c *readConn) Read(b []byte) (int, error)  { return c.r.Read(b) }
func (c *readConn) Write(b []byte) (int, error) { return c.w.Write(b) }

// rewritten is what net/http would read of what a client sends after the
// preface.
func rewritten(t testing.TB, sent []byte) *extendedConnect {
	t.Helper()
	e := newExtendedConnect(&readConn{r: io.MultiReader(strings.NewReader(http2Preface), bytes.NewReader(sent))}, new(conn), 1<<20)
	preface := make([]byte, len(http2Preface))
	if _, err := io.ReadFull(e, preface); err != nil || string(preface) != http2Preface {
		t.Fatalf("%q, %v", preface, err)
	}
	return e
}

// sameFrames fails the test unless two readings of a connection agree: up to
// the first error that ends it, everything but extended CONNECT is the same.
func sameFrames(t testing.TB, sent []byte, exact bool) {
	t.Helper()
	framer := func(r io.Reader) *http2.Framer {
		f := http2.NewFramer(io.Discard, r)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		f.MaxHeaderListSize = 1<<20 + 320
		f.SetMaxReadFrameSize(maxFrame)
		return f
	}
	e := rewritten(t, sent)
	secret := e.conn.connectSecret
	as, is := framer(bytes.NewReader(sent)), framer(e)
	for n := 0; ; n++ {
		want, wantErr := as.ReadFrame()
		got, gotErr := is.ReadFrame()
		if errors.Is(gotErr, errBlockWaste) {
			return // stricter than net/http
		}
		var stream, stream2 http2.StreamError
		switch {
		case errors.As(wantErr, &stream):
			if gotErr == http2.ConnectionError(http2.ErrCodeCompression) && !exact {
				return // net/http does not look at what comes after a bad field
			}
			if !errors.As(gotErr, &stream2) || stream2.StreamID != stream.StreamID || stream2.Code != stream.Code {
				t.Fatalf("frame %d: %v, %v, want %v", n, got, gotErr, wantErr)
			}
			continue
		case wantErr != nil:
			if gotErr == nil || errors.As(gotErr, &stream2) {
				t.Fatalf("frame %d: %v, %v, want %v", n, got, gotErr, wantErr)
			}
			// Which error it is can depend on what is read first.
			var code, code2 http2.ConnectionError
			if exact && errors.As(wantErr, &code) && (!errors.As(gotErr, &code2) || code != code2) {
				t.Fatalf("frame %d: %v, want %v", n, gotErr, wantErr)
			}
			return
		case gotErr != nil:
			t.Fatalf("frame %d: %v, want %v", n, gotErr, want)
		}
		head, ok := want.(*http2.MetaHeadersFrame)
		if !ok {
			// Frames compare by what is in them, which their methods tell.
			a, b := want.Header(), got.Header()
			if a.Type != b.Type || a.Flags != b.Flags || a.StreamID != b.StreamID || a.Length != b.Length {
				t.Fatalf("frame %d: %v, want %v", n, b, a)
			}
			if d, ok := want.(*http2.DataFrame); ok && !bytes.Equal(d.Data(), got.(*http2.DataFrame).Data()) {
				t.Fatalf("frame %d: other data", n)
			}
			continue
		}
		again, ok := got.(*http2.MetaHeadersFrame)
		if !ok || head.StreamID != again.StreamID || head.StreamEnded() != again.StreamEnded() || head.HasPriority() != again.HasPriority() || head.Priority != again.Priority {
			t.Fatalf("frame %d: %v, want %v", n, got, want)
		}
		fields := head.Fields
		if method, protocol := head.PseudoValue("method"), head.PseudoValue("protocol"); method == "CONNECT" && protocol != "" {
			var want []hpack.HeaderField
			for _, f := range fields {
				switch f.Name {
				case ":method":
					f.Value = http.MethodGet
				case ":protocol":
					continue
				}
				want = append(want, f)
			}
			fields = append(want, hpack.HeaderField{Name: strings.ToLower(connectMarker), Value: secret + protocol, Sensitive: true})
		}
		if !slices.Equal(again.Fields, fields) {
			t.Fatalf("frame %d: fields %v, want %v", n, again.Fields, fields)
		}
	}
}

// clientFrames returns what send sends.
func clientFrames(send func(h *h2Wire)) []byte {
	var b bytes.Buffer
	h := &h2Wire{Framer: http2.NewFramer(&b, nil)}
	h.AllowIllegalWrites = true
	h.enc = hpack.NewEncoder(&h.block)
	send(h)
	return b.Bytes()
}

func extendedConnectSeeds() map[string][]byte {
	get := []string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/", "cookie", "a=b"}
	connect := []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a.test", ":path", "/ws"}
	head := func(h *h2Wire, id uint32, fields ...string) http2.HeadersFrameParam {
		return http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: slices.Clone(h.fields(fields...))}
	}
	return map[string][]byte{
		"requests": clientFrames(func(h *h2Wire) {
			h.WriteSettings()
			for id := uint32(1); id < 8; id += 2 {
				h.open(id, false, "POST", "a.test", "/", "x", "y")
				h.WriteData(id, false, []byte("body"))
				h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: h.fields("trailer", "1")})
			}
			h.WritePing(false, [8]byte{1})
			h.WriteRSTStream(1, http2.ErrCodeCancel)
			h.WriteWindowUpdate(0, 1)
			h.WriteGoAway(0, http2.ErrCodeNo, nil)
		}),
		"padding and priority": clientFrames(func(h *h2Wire) {
			p := head(h, 1, get...)
			p.PadLength, p.EndStream, p.Priority = 7, true, http2.PriorityParam{StreamDep: 3, Weight: 9, Exclusive: true}
			h.WriteHeaders(p)
			h.WriteHeaders(head(h, 3, get...))
		}),
		"continuation": clientFrames(func(h *h2Wire) {
			block := slices.Clone(h.fields(append(get, "x", strings.Repeat("y", 1000))...))
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, BlockFragment: block[:10]})
			h.WriteContinuation(1, false, block[10:20])
			h.WriteContinuation(1, false, nil)
			h.WriteContinuation(1, true, block[20:])
			h.WriteHeaders(head(h, 3, get...))
		}),
		"connect": clientFrames(func(h *h2Wire) {
			h.WriteHeaders(head(h, 1, connect...))
			h.WriteHeaders(head(h, 3, get...))
			h.WriteHeaders(head(h, 5, connect...))
		}),
		"late connect": clientFrames(func(h *h2Wire) {
			for id := uint32(1); id < 20; id += 2 {
				fields := get
				if id == 9 || id == 13 {
					fields = connect
				}
				h.WriteHeaders(head(h, id, append(fields, "y", strings.Repeat("z", int(id)))...))
			}
		}),
		"connect after a mistake": clientFrames(func(h *h2Wire) {
			h.WriteHeaders(head(h, 1, append([]string{":protocol", "websocket"}, get...)...))
			h.WriteHeaders(head(h, 3, get...))
			h.WriteHeaders(head(h, 5, connect...))
			h.WriteHeaders(head(h, 7, get...))
		}),
		"late continuation": clientFrames(func(h *h2Wire) {
			h.WriteHeaders(head(h, 1, get...))
			block := slices.Clone(h.fields(connect...))
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block[:5]})
			h.WriteContinuation(3, true, block[5:])
			block = slices.Clone(h.fields(get...))
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: block[:1]})
			h.WriteContinuation(5, true, block[1:])
		}),
		"interrupted late": clientFrames(func(h *h2Wire) {
			h.WriteHeaders(head(h, 1, connect...))
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: h.fields(get...)})
			h.WritePing(false, [8]byte{})
		}),
		"mark": clientFrames(func(h *h2Wire) {
			h.WriteHeaders(head(h, 1, append(get, strings.ToLower(connectMarker), "x")...))
		}),
		"large": clientFrames(func(h *h2Wire) {
			for i := range 5 {
				get = append(get, "x"+string(rune('a'+i)), strings.Repeat("~", 9000))
			}
			block := slices.Clone(h.fields(get...))
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:maxFrame]})
			for block = block[maxFrame:]; len(block) > maxFrame; block = block[maxFrame:] {
				h.WriteContinuation(1, false, block[:maxFrame])
			}
			h.WriteContinuation(1, true, block)
			h.WriteHeaders(head(h, 3, connect...))
		}),
		"upper case":        clientFrames(func(h *h2Wire) { h.WriteHeaders(head(h, 1, append(get, "X", "y")...)) }),
		"pseudo late":       clientFrames(func(h *h2Wire) { h.WriteHeaders(head(h, 1, append([]string{"x", "y"}, connect...)...)) }),
		"two protocols":     clientFrames(func(h *h2Wire) { h.WriteHeaders(head(h, 1, append([]string{":protocol", "x"}, connect...)...)) }),
		"bad compression":   clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders, 1, []byte{0xff, 0xff, 0xff}) }),
		"bad padding":       clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders|flagPadded, 1, []byte{9, 0x82}) }),
		"short priority":    clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders|flagPriority, 1, []byte{9}) }),
		"empty and padded":  clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders|flagPadded, 1, nil) }),
		"no stream":         clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders, 0, []byte{0x82}) }),
		"lone continuation": clientFrames(func(h *h2Wire) { h.WriteContinuation(1, true, nil) }),
		"wrong continuation": clientFrames(func(h *h2Wire) {
			h.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			h.WriteContinuation(3, true, nil)
		}),
		"interrupted headers": clientFrames(func(h *h2Wire) {
			h.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			h.WritePing(false, [8]byte{})
		}),
		"frame too large": clientFrames(func(h *h2Wire) { h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders, 1, make([]byte, maxFrame+1)) }),
		"table size": clientFrames(func(h *h2Wire) {
			h.enc.SetMaxDynamicTableSize(100)
			h.WriteHeaders(head(h, 1, get...))
			h.WriteHeaders(head(h, 3, get...))
		}),
		"table too large": clientFrames(func(h *h2Wire) {
			h.WriteRawFrame(http2.FrameHeaders, flagEndHeaders, 1, []byte{0x3f, 0xe2, 0x1f, 0x82})
		}),
	}
}

func TestExtendedConnectChangesNothingElse(t *testing.T) {
	for name, sent := range extendedConnectSeeds() {
		t.Run(name, func(t *testing.T) {
			sameFrames(t, sent, true)
			for i := range len(sent) { // and broken off anywhere
				if i < 200 || i%100 == 0 {
					sameFrames(t, sent[:i], false)
				}
			}
		})
	}
}

func FuzzExtendedConnect(f *testing.F) {
	for _, sent := range extendedConnectSeeds() {
		if len(sent) < 4096 {
			f.Add(sent)
		}
	}
	f.Fuzz(func(t *testing.T, sent []byte) { sameFrames(t, sent, false) })
}

// A header block costs no more than its fields may, however it is cut.
func TestExtendedConnectBounds(t *testing.T) {
	for name, sent := range map[string][]byte{
		"empty frames": clientFrames(func(h *h2Wire) {
			h.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			for range 100 {
				h.WriteContinuation(1, false, nil)
			}
		}),
		"long": clientFrames(func(h *h2Wire) {
			h.WriteRawFrame(http2.FrameHeaders, 0, 1, []byte{0x82})
			for range 20 {
				h.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, maxFrame))
			}
		}),
	} {
		e := newExtendedConnect(&readConn{r: io.MultiReader(strings.NewReader(http2Preface), bytes.NewReader(sent))}, new(conn), 16<<10)
		if n, err := io.Copy(io.Discard, e); err != errBlockWaste || n != int64(len(http2Preface)) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	e := newExtendedConnect(&readConn{r: strings.NewReader("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")}, new(conn), 16<<10)
	if n, err := io.Copy(io.Discard, e); err != nil || n != 0 {
		t.Errorf("no preface: %d bytes, %v", n, err)
	}
	if n, err := e.Read(make([]byte, 100)); err != io.EOF {
		t.Errorf("no preface, and then: %d bytes, %v", n, err)
	}
}

func TestExtendedConnectSettings(t *testing.T) {
	frames := func(settings ...http2.Setting) []byte {
		return clientFrames(func(h *h2Wire) {
			h.WriteSettings(settings...)
			h.WriteWindowUpdate(0, 7)
		})
	}
	some := http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15}
	enable := http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}
	for _, test := range []struct{ said, want []byte }{
		{frames(some), frames(some, enable)},
		{frames(), frames(enable)},
		{frames(some, enable), frames(some, enable)},
		{[]byte("short"), []byte("short")},
		{frames(some)[:12], frames(some)[:12]},
		{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), []byte("HTTP/1.1 400 Bad Request\r\n\r\n")},
	} {
		c := new(readConn)
		e := newExtendedConnect(c, new(conn), 16<<10)
		if n, err := e.Write(test.said); n != len(test.said) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		e.Write(frames(some))
		if got := c.w.Bytes(); !bytes.Equal(got, append(slices.Clone(test.want), frames(some)...)) {
			t.Errorf("%q: wrote %q, want %q first", test.said, got, test.want)
		}
	}
}
