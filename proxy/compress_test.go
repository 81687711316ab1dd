package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// prose is text of a length that compresses about as well as real text does.
func prose(length int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the gateway of a datacenter passes on what it is sent and says so in its log without a word too many {} [] \"id\": null,")
	var b strings.Builder
	for b.Len() < length {
		b.WriteString(words[rng.IntN(len(words))])
		fmt.Fprintf(&b, " %d\n"[rng.IntN(2):], rng.IntN(1000))
	}
	return b.String()[:length]
}

// decoder undoes a coding, as it comes.
func decoder(t testing.TB, coding string, from io.Reader) io.Reader {
	t.Helper()
	switch coding {
	case "gzip":
		r, err := gzip.NewReader(from)
		if err != nil {
			t.Fatal(err)
		}
		return r
	case "zstd":
		r, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	return from
}

func decoded(t testing.TB, coding, body string) string {
	t.Helper()
	if body == "" {
		return ""
	}
	b, err := io.ReadAll(decoder(t, coding, strings.NewReader(body)))
	if err != nil {
		t.Errorf("%s: %v", coding, err)
	}
	return string(b)
}

// compressing adds compression to an action.
func compressing(a Action) Action {
	a.Compression = &Compression{}
	return a
}

// wantReturned checks that all compressors come back.
func wantReturned(t testing.TB, p *Proxy) {
	t.Helper()
	eventually(t, "no compressor is in use", func() bool { return p.encoders.memory.Load() == 0 })
}

func TestCompressionDecisions(t *testing.T) {
	text := prose(5000)
	type headers = map[string]string
	respond := func(status int, h headers, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for name, value := range h {
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	plain := headers{"Content-Type": "text/plain"}
	with := func(name, value string) headers { return headers{"Content-Type": "text/plain", name: value} }
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		lines  string // of the request, beside Accept-Encoding: gzip
		coded  bool
		vary   string
	}{
		{"text", respond(200, plain, text), "", true, "Accept-Encoding"},
		{"of known length", respond(200, with("Content-Length", "5000"), text), "", true, "Accept-Encoding"},
		{"an error page", respond(500, plain, text), "", true, "Accept-Encoding"},
		{"JSON with parameters", respond(200, headers{"Content-Type": "Application/JSON ; charset=utf-8"}, text), "", true, "Accept-Encoding"},
		{"JSON with a suffix", respond(200, headers{"Content-Type": "application/problem+json"}, text), "", true, "Accept-Encoding"},
		{"no type, like text", respond(200, nil, text), "", true, "Accept-Encoding"},
		{"no type, like a picture", respond(200, nil, "\x89PNG\r\n\x1a\n"+text), "", false, ""},
		{"a picture", respond(200, headers{"Content-Type": "image/png"}, text), "", false, ""},
		{"gRPC", respond(200, headers{"Content-Type": "application/grpc+json"}, text), "", false, ""},
		{"an event stream", respond(200, headers{"Content-Type": "text/event-stream"}, text), "", false, ""},
		{"short", respond(200, plain, text[:1023]), "", false, ""},
		{"just long enough", respond(200, plain, text[:1024]), "", true, "Accept-Encoding"},
		{"short and declared", respond(200, with("Content-Length", "1023"), text[:1023]), "", false, ""},
		{"empty", respond(200, plain, ""), "", false, ""},
		{"encoded", respond(200, with("Content-Encoding", "br"), text), "", false, ""},
		{"a part", respond(206, with("Content-Range", "bytes 0-4999/9999"), text), "Range: bytes=0-4999\r\n", false, ""},
		{"whole though a part was asked for", respond(200, plain, text), "Range: bytes=0-99\r\n", false, "Accept-Encoding"},
		{"no content", respond(204, plain, ""), "", false, ""},
		{"not to be transformed", respond(200, with("Cache-Control", "public, No-Transform"), text), "", false, ""},
		{"not to be transformed, by request", respond(200, plain, text), "Cache-Control: no-transform\r\n", false, ""},
		{"with a digest", respond(200, with("Content-Digest", "sha-256=:x:"), text), "", false, ""},
		{"varies already", respond(200, with("Vary", "Origin, accept-encoding"), text), "", true, "Origin, accept-encoding"},
		{"varies by all", respond(200, with("Vary", "*"), text), "", true, "*"},
		{"varies otherwise", respond(200, with("Vary", "Origin"), text), "", true, "Origin|Accept-Encoding"},
		{"another coding", respond(200, plain, text), "Accept-Encoding: br\r\n", false, "Accept-Encoding"},
		{"declined", respond(200, plain, text), "Accept-Encoding: gzip;q=0\r\n", false, "Accept-Encoding"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, target := backend(t, test.answer)
			want := ""
			for _, action := range []Action{compressing(Action{Handler: test.answer}), compressing(forwardTo(target))} {
				p := start(t, oneRoute(action))
				lines := test.lines
				if !strings.Contains(lines, "Accept-Encoding") {
					lines += "Accept-Encoding: gzip\r\n"
				}
				for _, version := range []string{"1.1", "1.0"} {
					c := wireDial(t, addr(t, p, 0))
					fmt.Fprintf(c, "GET / HTTP/%s\r\nHost: a\r\nConnection: close\r\n%s\r\n", version, lines)
					resp, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					got := string(body)
					coding := resp.Header.Get("Content-Encoding")
					if (coding == "gzip") != test.coded || strings.Join(resp.Header["Vary"], "|") != test.vary {
						t.Errorf("HTTP/%s: %v", version, resp.Header)
					}
					if test.coded {
						if resp.ContentLength >= 0 && resp.ContentLength != int64(len(body)) || len(body) > 3500 {
							t.Errorf("length %d of %d", resp.ContentLength, len(body))
						}
						got = decoded(t, "gzip", got)
					}
					if want == "" {
						want = got
					}
					if got != want || resp.StatusCode == 200 && len(got) < 1000 && !strings.HasPrefix(test.name, "empty") && got != text[:1023] {
						t.Errorf("HTTP/%s: %d bytes %.40q, want %d", version, len(got), got, len(want))
					}
				}
				wantReturned(t, p)
				stopNow(p)
			}
		})
	}
}

// What a GET would be like is what HEAD says, and the validators of both forms
// of a resource are weak.
func TestCompressionHeads(t *testing.T) {
	root := staticFolder(t, map[string]string{"a.txt": prose(4000), "small.txt": "small", "done.txt": prose(3000), "done.txt.gz": "made before"})
	p := start(t, oneRoute(compressing(Action{Type: Serve, Root: root})))
	const gz = "Accept-Encoding: gzip"
	plain, text := staticGet(t, p, "GET", "/a.txt")
	coded, body := staticGet(t, p, "GET", "/a.txt", gz)
	if tag := plain.Header.Get("Etag"); coded.Header.Get("Etag") != "W/"+tag || tag[0] != '"' {
		t.Errorf("tags %s and %s", tag, coded.Header.Get("Etag"))
	}
	if plain.Header.Get("Accept-Ranges") == "" || coded.Header.Get("Accept-Ranges") != "" || coded.Header.Get("Content-Type") != plain.Header.Get("Content-Type") {
		t.Errorf("%v", coded.Header)
	}
	if plain.ContentLength != 4000 || decoded(t, "gzip", body) != text {
		t.Errorf("%d bytes, compressed %d", plain.ContentLength, len(body))
	}
	head, none := staticGet(t, p, "HEAD", "/a.txt", gz)
	if none != "" || head.ContentLength != -1 {
		t.Errorf("HEAD: length %d, body %q", head.ContentLength, none)
	}
	for _, name := range []string{"Content-Encoding", "Etag", "Vary", "Content-Type", "Last-Modified", "Accept-Ranges"} {
		if head.Header.Get(name) != coded.Header.Get(name) {
			t.Errorf("HEAD: %s is %q, with GET %q", name, head.Header.Get(name), coded.Header.Get(name))
		}
	}
	for _, lines := range [][]string{{}, {gz}} {
		head, _ := staticGet(t, p, "HEAD", "/small.txt", lines...)
		if head.ContentLength != 5 || head.Header.Get("Content-Encoding") != "" {
			t.Errorf("HEAD of what is small: %v", head.Header)
		}
	}
	if head, _ := staticGet(t, p, "HEAD", "/a.txt"); head.ContentLength != 4000 || head.Header.Get("Etag") != plain.Header.Get("Etag") {
		t.Errorf("plain HEAD: %v", head.Header)
	}

	// A handler that does not tell HEAD from GET.
	for _, declared := range []bool{true, false} {
		p := start(t, oneRoute(compressing(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if declared {
				w.Header().Set("Content-Length", "1500")
			}
			io.WriteString(w, text[:1500])
		})})))
		head, _ := staticGet(t, p, "HEAD", "/", gz)
		if head.ContentLength != -1 || head.Header.Get("Content-Encoding") != "gzip" || head.Header.Get("Vary") == "" {
			t.Errorf("HEAD of a handler: %v", head.Header)
		}
		stopNow(p)
	}

	// The client asks again with what it was told.
	resp, body := staticGet(t, p, "GET", "/a.txt", gz, "If-None-Match: "+coded.Header.Get("Etag"))
	if resp.StatusCode != 304 || body != "" || resp.Header.Get("Etag") != coded.Header.Get("Etag") || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
	resp, _ = staticGet(t, p, "GET", "/a.txt", "If-None-Match: "+plain.Header.Get("Etag"))
	if resp.StatusCode != 304 || resp.Header.Get("Etag") != plain.Header.Get("Etag") {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	// Parts are those of the plain form, and a weak tag does not name one.
	resp, body = staticGet(t, p, "GET", "/a.txt", gz, "Range: bytes=10-19")
	if resp.StatusCode != 206 || body != text[10:20] || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
	resp, body = staticGet(t, p, "GET", "/a.txt", gz, "Range: bytes=10-19", "If-Range: "+coded.Header.Get("Etag"))
	if resp.StatusCode != 200 || body != text || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v, %d bytes", resp.Status, resp.Header, len(body))
	}
	// What has been compressed before wins.
	resp, body = staticGet(t, p, "GET", "/done.txt", "Accept-Encoding: zstd;q=0.5, gzip")
	if body != "made before" || resp.Header.Get("Content-Encoding") != "gzip" || len(resp.Header["Vary"]) != 1 {
		t.Errorf("%v %q", resp.Header, body)
	}
	wantReturned(t, p)
}

