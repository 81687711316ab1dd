package dnsserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestHTTP2Spec(t *testing.T) {
	tool := testenv.Need(t, "h2spec", "go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
	s, _ := startHTTPS(t, Config{}, nil)
	host, port := hostPort(t, addr(t, s, "https"))
	out, err := testenv.Command(t, tool, "-h", host, "-p", port, "-t", "-k", "-P", "/resolve?name=a.example").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "145 passed, 0 skipped, 0 failed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Many requests at once are answered, each by its own answer.
func TestHTTP2Pipelined(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	var ids []uint32
	for i := range uint32(maxStreams) {
		id := 2*i + 1
		ids = append(ids, id)
		query := makeQuery(uint16(i), fmt.Sprintf("n%d.example", i))
		switch i % 3 {
		case 0:
			h.get(id, query)
		case 1:
			h.head(id, false, "POST", "/dns-query", "content-type", wireType)
			h.WriteDataPadded(id, false, query[:5], make([]byte, i))
			h.WriteData(id, true, query[5:])
		default: // with fields at its end
			h.head(id, false, "POST", "/dns-query", "content-type", wireType, "content-length", fmt.Sprint(len(query)))
			h.WriteData(id, false, query)
			h.block.Reset()
			h.enc.WriteField(hpack.HeaderField{Name: "checksum", Value: "1"})
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: true})
		}
	}
	got, err := h.until(all(ids...))
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if got[id].status() != "200" {
			t.Fatalf("%d: %+v", id, got[id])
		}
		wantAnswer(t, got[id].body, makeQuery(uint16(i), fmt.Sprintf("n%d.example", i)))
	}
}

// More than the windows allow waits, in pieces, and others go on.
func TestHTTP2Windows(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, func(s *Server) {
		s.responding = func(_ *scratch, dst, query []byte, _ *asker) []byte {
			dst = append(append(dst, query[:2]...), 0x80)
			return append(dst, bytes.Repeat(query[1:2], 40000-3)...)
		}
	})
	h := dialHTTP2(t, s, client, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	want := func(what string, got map[uint32]*response2, err error, sizes map[uint32]int) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for id, size := range sizes {
			if r := got[id]; r == nil && size > 0 || r != nil && len(r.body) != size {
				t.Fatalf("%s, stream %d: %+v, want %d bytes", what, id, r, size)
			}
		}
	}
	seen := func(size int) func(map[uint32]*response2) bool {
		return func(got map[uint32]*response2) bool {
			sum := 0
			for _, r := range got {
				sum += len(r.body)
			}
			return sum >= size
		}
	}
	h.get(1, makeQuery(1, "a.example"))
	h.get(3, makeQuery(3, "b.example"))
	got, err := h.until(func(got map[uint32]*response2) bool { return len(got) == 2 })
	want("no window", got, err, map[uint32]int{1: 0, 3: 0})
	h.WriteWindowUpdate(3, 100)
	got, err = h.until(seen(100))
	want("some for 3", got, err, map[uint32]int{1: 0, 3: 100})
	h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 50})
	got, err = h.until(seen(100))
	want("more for all", got, err, map[uint32]int{1: 50, 3: 50})
	h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // below zero
	h.WriteWindowUpdate(3, 60)
	got, err = h.until(seen(10))
	want("less for all", got, err, map[uint32]int{3: 10})
	h.WriteWindowUpdate(1, 1<<20)
	h.WriteWindowUpdate(3, 1<<20)
	got, err = h.until(seen(initialWindow - 210))
	want("that of the connection", got, err, map[uint32]int{1: 40000 - 50, 3: initialWindow - 210 - 39950})
	if !got[1].ended || got[3].ended {
		t.Errorf("%v, %v have ended", got[1].ended, got[3].ended)
	}
	h.WriteWindowUpdate(0, 1<<20)
	got, err = h.until(all(3))
	want("all", got, err, map[uint32]int{3: 80000 - initialWindow})

	// Who lets nothing be sent gets nothing more after a while.
	refused := 0
	var ids []uint32
	for id := uint32(5); id < 45; id += 2 {
		h.get(id, makeQuery(1, "a.example"))
	}
	got, err = h.until(func(got map[uint32]*response2) bool { return len(got) == 20 })
	if err != nil {
		t.Fatal(err)
	}
	for id, r := range got {
		if r.reset != nil && *r.reset == http2.ErrCodeRefusedStream {
			refused++
		} else if r.reset == nil {
			ids = append(ids, id)
		}
	}
	if held := len(ids) * 40000; refused == 0 || held > maxUnsent+40000 || held < maxUnsent-40000 {
		t.Errorf("%d are held, %d refused", len(ids), refused)
	}
	// One that gives up is forgotten, another gets its answer.
	h.WriteRSTStream(ids[0], http2.ErrCodeCancel)
	h.WriteWindowUpdate(0, 1<<20)
	h.WriteWindowUpdate(ids[1], 1<<20)
	got, err = h.until(all(ids[1]))
	want("another", got, err, map[uint32]int{ids[1]: 40000, ids[0]: 0})
	h.get(101, makeQuery(1, "a.example"))
	h.WriteWindowUpdate(101, 1<<20)
	got, err = h.until(all(101))
	want("a new one", got, err, map[uint32]int{101: 40000})
	h.Conn.Close()
	waitUntil(t, "the end", func() bool { return s.limits.open.Load() == 0 })
}

