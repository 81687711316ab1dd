package h1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func newPool() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}
}

// pipeReader reads s in pieces of at most size bytes.
func pipeReader(s string, size int) *Reader {
	return &Reader{conn: &pieces{strings.NewReader(s), size}, pool: newPool()}
}

type pieces struct {
	io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(b) > p.size {
		b = b[:p.size]
	}
	return p.Reader.Read(b)
}

func (r *Reader) readHead(limit int) (string, error) {
	for {
		head, ok, err := r.Head(limit)
		if ok || err != nil {
			return head, err
		}
		if err := r.Fill(); err != nil {
			return "", err
		}
	}
}

// What we take for a request net/http takes for the same one: method, target,
// host, fields, and where the next request begins.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nX-a: b \r\n\r\nabcGET",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
		"GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
		"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\r\n0\r\n\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := pipeReader(s, 7)
		head, err := r.readHead(16 << 10)
		if err != nil {
			return
		}
		var req Request
		if ParseRequest(head, &req) != nil {
			return
		}
		// The lane refuses these on its own.
		if strings.Contains(req.Target, "%") || !httpguts.ValidHostHeader(req.Host) {
			return
		}
		body := NewBody(r, req.ContentLength)
		content, bodyErr := io.ReadAll(&body)

		br := bufio.NewReader(strings.NewReader(s))
		theirs, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("net/http refuses what we take: %v", err)
		}
		if req.Method != theirs.Method || req.Target != theirs.RequestURI || req.Host != theirs.Host || req.Close != theirs.Close {
			t.Errorf("we read %+v, they %+v", req, theirs)
		}
		ours := req.Fields.Header()
		if theirs.Close { // they drop it
			ours.Del("Connection")
			theirs.Header.Del("Connection")
		}
		if ours.Get("Pragma") != "" { // fixPragmaCacheControl
			ours.Del("Cache-Control")
			theirs.Header.Del("Cache-Control")
		}
		theirs.Header.Del("Content-Length")
		if !reflect.DeepEqual(ours, theirs.Header) {
			t.Errorf("our header %v, theirs %v", ours, theirs.Header)
		}
		for name, values := range theirs.Header {
			if !httpguts.ValidHeaderFieldName(name) {
				t.Errorf("name %q", name)
			}
			for _, v := range values {
				if !httpguts.ValidHeaderFieldValue(v) {
					t.Errorf("value %q", v)
				}
			}
		}
		theirContent, theirErr := io.ReadAll(theirs.Body)
		if bodyErr != nil {
			return // we may refuse more
		}
		if theirErr != nil {
			t.Fatalf("net/http refuses a body that we take: %v", theirErr)
		}
		if !bytes.Equal(content, theirContent) {
			t.Errorf("our body %q, theirs %q", content, theirContent)
		}
		ourRest, _ := io.ReadAll(r)
		theirRest, _ := io.ReadAll(br)
		if !bytes.Equal(ourRest, theirRest) {
			t.Errorf("after the request we have %q, they %q", ourRest, theirRest)
		}
	})
}

// The same for responses.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\nHTTP",
		"HTTP/1.0 200 OK\nX: y\n\nuntil close", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, isHead bool) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		r := pipeReader(s, 5)
		head, err := r.readHead(16 << 10)
		if err != nil {
			return
		}
		var resp Response
		if ParseResponse(head, &resp) != nil {
			return
		}
		length := resp.ContentLength
		if !resp.HasBody(method) {
			length = 0
		}
		body := NewBody(r, length)
		content, bodyErr := io.ReadAll(&body)

		theirs, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s)), &http.Request{Method: method})
		if err != nil {
			if strings.Contains(head, "\n\r") || !strings.Contains(head, "\r\n") || strings.Contains(strings.ReplaceAll(head, "\r\n", ""), "\n") {
				return // a bare LF somewhere; textproto has its own ways with them
			}
			t.Fatalf("net/http refuses what we take: %v", err)
		}
		defer theirs.Body.Close()
		if resp.Status != theirs.StatusCode {
			t.Errorf("status %d, theirs %d", resp.Status, theirs.StatusCode)
		}
		if bodyErr != nil {
			return
		}
		theirContent, theirErr := io.ReadAll(theirs.Body)
		if theirErr != nil {
			t.Fatalf("net/http refuses a body that we take: %v", theirErr)
		}
		if !bytes.Equal(content, theirContent) {
			t.Errorf("our body %q, theirs %q", content, theirContent)
		}
	})
}

// Over a real connection, cut anywhere, a message reads the same.
func TestReaderOverTCP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const message = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\nnext"
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return
		}
		defer c.Close()
		for i := range len(message) {
			io.WriteString(c, message[i:i+1])
		}
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := NewReader(c, newPool(), nil)
	head, err := r.readHead(1024)
	if err != nil {
		t.Fatal(err)
	}
	var req Request
	if err := ParseRequest(head, &req); err != nil {
		t.Fatal(err)
	}
	body := NewBody(r, req.ContentLength)
	content, err := io.ReadAll(&body)
	if err != nil || string(content) != "hello" || body.Trailer.Get("X") != "y" {
		t.Errorf("%q, %v, %v", content, err, body.Trailer)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "next" {
		t.Errorf("after it %q, %v", rest, err)
	}
	if r.Fill() != io.EOF || r.buf != nil {
		t.Error("a buffer is kept for nothing")
	}
}
