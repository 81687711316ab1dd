package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// impatient serves requests as servers do that have a limit for slow clients: who
// does not send, or read, for that long, loses the connection. gone hears of it.
func impatient(t testing.TB, gone chan<- string) Target {
	const limit = servesSlow + servesSlow/5
	return tcpServer(t, func(c *net.TCPConn) {
		defer c.SetLinger(0)
		in := bufio.NewReader(c)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if req.Method == "POST" {
			if req.URL.Path == "/early" {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
			}
			c.SetReadDeadline(time.Now().Add(limit))
			if _, err := io.Copy(io.Discard, req.Body); isTimeout(err) {
				gone <- "POST"
			}
			return
		}
		const many = 2000
		piece := make([]byte, 64<<10)
		chunked := req.URL.Path == "/chunked"
		if chunked {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		} else {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", many*len(piece))
		}
		for range many {
			c.SetWriteDeadline(time.Now().Add(limit))
			if chunked {
				fmt.Fprintf(c, "%x\r\n", len(piece))
			}
			if _, err := c.Write(piece); isTimeout(err) {
				gone <- "GET"
				return
			}
			if chunked {
				io.WriteString(c, "\r\n")
			}
		}
	}).target()
}

// A client that sends or reads slowly makes targets hang up, and can do so with
// many requests at once.
func TestSlowClients(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	gone := make(chan string, 100)
	target := impatient(t, gone)
	a := forwardTo(target)
	a.TLS = files
	alert(&a)
	plain := a
	plain.TLS = nil
	p := start(t, Config{Routes: []Route{
		{Match: Match{Ports: Ports(0), Domains: []string{"a.test"}}, Action: a},
		{Match: Match{Ports: Ports(0)}, Action: plain},
	}})
	at := addr(t, p, 0)
	var conns []net.Conn
	for _, text := range []string{
		"POST / HTTP/1.1\r\nHost: b.test\r\nContent-Length: 10\r\n\r\nbody",
		"POST / HTTP/1.1\r\nHost: b.test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\nbody",
		"POST /early HTTP/1.1\r\nHost: b.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n",
		"GET /chunked HTTP/1.1\r\nHost: b.test\r\n\r\n",
	} {
		c := wireDial(t, at)
		io.WriteString(c, text)
		conns = append(conns, c)
	}
	var bodies []io.ReadCloser
	h2 := client(t, at, pool)
	for _, path := range []string{"POST /early", "GET /", "GET /chunked"} {
		var method string
		fmt.Sscan(path, &method, &path)
		r, w := io.Pipe()
		defer w.Close()
		req, _ := http.NewRequest(method, "https://a.test"+path, r)
		if method == "GET" {
			req.Body = nil
		}
		resp, err := h2.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
	}
	for range len(conns) + len(bodies) {
		receive(t, gone)
	}
	for _, c := range conns {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
	}
	for _, b := range bodies {
		io.Copy(io.Discard, b)
		b.Close()
	}
	eventually(t, "all have ended", func() bool { return targetStats(p, target).Active == 0 })
	wellRegarded(t, p)
}
