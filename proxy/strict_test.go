package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// pieceConn is a connection that has text to read, in pieces.
type pieceConn struct {
	net.Conn
	text  string
	sizes *rand.Rand
}

func (c *pieceConn) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+c.sizes.IntN(40))], c.text)
	c.text = c.text[n:]
	return n, nil
}

// SetReadDeadline does nothing: nothing here waits.
func (c *pieceConn) SetReadDeadline(time.Time) error { return nil }

func strictOver(text string, seed uint64) *strictConn {
	c := &pieceConn{text: text, sizes: rand.New(rand.NewPCG(seed, 1))}
	pool := &sync.Pool{New: func() any { b := make([]byte, 512); return &b }}
	return &strictConn{Conn: c, conn: &conn{run: new(run)}, in: h1.NewReader(c, pool, nil), limit: 16 << 10}
}

// What is right passes unchanged, however it is cut.
func TestStrictPassesRequests(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var text strings.Builder
		var want []string
		for i := range 1 + rnd.IntN(5) {
			body := strings.Repeat("0123456789abcdef\r\n", rnd.IntN(200))
			fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: a\r\n", i)
			if rnd.IntN(2) == 0 {
				fmt.Fprintf(&text, "Content-Length: %d\r\n\r\n%s", len(body), body)
			} else {
				text.WriteString("Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
				for rest := body; rest != ""; {
					n := 1 + rnd.IntN(len(rest))
					fmt.Fprintf(&text, "%x;ext\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				text.WriteString("0\r\nX-T: v\r\n\r\n")
			}
			want = append(want, fmt.Sprintf("/%d %q", i, body))
		}
		r := bufio.NewReader(strictOver(text.String(), seed))
		for _, w := range want {
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Fatalf("seed %d: %v, want %s", seed, err, w)
			}
			body, err := io.ReadAll(req.Body)
			if got := fmt.Sprintf("%s %q", req.RequestURI, body); err != nil || got != w {
				t.Fatalf("seed %d: %s, %v, want %s", seed, got, err, w)
			}
			if len(req.Trailer) > 0 && req.Trailer.Get("X-T") != "v" {
				t.Fatalf("seed %d: trailer %v", seed, req.Trailer)
			}
		}
		if _, err := http.ReadRequest(r); err != io.EOF {
			t.Fatalf("seed %d: %v at the end", seed, err)
		}
	}
}

// Whatever comes, what net/http reads as a request is one in the strict
// grammar, and there is an end to it.
func FuzzStrict(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", uint64(1))
	f.Add("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\nHost: a\n\n", uint64(2))
	f.Add("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabGET / HTTP/1.0\r\n\r\n", uint64(3))
	f.Add("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n\x00\x01", uint64(4))
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		s := strictOver(text, seed)
		r := bufio.NewReader(s)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if len(req.Header["Content-Length"]) > 1 || req.ContentLength < 0 && req.Header["Content-Length"] != nil {
				t.Errorf("net/http reads %+v", req)
			}
			if s.state == unread {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
	})
}
