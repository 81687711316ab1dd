package dnsserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is the client side of a connection in HTTP/2, frame by frame.
type frames struct {
	*http2.Framer
	net.Conn
	enc   *hpack.Encoder
	block bytes.Buffer
}

// dialHTTP2 says hello.
func dialHTTP2(t testing.TB, s *Server, client *tls.Config, settings ...http2.Setting) *frames {
	t.Helper()
	client = client.Clone()
	client.NextProtos = []string{"h2"}
	c := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	h := newFrames(c)
	h.WriteSettings(settings...)
	return h
}

func newFrames(c net.Conn) *frames {
	h := &frames{Framer: http2.NewFramer(c, c), Conn: c}
	h.enc = hpack.NewEncoder(&h.block)
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return h
}

// head sends the head of a request; more are fields.
func (h *frames) head(id uint32, end bool, method, target string, more ...string) {
	h.block.Reset()
	fields := append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", target}, more...)
	for i := 0; i < len(fields); i += 2 {
		h.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: end})
}

func (h *frames) get(id uint32, query []byte) {
	h.head(id, true, "GET", "/dns-query?dns="+encode(query))
}

// response is what came on a stream.
type response2 struct {
	head  http.Header
	body  []byte
	ended bool
	reset *http2.ErrCode
}

// until reads until ok, and returns what came on each stream. err is a
// *goodbye, if there was one, or io.EOF.
func (h *frames) until(ok func(got map[uint32]*response2) bool) (got map[uint32]*response2, err error) {
	got = make(map[uint32]*response2)
	of := func(id uint32) *response2 {
		if got[id] == nil {
			got[id] = new(response2)
		}
		return got[id]
	}
	for !ok(got) {
		f, readErr := h.ReadFrame()
		if readErr != nil {
			return got, errors.Join(err, readErr)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			r := of(f.StreamID)
			r.head, r.ended = make(http.Header), f.StreamEnded()
			for _, field := range f.Fields {
				r.head.Add(field.Name, field.Value)
			}
		case *http2.DataFrame:
			r := of(f.StreamID)
			r.body, r.ended = append(r.body, f.Data()...), f.StreamEnded()
		case *http2.RSTStreamFrame:
			code := f.ErrCode
			of(f.StreamID).reset = &code
		case *http2.GoAwayFrame:
			err = &goodbye{f.ErrCode, f.LastStreamID}
		}
	}
	return got, err
}

func (r *response2) status() string {
	if r == nil || r.head == nil {
		return ""
	}
	return r.head.Get(":status")
}

type goodbye struct {
	code http2.ErrCode
	last uint32
}

func (g *goodbye) Error() string { return fmt.Sprintf("GOAWAY %v after %d", g.code, g.last) }

// all is for until: all of these streams have ended.
func all(ids ...uint32) func(map[uint32]*response2) bool {
	return func(got map[uint32]*response2) bool {
		return !slices.ContainsFunc(ids, func(id uint32) bool { return got[id] == nil || !got[id].ended && got[id].reset == nil })
	}
}

func noMore(map[uint32]*response2) bool { return false }