// Requests that had begun before do not add to what waits, either.
func TestHTTP2UnsentOfManyBodies(t *testing.T) {
	testenv.Goroutines(t)
	const size = 40000
	s, client := startHTTPS(t, Config{}, func(s *Server) {
		s.responding = func(_ *scratch, dst, query []byte, _ *asker) []byte {
			return append(append(append(dst, query[:2]...), 0x80), make([]byte, size-3)...)
		}
	})
	h := dialHTTP2(t, s, client, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	query := makeQuery(0, "a.example")
	for id := uint32(1); id < 2*maxStreams; id += 2 {
		h.head(id, false, "POST", "/dns-query", "content-type", wireType)
	}
	for id := uint32(1); id < 2*maxStreams; id += 2 {
		h.WriteData(id, true, query)
	}
	held := 0
	_, err := h.until(func(got map[uint32]*response2) bool {
		held = 0
		for _, r := range got {
			if r.reset == nil {
				held += size
			} else if *r.reset != http2.ErrCodeRefusedStream {
				t.Errorf("one ended with %v", *r.reset)
			}
		}
		return len(got) == maxStreams
	})
	if err != nil || held > maxUnsent+size || held < maxUnsent-size {
		t.Errorf("%d bytes are held, %v", held, err)
	}
	h.Conn.Close()
	waitUntil(t, "the end", func() bool { return s.counters.snapshot().HTTPS.OpenConnections == 0 })
	if st := s.counters.snapshot().HTTPS; st.Queries != maxStreams || st.Responses+st.Dropped != maxStreams {
		t.Errorf("%+v", st)
	}
}

// Who breaks the rules is told which.
func TestHTTP2Violations(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	query := makeQuery(7, "a.example")
	stream := func(code http2.ErrCode) any { return code }
	connection := func(code http2.ErrCode) any { return goodbye{code: code} }
	for _, test := range []struct {
		name string
		send func(h *frames)
		want any // what becomes of stream 1, or of the connection
	}{
		{"a data frame for no request", func(h *frames) { h.WriteData(1, true, query) }, connection(http2.ErrCodeProtocol)},
		{"a request of ours", func(h *frames) { h.get(2, query) }, connection(http2.ErrCodeProtocol)},
		{"a number from before", func(h *frames) { h.get(3, query); h.get(1, query) }, connection(http2.ErrCodeStreamClosed)},
		{"more than the body", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType, "content-length", "5")
			h.WriteData(1, false, query)
		}, stream(http2.ErrCodeProtocol)},
		{"less than the body", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType, "content-length", "100")
			h.WriteData(1, true, query)
		}, stream(http2.ErrCodeProtocol)},
		{"a length without a body", func(h *frames) {
			h.head(1, true, "POST", "/dns-query", "content-type", wireType, "content-length", "100")
		}, stream(http2.ErrCodeProtocol)},
		{"no number", func(h *frames) { h.head(1, true, "GET", "/", "content-length", "+1") }, stream(http2.ErrCodeProtocol)},
		{"two lengths", func(h *frames) { h.head(1, true, "GET", "/", "content-length", "0", "content-length", "1") }, stream(http2.ErrCodeProtocol)},
		{"transfer-encoding", func(h *frames) { h.head(1, true, "GET", "/", "transfer-encoding", "chunked") }, stream(http2.ErrCodeProtocol)},
		{"te", func(h *frames) { h.head(1, true, "GET", "/", "te", "gzip") }, stream(http2.ErrCodeProtocol)},
		{"capitals", func(h *frames) { h.head(1, true, "GET", "/", "Accept", "x") }, stream(http2.ErrCodeProtocol)},
		{"no path", func(h *frames) { h.head(1, true, "GET", "") }, stream(http2.ErrCodeProtocol)},
		{"CONNECT with a path", func(h *frames) { h.head(1, true, "CONNECT", "/") }, stream(http2.ErrCodeProtocol)},
		{"beyond the window of the body", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType)
			for range bodyWindow/100 + 1 { // most of it padding
				h.WriteDataPadded(1, false, nil, make([]byte, 99))
			}
		}, stream(http2.ErrCodeFlowControl)},
		{"a window that is too large", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType)
			h.WriteWindowUpdate(1, 1<<31-1)
		}, stream(http2.ErrCodeFlowControl)},
		{"one of the connection", func(h *frames) { h.WriteWindowUpdate(0, 1<<31-1) }, connection(http2.ErrCodeFlowControl)},
		{"a push", func(h *frames) {
			h.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, connection(http2.ErrCodeProtocol)},
		{"a frame that is too long", func(h *frames) { h.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, frameSize+1)) }, connection(http2.ErrCodeFrameSize)},
		{"headers that cannot be read", func(h *frames) {
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}, connection(http2.ErrCodeCompression)},
		{"a dependency on itself", func(h *frames) { h.WritePriority(1, http2.PriorityParam{StreamDep: 1}) }, connection(http2.ErrCodeProtocol)},
		{"padding without its length", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType)
			h.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, nil)
		}, connection(http2.ErrCodeFrameSize)},
		{"more after headers in error", func(h *frames) {
			h.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded, 1, []byte{200, 0x82})
			h.WriteContinuation(1, false, query)
		}, connection(http2.ErrCodeProtocol)},
		{"more padding than headers", func(h *frames) {
			h.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, []byte{200, 0x82})
		}, connection(http2.ErrCodeProtocol)},
		{"a window of nothing", func(h *frames) {
			h.head(1, false, "POST", "/dns-query", "content-type", wireType)
			h.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, make([]byte, 4))
		}, stream(http2.ErrCodeProtocol)},
		{"a window for no request", func(h *frames) { h.WriteWindowUpdate(1, 1) }, connection(http2.ErrCodeProtocol)},
		{"a reset of no request", func(h *frames) { h.WriteRSTStream(1, http2.ErrCodeCancel) }, connection(http2.ErrCodeProtocol)},
	} {
		h := dialHTTP2(t, s, client)
		h.AllowIllegalWrites = true
		test.send(h)
		h.get(5, query)
		got, err := h.until(all(5))
		switch want := test.want.(type) {
		case goodbye:
			var bye *goodbye
			if !errors.As(err, &bye) || bye.code != want.code {
				t.Errorf("%s: %v, want %v", test.name, err, want.code)
			}
		case http2.ErrCode:
			if r := got[1]; r == nil || r.reset == nil || *r.reset != want || got[5].status() != "200" {
				t.Errorf("%s: %+v, %+v, %v, want %v", test.name, got[1], got[5], err, want)
			}
		}
		h.Conn.Close()
	}
	// And who does not speak HTTP/2 at all.
	secure := client.Clone()
	secure.NextProtos = []string{"h2"}
	for _, hello := range []string{"GET / HTTP/1.1\r\nhost: a\r\n\r\n", http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"} {
		c := tls.Client(dial(t, "tcp", addr(t, s, "https")), secure)
		io.WriteString(c, hello)
		var bye *goodbye
		if _, err := newFrames(c).until(noMore); !errors.As(err, &bye) || bye.code != http2.ErrCodeProtocol {
			t.Errorf("%q: %v", hello, err)
		}
		c.Close()
	}
}

