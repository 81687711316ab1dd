package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Wire is an HTTP/2 client that sends what it is told to, frame by frame.
type h2Wire struct {
	net.Conn
	*http2.Framer // one goroutine reads, one writes
	block         bytes.Buffer
	enc           *hpack.Encoder
}

// h2Dial connects and greets; over TLS if cfg is not nil.
func h2Dial(t testing.TB, addr string, cfg *tls.Config, settings ...http2.Setting) *h2Wire {
	t.Helper()
	c := wireDial(t, addr)
	if cfg != nil {
		cfg = cfg.Clone()
		cfg.NextProtos = []string{"h2"}
		secure := tls.Client(c, cfg)
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		c = secure
	}
	h := &h2Wire{Conn: c, Framer: http2.NewFramer(c, c)}
	h.enc = hpack.NewEncoder(&h.block)
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return h
}

// tcp is the connection below.
func (h *h2Wire) tcp() *net.TCPConn {
	if secure, ok := h.Conn.(*tls.Conn); ok {
		return secure.NetConn().(*net.TCPConn)
	}
	return h.Conn.(*net.TCPConn)
}

// fields encodes header fields, given as name, value, name, value.
func (h *h2Wire) fields(fields ...string) []byte {
	h.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		h.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return h.block.Bytes()
}

// open sends the head of a request; more are header fields.
func (h *h2Wire) open(id uint32, end bool, method, host, path string, more ...string) error {
	return h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: end,
		BlockFragment: h.fields(append([]string{":method", method, ":scheme", "https", ":authority", host, ":path", path}, more...)...)})
}

// h2Answer is what came back on a stream.
type h2Answer struct {
	head, trailer map[string]string
	body          string
	reset         error // an http2.ErrCode if the stream was reset
}

// answer reads until stream id has ended, and answers SETTINGS and PING.
func (h *h2Wire) answer(id uint32) (a h2Answer, err error) {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return a, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				h.WriteSettingsAck()
			}
			continue
		case *http2.PingFrame:
			if !f.IsAck() {
				h.WritePing(true, f.Data)
			}
			continue
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return a, http2.ConnectionError(f.ErrCode)
			}
			continue
		}
		if f.Header().StreamID != id {
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			fields := make(map[string]string)
			for _, field := range f.Fields {
				fields[field.Name] = field.Value
			}
			if a.head == nil || a.head[":status"] < "200" {
				a.head = fields
			} else {
				a.trailer = fields
			}
		case *http2.DataFrame:
			a.body += string(f.Data())
			if n := uint32(len(f.Data())); n > 0 {
				h.WriteWindowUpdate(0, n)
				if !f.StreamEnded() {
					h.WriteWindowUpdate(id, n)
				}
			}
		case *http2.RSTStreamFrame:
			a.reset = http2.StreamError{StreamID: id, Code: f.ErrCode}
			return a, nil
		}
		if f.Header().Flags.Has(http2.FlagDataEndStream) { // the same bit for HEADERS
			return a, nil
		}
	}
}

// goodbye reads until the server closes the connection, and returns the code of
// its GOAWAY and what came before that.
func (h *h2Wire) goodbye() (code http2.ErrCode, frames []http2.FrameHeader, err error) {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return code, frames, err
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			code = g.ErrCode
		}
		frames = append(frames, f.Header())
	}
}

// bystander sends requests over and over while an attack goes on. The func it
// returns ends that, and fails the test unless all were answered, each in time.
func bystander(t *testing.T, ask func() error) (done func()) {
	t.Helper()
	stop := make(chan struct{})
	var running sync.WaitGroup
	var count int
	var slowest time.Duration
	var failed error
	running.Go(func() {
		for failed == nil {
			select {
			case <-stop:
				return
			default:
			}
			begin := time.Now()
			failed = ask()
			count, slowest = count+1, max(slowest, time.Since(begin))
		}
	})
	return sync.OnceFunc(func() {
		t.Helper()
		close(stop)
		waitAll(t, &running)
		if failed != nil {
			t.Errorf("another client, at request %d: %v", count, failed)
		}
		if slowest > 3*time.Second {
			t.Errorf("another client had to wait %v", slowest)
		}
		t.Logf("another client had %d requests meanwhile, the slowest took %v", count, slowest)
	})
}