// The route's edits see the response before it is decided about.
func TestCompressionAfterEdits(t *testing.T) {
	text := prose(2000)
	for name, test := range map[string]struct {
		set   map[string]string
		coded bool
	}{
		"forbidden": {map[string]string{"Cache-Control": "no-transform"}, false},
		"type":      {map[string]string{"Content-Type": "text/html", "Vary": "Origin"}, true},
	} {
		a := compressing(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", map[bool]string{true: "image/png", false: "text/plain"}[test.coded])
			io.WriteString(w, text)
		})})
		a.Headers.Response.Set = test.set
		p := start(t, oneRoute(a))
		resp, body := staticGet(t, p, "GET", "/", "Accept-Encoding: zstd")
		coding := resp.Header.Get("Content-Encoding")
		if (coding == "zstd") != test.coded || decoded(t, coding, body) != text {
			t.Errorf("%s: %v", name, resp.Header)
		}
		if test.coded && strings.Join(resp.Header["Vary"], "|") != "Origin|Accept-Encoding" {
			t.Errorf("%s: %v", name, resp.Header)
		}
		stopNow(p)
	}
}

// Through other people's tools, byte for byte.
func TestCompressionCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	unzstd := testenv.Need(t, "zstd", "apt-get install zstd")
	gunzip := testenv.Need(t, "gzip", "apt-get install gzip")
	files, _ := tlsFiles(t, "a.test")
	noise := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	content := map[string]string{"text.txt": prose(600_000), "short.txt": prose(1500), "tiny.txt": "tiny", "noise.txt": string(noise)}
	serve := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		text := content[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
		for i := 0; len(text) > 0; i++ { // in pieces of all sizes, some flushed
			n := min(len(text), 1+i*i*7)
			io.WriteString(w, text[:n])
			if text = text[n:]; i%5 == 4 && strings.Contains(r.URL.Path, "flush") {
				w.(http.Flusher).Flush()
			}
		}
	}
	_, target := backend(t, serve)
	route := func(path string, a Action) Route {
		r := tlsRoute(path, files, compressing(a), "a.test")
		r.Match.Path = path + "*"
		return r
	}
	p := start(t, Config{Routes: []Route{route("/forward/", forwardTo(target)), route("/handler/", Action{Handler: http.HandlerFunc(serve)}),
		route("/", Action{Type: Serve, Root: staticFolder(t, content)})}})
	_, port, _ := net.SplitHostPort(addr(t, p, 0))
	run := func(args ...string) string {
		t.Helper()
		args = append([]string{"-sS", "--noproxy", "*", "--max-time", "60", "--cacert", files.Certificate.CertPath, "--resolve", "a.test:" + port + ":127.0.0.1"}, args...)
		out, err := testenv.Command(t, curl, args...).Output()
		if err != nil {
			t.Fatalf("curl %v: %v", args, err)
		}
		return string(out)
	}
	file := filepath.Join(testenv.Folder(t), "coded")
	for name, want := range content {
		for _, path := range []string{"/", "/forward/", "/forward/flush/", "/handler/flush/"} {
			url := "https://a.test:" + port + path + name
			for _, version := range [][]string{{"--http2"}, {"--http1.1"}, {"--http1.0", "--no-alpn"}} {
				if got := run(append(version, "--compressed", url)...); got != want {
					t.Errorf("%s %s: %d bytes, want %d", version[0], url, len(got), len(want))
				}
			}
			if len(want) < 1024 {
				continue
			}
			for coding, tool := range map[string][]string{"gzip": {gunzip, "-dc"}, "zstd": {unzstd, "-dcq", "-M8MB"}} {
				head := run("-D", "-", "-o", file, "-H", "Accept-Encoding: "+coding, url)
				if !strings.Contains(strings.ToLower(head), "content-encoding: "+coding) {
					t.Errorf("%s: %q", url, head)
					continue
				}
				coded, err := os.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				cmd := testenv.Command(t, tool[0], tool[1:]...)
				cmd.Stdin = coded
				if out := runTool(t, cmd); out != want {
					t.Errorf("%s: %s gives %d bytes, want %d", url, tool[0], len(out), len(want))
				}
				coded.Close()
			}
		}
	}
	wantReturned(t, p)
}