// So is a head.
func TestHTTP2LongHead(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	for _, id := range []uint32{1, 3} {
		h.block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/dns-query"}, {"x", strings.Repeat("A", maxHeaderList)}} {
			h.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
		}
		first, rest := h.block.Bytes()[:frameSize/2], h.block.Bytes()[frameSize/2:]
		h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: id == 1})
		h.WriteContinuation(id, true, rest)
		got, err := h.until(all(id))
		if err != nil || got[id].status() != "431" {
			t.Errorf("%d: %+v, %v", id, got[id], err)
		}
	}
	h.get(5, makeQuery(1, "a.example"))
	if got, err := h.until(all(5)); err != nil || got[5].status() != "200" {
		t.Errorf("%+v, %v", got[5], err)
	}
	// Who goes on has to leave.
	h.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, EndStream: true})
	go func() {
		for h.WriteContinuation(7, false, make([]byte, frameSize)) == nil {
		}
	}()
	var bye *goodbye
	if _, err := h.until(noMore); !errors.As(err, &bye) || bye.code == http2.ErrCodeNo {
		t.Errorf("%v", err)
	}
	h.Conn.Close()
}

// A body that is too long is refused as soon as that is known.
func TestHTTP2LongBody(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	h.head(1, false, "POST", "/dns-query", "content-type", wireType, "content-length", "65536")
	h.head(3, false, "POST", "/dns-query", "content-type", wireType)
	for range 4 {
		h.WriteData(3, false, make([]byte, 16<<10))
	}
	got, err := h.until(func(got map[uint32]*response2) bool {
		return got[1] != nil && got[1].reset != nil && got[3] != nil && got[3].reset != nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, r := range got {
		if r.status() != "413" || *r.reset != http2.ErrCodeNo || !strings.Contains(string(r.body), "longer") {
			t.Errorf("%d: %+v", id, r)
		}
	}
	// What they have taken of the window is given back: far more than that comes.
	h.WriteData(3, false, make([]byte, 100)) // too late
	id := uint32(5)
	for range 3 * receiveWindow / maxMessage {
		h.head(id, false, "POST", "/dns-query", "content-type", wireType)
		long := append(makeQuery(1, "a.example"), make([]byte, maxMessage)...)[:maxMessage]
		for part := range slices.Chunk(long, frameSize) {
			h.WriteData(id, false, part)
		}
		h.WriteData(id, true, nil)
		got, err := h.until(all(id))
		if err != nil || got[id].status() != "200" {
			t.Fatalf("%d: %+v, %v", id, got[id], err)
		}
		id += 2
	}
}

// Many bodies at once do not wait for each other for ever: some have to be sent
// again.
func TestHTTP2ManyBodies(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	long := append(makeQuery(1, "a.example"), make([]byte, 16000)...)[:16000]
	var ids []uint32
	for id := uint32(1); id < 60; id += 2 {
		ids = append(ids, id)
		h.head(id, false, "POST", "/dns-query", "content-type", wireType)
	}
	go func() {
		for at := 0; at < len(long); at += 1000 {
			for _, id := range ids {
				h.WriteData(id, at+1000 == len(long), long[at:at+1000]) // also where that has been refused
			}
		}
	}()
	answered := 0
	got, err := h.until(all(ids...))
	for _, id := range ids {
		switch r := got[id]; {
		case r.status() == "200":
			answered++
		case r == nil || r.reset == nil || *r.reset != http2.ErrCodeRefusedStream:
			t.Errorf("%d: %+v", id, r)
		}
	}
	if err != nil || answered < maxBodies/16000 {
		t.Errorf("%d answered, %v", answered, err)
	}
}

// Requests that do not end hold no more than bodies may, without one too.
func TestHTTP2RequestsWithoutEnd(t *testing.T) {
	testenv.Goroutines(t)
	var made atomic.Int32
	s, client := startHTTPS(t, Config{}, func(s *Server) {
		s.messages.New = func() any { made.Add(1); b := make([]byte, 0, 4<<10); return &b }
	})
	h := dialHTTP2(t, s, client)
	ping := func() { // which is answered when all before it has been taken in
		h.WritePing(false, [8]byte{})
		for {
			f, err := h.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
				return
			}
		}
	}
	for i := range uint32(maxStreams - 1) {
		h.head(2*i+1, false, "POST", "/dns-query", "content-type", wireType)
	}
	ping()
	if n := made.Load(); n > maxStreams/2 {
		t.Errorf("%d buffers for bodies of which nothing has come", n)
	}
	h.Conn.Close()

	h = dialHTTP2(t, s, client)
	query := makeQuery(1, "a.example")
	long := append(query, make([]byte, 8000)...)
	var ids []uint32
	for i := range uint32(maxStreams) {
		ids = append(ids, 2*i+1)
		h.head(2*i+1, false, "GET", "/dns-query?dns="+encode(long))
	}
	for _, id := range ids {
		h.WriteData(id, true, nil)
	}
	answered := 0
	got, err := h.until(all(ids...))
	for id, r := range got {
		switch {
		case r.status() == "200":
			answered++
		case r.reset == nil || *r.reset != http2.ErrCodeRefusedStream:
			t.Errorf("%d: %+v", id, r)
		}
	}
	if want := maxBodies / len(long); err != nil || answered != want {
		t.Errorf("%d were held and answered, want %d, %v", answered, want, err)
	}
	h.get(301, query) // all that was kept is given back
	h.head(303, false, "POST", "/dns-query", "content-type", wireType)
	h.WriteData(303, true, query)
	h.head(305, true, "POST", "/dns-query", "content-type", wireType)
	if got, err := h.until(all(301, 303, 305)); err != nil || got[301].status() != "200" || got[303].status() != "200" || got[305].status() != "400" {
		t.Errorf("later: %+v, %+v, %+v, %v", got[301], got[303], got[305], err)
	}
}

// What is still on its way for a request that was broken off is no error.
func TestHTTP2LateFrames(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	h.head(1, false, "POST", "/dns-query", "content-type", wireType, "content-length", "65536")
	h.WriteData(1, false, make([]byte, 100))
	h.WriteWindowUpdate(1, 100)
	h.block.Reset()
	h.enc.WriteField(hpack.HeaderField{Name: "checksum", Value: "1"})
	h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block.Bytes(), EndHeaders: true, EndStream: true})
	h.get(3, makeQuery(1, "a.example"))
	if got, err := h.until(all(1, 3)); err != nil || got[1].status() != "413" || got[3].status() != "200" {
		t.Errorf("%+v, %+v, %v", got[1], got[3], err)
	}
}

