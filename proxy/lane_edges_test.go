package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// The end of a chunked body may come long after its data, and in pieces.
func TestSlowEndOfChunks(t *testing.T) {
	target := wireServer(t, func(c net.Conn) {
		if _, err := wireHead(bufio.NewReader(c)); err != nil {
			return
		}
		for _, part := range []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\n", "X-Sum: 1\r\n", "\r\n"} {
			io.WriteString(c, part)
			time.Sleep(3 * patience)
		}
	})
	p := start(t, oneRoute(forwardTo(target)))
	resp, err := client(t, addr(t, p, 0), nil).Get("http://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" || resp.Trailer.Get("X-Sum") != "1" {
		t.Errorf("%q, %v, %v", body, err, resp.Trailer)
	}
}

// What is left of a body that went wrong is no request, even if the target has
// answered.
func TestNoRequestInTheRestOfABody(t *testing.T) {
	rec := newWireRecorder(t)
	p := start(t, oneRoute(forwardTo(rec.Target)))
	for range 20 {
		got := wireTalk(t, addr(t, p, 0), "POST /first HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"ZZ\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n")
		if strings.Count(got, "HTTP/1.1 ") > 1 {
			t.Fatalf("more than one answer: %q", got)
		}
	}
	for _, head := range rec.take() {
		if strings.Contains(head, "smuggled") {
			t.Errorf("the target got %q", head)
		}
	}
}

// A target that breaks off an upload is to blame for that, not the client.
func TestTargetThatDropsAnUpload(t *testing.T) {
	target := wireServer(t, func(c net.Conn) { wireHead(bufio.NewReader(c)) })
	p := start(t, oneRoute(forwardTo(target)))
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nbegun")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 502 || targetStats(p, target).Failures != 1 {
		t.Errorf("%s, %d failures", resp.Status, targetStats(p, target).Failures)
	}
}

// A target may answer in the moment in which it gets the end of a body. That is
// no early answer, and the client's connection stays.
func TestUploadsKeepTheirConnections(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	p := start(t, oneRoute(forwardTo(target)))
	// With more threads than processors they are interrupted where it hurts.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8 * runtime.NumCPU()))
	sizes := []int{1, 5000, 100_000, spliceFrom + 100_000} // the kernel moves the last one
	var clients sync.WaitGroup
	for range 8 {
		c := wireDial(t, addr(t, p, 0))
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		clients.Go(func() {
			r := bufio.NewReader(c)
			for i := range 200 {
				size := sizes[i/2%len(sizes)]
				body := bytes.Repeat([]byte("b"), size)
				if i%2 == 0 {
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n", size)
				} else {
					io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
					body = fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", size, body)
				}
				runtime.Gosched() // the body comes apart from the head
				if _, err := c.Write(body); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				if want := fmt.Sprint(size, nil); err != nil || string(got) != want || resp.Close {
					t.Errorf("request %d: got %q, %v, close %v; want %q", i, got, err, resp.Close, want)
					return
				}
			}
		})
	}
	clients.Wait()
}

// A client that hangs up is noticed also where the response began in the moment in
// which its upload ended, and is silent.
func TestHangUpAfterAnUpload(t *testing.T) {
	told := make(chan struct{}, 400)
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		told <- struct{}{}
	})
	p := start(t, oneRoute(forwardTo(target)))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8 * runtime.NumCPU())) // as above
	var clients sync.WaitGroup
	for range cap(told) {
		c := wireDial(t, addr(t, p, 0))
		clients.Go(func() {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n")
			runtime.Gosched()
			io.WriteString(c, "hello")
			if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Error(err)
			}
			c.Close()
		})
	}
	clients.Wait()
	for i := range cap(told) {
		select {
		case <-told:
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d targets are told", i, cap(told))
		}
	}
}