// What is flushed arrives, event by event.
func TestCompressedEvents(t *testing.T) {
	next := make(chan string)
	events := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for {
			select {
			case event := <-next:
				if event == "" {
					return
				}
				io.WriteString(w, event)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
	_, target := backend(t, events)
	files, pool := tlsFiles(t, "a.test")
	for _, a := range []Action{{Handler: http.HandlerFunc(events)}, forwardTo(target)} {
		a.Compression = &Compression{Types: []string{"text/event-stream"}}
		p := start(t, Config{Routes: []Route{tlsRoute("r", files, a, "a.test")}})
		for _, coding := range []string{"gzip", "zstd"} {
			for _, h2 := range []bool{true, false} {
				c := client(t, addr(t, p, 0), pool)
				c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
				req, _ := http.NewRequest("GET", "https://a.test/", nil)
				req.Header.Set("Accept-Encoding", coding)
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if resp.Header.Get("Content-Encoding") != coding {
					t.Fatalf("%v", resp.Header)
				}
				send(t, next, "data: 0\n\n")
				r := bufio.NewReader(decoder(t, coding, resp.Body))
				for i := range 20 {
					if i > 0 {
						send(t, next, fmt.Sprintf("data: %d\n\n", i))
					}
					for _, want := range []string{fmt.Sprintf("data: %d\n", i), "\n"} {
						if line, err := r.ReadString('\n'); line != want {
							t.Fatalf("%s: %q, %v, want %q", coding, line, err, want)
						}
					}
				}
				send(t, next, "")
				if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
					t.Errorf("%s: %q, %v at the end", coding, rest, err)
				}
				resp.Body.Close()
			}
		}
		wantReturned(t, p)
		stopNow(p)
	}
}

// A response that is broken off does not look complete, in none of the ways in
// which that can happen.
func TestCompressionBrokenOff(t *testing.T) {
	text := prose(100_000)
	answers := map[string]http.HandlerFunc{
		"panic": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, text)
			panic(http.ErrAbortHandler)
		},
		"panic before anything is sent": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			panic(http.ErrAbortHandler)
		},
		"panic after a flush": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"less than declared": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
			io.WriteString(w, text)
		},
		"nothing of what was declared": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			w.WriteHeader(200)
		},
	}
	files, pool := tlsFiles(t, "a.test")
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			upstream, target := backend(t, answer)
			upstream.Config.ErrorLog = newNetLog(testLogger(t))
			for _, a := range []Action{compressing(Action{Handler: answer}), compressing(forwardTo(target))} {
				p := start(t, Config{Routes: []Route{tlsRoute("r", files, a, "a.test")}})
				for _, coding := range []string{"gzip", "zstd", "identity"} {
					for _, h2 := range []bool{true, false} {
						c := client(t, addr(t, p, 0), pool)
						c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
						req, _ := http.NewRequest("GET", "https://a.test/", nil)
						req.Header.Set("Accept-Encoding", coding)
						resp, err := c.Do(req)
						if err != nil {
							continue
						}
						body, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err == nil && resp.StatusCode < 500 {
							t.Errorf("%s, HTTP/2 %v: clean end after %d bytes", coding, h2, len(body))
						}
					}
				}
				// Without any framing but the coding's own end.
				tc, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(tc, "GET / HTTP/1.0\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n")
				if resp, err := http.ReadResponse(bufio.NewReader(tc), nil); err == nil && resp.Header.Get("Content-Encoding") == "gzip" {
					if z, err := gzip.NewReader(resp.Body); err == nil {
						if n, err := io.Copy(io.Discard, z); err == nil {
							t.Errorf("HTTP/1.0: clean end after %d bytes", n)
						}
					}
				}
				wantReturned(t, p)
				stopNow(p)
			}
		})
	}
	t.Run("more than declared", func(t *testing.T) {
		result := make(chan error, 1)
		p := start(t, oneRoute(compressing(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "50000")
			io.WriteString(w, text[:50_000])
			_, err := io.WriteString(w, "x")
			result <- err
		})})))
		resp, body := staticGet(t, p, "GET", "/", "Accept-Encoding: zstd")
		if err := receive(t, result); !errors.Is(err, http.ErrContentLength) || decoded(t, "zstd", body) != text[:50_000] {
			t.Errorf("%v, %v", err, resp.Header)
		}
	})
}