// Each request is counted once, whatever becomes of it.
func TestHTTP2Counters(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 8; id += 2 {
		h.get(id, makeQuery(1, "a.example")) // the answer is held
	}
	for id := uint32(9); id < 16; id += 2 {
		h.head(id, false, "POST", "/dns-query", "content-type", wireType)
	}
	h.WriteRSTStream(1, http2.ErrCodeCancel)
	h.WriteRSTStream(9, http2.ErrCodeCancel)
	h.WriteWindowUpdate(3, 1<<31-1)
	h.WriteWindowUpdate(3, 1<<31-1)
	h.WriteWindowUpdate(11, 1<<31-1)
	h.WriteWindowUpdate(11, 1<<31-1)
	h.WriteWindowUpdate(5, 1000)
	if _, err := h.until(all(3, 5, 11)); err != nil {
		t.Fatal(err)
	}
	h.Conn.Close()
	waitUntil(t, "the end", func() bool { return s.counters.snapshot().HTTPS.OpenConnections == 0 })
	if st := s.counters.snapshot().HTTPS; st.Queries != 8 || st.Responses != 4 || st.Dropped != 4 {
		t.Errorf("%+v", st)
	}
}

// A connection may be idle for a time, whatever but requests comes, and a body
// may take one. That costs its request, not the others.
func TestHTTP2SlowClients(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{IdleTimeout: 300 * time.Millisecond}, nil)
	var wg sync.WaitGroup
	for name, begin := range map[string]func(h *frames) error{
		"idle":     func(*frames) error { return nil },
		"answered": func(h *frames) error { h.get(1, makeQuery(1, "a.example")); return nil },
		"pings":    func(h *frames) error { return h.WritePing(false, [8]byte{}) },
	} {
		wg.Go(func() {
			h := dialHTTP2(t, s, client)
			began := time.Now()
			done := make(chan struct{})
			wg.Go(func() {
				for begin(h) == nil && name == "pings" {
					select {
					case <-done:
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			})
			var bye *goodbye
			_, err := h.until(noMore)
			close(done)
			if took := time.Since(began); !errors.As(err, &bye) || bye.code != http2.ErrCodeNo || took < 200*time.Millisecond || took > 3*time.Second {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		})
	}
	wg.Go(func() {
		h := dialHTTP2(t, s, client)
		query := makeQuery(1, "a.example")
		post := func(id uint32) {
			h.head(id, false, "POST", "/dns-query", "content-type", wireType)
			h.WriteData(id, false, query[:5])
		}
		began := time.Now()
		post(1)
		time.Sleep(50 * time.Millisecond)
		post(3) // stands still, while the deadline is that of 1
		time.Sleep(time.Second)
		h.WriteData(1, true, query[5:])
		time.Sleep(messageTime - 500*time.Millisecond - time.Since(began))
		post(5)
		got, err := h.until(all(1, 3))
		if took := time.Since(began); err != nil || got[3].reset == nil || *got[3].reset != http2.ErrCodeCancel || took < messageTime-500*time.Millisecond || took > messageTime+3*time.Second {
			t.Errorf("%+v, %v after %v", got[3], err, took)
		}
		h.WriteData(5, true, query[5:])
		if later, err := h.until(all(5)); got[1].status() != "200" || err != nil || later[5].status() != "200" {
			t.Errorf("others: %+v, %+v, %v", got[1], later[5], err)
		}
	})
	wg.Wait()
}

// Whatever a client sends, it is served to an end, and nothing is left of it.
func FuzzHTTP2(f *testing.F) {
	s := startDoH(f)
	var b bytes.Buffer
	h := &frames{Framer: http2.NewFramer(&b, nil)}
	add := func(frames func()) {
		b.Reset()
		h.enc = hpack.NewEncoder(&h.block)
		h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 20})
		frames()
		f.Add(bytes.Clone(b.Bytes()))
	}
	query := makeQuery(1, "a.example")
	add(func() { h.get(1, query); h.WriteWindowUpdate(1, 100); h.WriteWindowUpdate(0, 100) })
	add(func() {
		h.head(1, false, "POST", "/dns-query", "content-type", wireType)
		h.WriteData(1, false, query[:9])
		h.WriteDataPadded(1, true, query[9:], make([]byte, 9))
		h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
	})
	add(func() {
		h.head(1, false, "PUT", "/%2fresolve?name=a", "content-length", "3")
		h.WritePing(false, [8]byte{})
		h.WriteRSTStream(1, http2.ErrCodeCancel)
		h.WritePriority(3, http2.PriorityParam{StreamDep: 1})
		h.WriteGoAway(0, http2.ErrCodeNo, nil)
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		open := s.limits.open.Load()
		server, client := net.Pipe()
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, client) })
		reading.Go(func() {
			client.SetWriteDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(client, http2.ClientPreface)
			client.Write(data)
			client.Close()
		})
		r := s.current()
		c := &clientConn{Conn: server, raw: server, run: r, from: asker{transport: overHTTPS}, stats: s.counters.shard(overHTTPS)}
		before := s.counters.snapshot().HTTPS
		serveHTTP2(c)
		server.Close()
		reading.Wait()
		after := s.counters.snapshot().HTTPS
		if asked, told := after.Queries-before.Queries, after.Responses+after.Dropped-before.Responses-before.Dropped; asked != told {
			t.Errorf("%d queries, %d counted as answered or dropped", asked, told)
		}
		if s.limits.open.Load() != open {
			t.Error("the books are wrong")
		}
	})
}