func TestCompressionKeepsTrailers(t *testing.T) {
	text := prose(10_000)
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, text)
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	}
	_, target := backend(t, answer)
	for _, a := range []Action{compressing(Action{Handler: http.HandlerFunc(answer)}), compressing(forwardTo(target))} {
		p := start(t, oneRoute(a))
		resp, body := staticGet(t, p, "GET", "/", "Accept-Encoding: zstd")
		if decoded(t, "zstd", body) != text || resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-Late") != "43" {
			t.Errorf("%d bytes, trailer %v", len(body), resp.Trailer)
		}
		stopNow(p)
	}
}

// An upgrade passes through a route that compresses.
func TestCompressionAndWebSocket(t *testing.T) {
	_, target := backend(t, wsEcho(t))
	p := start(t, oneRoute(compressing(forwardTo(target))))
	ws, resp := wsDial(t, wireDial(t, addr(t, p, 0)), "a.test", "")
	if resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	if err := ws.send(wsText, true, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, payload, err := ws.receive(); string(payload) != "hello" {
		t.Errorf("%q, %v", payload, err)
	}
}

// A client that reads slowly gets all of it; one that does not read loses its
// compressor with its connection.
func TestCompressionSlowClient(t *testing.T) {
	noise := make([]byte, 16<<20) // more than the system buffers
	rand.NewChaCha8([32]byte{7}).Read(noise)
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/slow" {
			w.Write(noise[:1<<20])
			return
		}
		w.Write(noise)
	})
	cfg := oneRoute(compressing(forwardTo(target)))
	cfg.Timeouts.Idle = time.Second
	p := start(t, cfg)
	slow := wireDial(t, addr(t, p, 0))
	slow.(*net.TCPConn).SetReadBuffer(32 << 10)
	io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReaderSize(slow, 4096), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for buf := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = resp.Body.Read(buf)
		got.Write(buf[:n])
	}
	if err != io.EOF || decoded(t, "zstd", got.String()) != string(noise[:1<<20]) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	deaf := wireDial(t, addr(t, p, 0))
	io.WriteString(deaf, "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n")
	eventually(t, "it has a compressor", func() bool { return p.encoders.memory.Load() > 0 })
	wantReturned(t, p)
}

// More responses at once than there is memory for compressors go out as they are.
func TestCompressionMemory(t *testing.T) {
	text := prose(2000)
	p := start(t, oneRoute(compressing(Action{Handler: says(text)})))
	p.encoders.memory.Store(maxEncoderMemory - encoderMemory(Zstd, 3) + 1)
	resp, body := staticGet(t, p, "GET", "/", "Accept-Encoding: zstd")
	if resp.Header.Get("Content-Encoding") != "" || body != text || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%v", resp.Header)
	}
	p.encoders.memory.Store(maxEncoderMemory - encoderMemory(Zstd, 3))
	resp, body = staticGet(t, p, "GET", "/", "Accept-Encoding: zstd")
	if resp.Header.Get("Content-Encoding") != "zstd" || decoded(t, "zstd", body) != text {
		t.Errorf("%v", resp.Header)
	}
	eventually(t, "it is returned", func() bool { return p.encoders.memory.Load() == maxEncoderMemory-encoderMemory(Zstd, 3) })
}
