package proxy

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// staticTime is when all files of these tests were changed.
var staticTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func staticWrite(t testing.TB, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err == nil {
		err = os.Chtimes(path, staticTime, staticTime)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// staticFolder makes a folder with these files.
func staticFolder(t testing.TB, files map[string]string) string {
	t.Helper()
	root := filepath.Join(testenv.Folder(t), "root")
	for name, content := range files {
		staticWrite(t, filepath.Join(root, filepath.FromSlash(name)), content)
	}
	return root
}

// staticGet makes a request with header lines "Name: value" and returns the
// response with its body as it came.
func staticGet(t testing.TB, p *Proxy, method, target string, lines ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://a.test"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity") // or the client asks for gzip by itself
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	c := client(t, addr(t, p, 0), nil)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestStaticFiles(t *testing.T) {
	root := staticFolder(t, map[string]string{
		"index.html": "home", "a.txt": "0123456789", "dir/index.html": "dir", "dir/b.txt": "b", "bare/x.txt": "x", "with space.txt": "space", "ü.txt": "umlaut",
		"a#b?.txt": "odd", "data": "\x00\x01\x02", "page.html": "<p>", "style.css": "p{}", "odd/index.html/x": "y", "zero.txt": "", "a;b.txt": "semicolon", "a%b.txt": "percent",
		".well-known/x": "well", ".git/config": "secret", "dir/.env": "secret",
	})
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	for _, test := range []struct {
		target string
		status int
		body   string // of 200
		kind   string // Content-Type begins with
	}{
		{"/", 200, "home", "text/html"},
		{"/index.html", 200, "home", "text/html"},
		{"/a.txt", 200, "0123456789", "text/plain"},
		{"/a.txt?x=y", 200, "0123456789", "text/plain"},
		{"/dir/", 200, "dir", "text/html"},
		{"/dir/?x=y", 200, "dir", "text/html"},
		{"/dir/b.txt", 200, "b", "text/plain"},
		{"/style.css", 200, "p{}", "text/css"},
		{"/data", 200, "\x00\x01\x02", "application/octet-stream"},
		{"/with%20space.txt", 200, "space", ""},
		{"/%C3%BC.txt", 200, "umlaut", ""},
		{"/a%23b%3F.txt", 200, "odd", ""},
		{"/a;b.txt", 200, "semicolon", ""},
		{"/a%25b.txt", 200, "percent", ""},
		{"/zero.txt", 200, "", ""},
		{"/.well-known/x", 200, "well", ""},
		{"/.git/config", 404, "", ""},
		{"/dir/.env", 404, "", ""},
		{"/dir/%2eenv", 404, "", ""},
		{"/none", 404, "", ""},
		{"/dir/none", 404, "", ""},
		{"/a.txt/", 404, "", ""},
		{"/a.txt/x", 404, "", ""},
		{"/bare/", 404, "", ""}, // no listing
		{"/odd/", 404, "", ""},  // index.html is a folder
		{"/DIR/", 404, "", ""},
		{"/" + strings.Repeat("x", 300), 404, "", ""},
	} {
		resp, body := staticGet(t, p, "GET", test.target)
		if resp.StatusCode != test.status || test.status == 200 && body != test.body || !strings.HasPrefix(resp.Header.Get("Content-Type"), test.kind) {
			t.Errorf("%.50s: %d %q %q, want %d %q %q", test.target, resp.StatusCode, body, resp.Header.Get("Content-Type"), test.status, test.body, test.kind)
		}
		if strings.Contains(body, "x.txt") || strings.Contains(body, root) {
			t.Errorf("%.50s tells about the folder: %q", test.target, body)
		}
		head, none := staticGet(t, p, "HEAD", test.target)
		if head.StatusCode != test.status || none != "" || head.Header.Get("Etag") != resp.Header.Get("Etag") || head.ContentLength != resp.ContentLength {
			t.Errorf("HEAD %.50s: %d %q %v", test.target, head.StatusCode, none, head.Header)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"} {
		if resp, _ := staticGet(t, p, method, "/a.txt"); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d %v", method, resp.StatusCode, resp.Header)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "a.txt")); string(b) != "0123456789" {
		t.Errorf("the file has changed: %q %v", b, err)
	}
}

func TestStaticFolderRedirect(t *testing.T) {
	root := staticFolder(t, map[string]string{"dir/index.html": "dir", "evil.test/index.html": "x", "s p/index.html": "x", "a/b/index.html": "x"})
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	for target, want := range map[string]string{
		"/dir":       "/dir/",
		"/dir?x=y&z": "/dir/?x=y&z",
		"/a/b":       "/a/b/",
		"/s%20p":     "/s%20p/",
		"/evil.test": "/evil.test/",
	} {
		resp, _ := staticGet(t, p, "GET", target)
		if resp.StatusCode != 301 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", target, resp.StatusCode, resp.Header.Get("Location"), want)
		}
	}
	// To another host a path must not lead.
	for _, target := range []string{"//evil.test", "///evil.test", "//evil.test/", `/\evil.test`, `\evil.test`, "//dir", "/%5Cevil.test", "/%2Fevil.test", "/%2f/evil.test"} {
		got := wireReply(t, addr(t, p, 0), "GET "+target+" HTTP/1.1\r\nHost: a.test\r\n\r\n")
		for _, location := range headerValues(got, "Location") {
			if len(location) < 2 || location[0] != '/' || location[1] == '/' || location[1] == '\\' {
				t.Errorf("%s redirects to %q", target, location)
			}
		}
	}
}

func TestStaticConditional(t *testing.T) {
	root := staticFolder(t, map[string]string{"a.txt": "0123456789"})
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	resp, _ := staticGet(t, p, "GET", "/a.txt")
	etag, modified := resp.Header.Get("Etag"), resp.Header.Get("Last-Modified")
	if len(etag) < 4 || etag[0] != '"' || modified != staticTime.Format(http.TimeFormat) || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("header %v", resp.Header)
	}
	later := staticTime.Add(time.Hour).Format(http.TimeFormat)
	earlier := staticTime.Add(-time.Hour).Format(http.TimeFormat)
	for _, test := range []struct {
		lines  []string
		status int
		body   string
		rng    string // Content-Range
	}{
		{[]string{"If-None-Match: " + etag}, 304, "", ""},
		{[]string{`If-None-Match: "x", W/` + etag}, 304, "", ""},
		{[]string{"If-None-Match: *"}, 304, "", ""},
		{[]string{`If-None-Match: "x"`}, 200, "0123456789", ""},
		{[]string{"If-Modified-Since: " + modified}, 304, "", ""},
		{[]string{"If-Modified-Since: " + later}, 304, "", ""},
		{[]string{"If-Modified-Since: " + earlier}, 200, "0123456789", ""},
		{[]string{`If-None-Match: "x"`, "If-Modified-Since: " + later}, 200, "0123456789", ""}, // the tag counts
		{[]string{`If-Match: "x"`}, 412, "", ""},
		{[]string{"If-Match: " + etag}, 200, "0123456789", ""},
		{[]string{"If-Unmodified-Since: " + earlier}, 412, "", ""},
		{[]string{"Range: bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{[]string{"Range: bytes=7-"}, 206, "789", "bytes 7-9/10"},
		{[]string{"Range: bytes=-2"}, 206, "89", "bytes 8-9/10"},
		{[]string{"Range: bytes=5-100"}, 206, "56789", "bytes 5-9/10"},
		{[]string{"Range: bytes=10-"}, 416, "", "bytes */10"},
		{[]string{"Range: bytes=2-4", "If-Range: " + etag}, 206, "234", "bytes 2-4/10"},
		{[]string{"Range: bytes=2-4", `If-Range: "x"`}, 200, "0123456789", ""},
	} {
		resp, body := staticGet(t, p, "GET", "/a.txt", test.lines...)
		if resp.StatusCode != test.status || test.body != "" && body != test.body || resp.Header.Get("Content-Range") != test.rng || test.status == 304 && (body != "" || resp.Header.Get("Etag") != etag) {
			t.Errorf("%q: %d %q %q, want %d %q %q", test.lines, resp.StatusCode, body, resp.Header.Get("Content-Range"), test.status, test.body, test.rng)
		}
	}
	if resp, body := staticGet(t, p, "GET", "/a.txt", "Range: bytes=0-1,8-9"); resp.StatusCode != 206 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges") || !strings.Contains(body, "\r\n01\r\n") || !strings.Contains(body, "\r\n89\r\n") {
		t.Errorf("two ranges: %d %q", resp.StatusCode, body)
	}
	// Ranges that overlap must not make more of a file than there is.
	if resp, body := staticGet(t, p, "GET", "/a.txt", "Range: bytes="+strings.Repeat("0-,", 1000)+"0-"); len(body) > 10000 {
		t.Errorf("1001 ranges: %d, %d bytes", resp.StatusCode, len(body))
	}

	// Changed content of the same length and name has another tag.
	path := filepath.Join(root, "a.txt")
	staticWrite(t, path, "abcdefghij")
	os.Chtimes(path, staticTime, staticTime.Add(time.Millisecond))
	if resp, body := staticGet(t, p, "GET", "/a.txt", "If-None-Match: "+etag); resp.StatusCode != 200 || body != "abcdefghij" || resp.Header.Get("Etag") == etag {
		t.Errorf("changed file: %d %q %s", resp.StatusCode, body, resp.Header.Get("Etag"))
	}
}

func TestStaticPrecompressed(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, "plain")
	z.Close()
	root := staticFolder(t, map[string]string{
		"a.txt": "plain", "a.txt.gz": packed.String(), "a.txt.br": "br", "a.txt.zst": "zst",
		"b.css": "plain", "b.css.gz": "gz",
		"stale.txt": "new", "stale.txt.gz": "old",
		"only.txt.gz":     "gz",
		"odd":             "plain",
		"odd.gz":          "\x1f\x8b gz",
		"folder.txt":      "plain",
		"folder.txt.gz/x": "",
		"dir/index.html":  "plain", "dir/index.html.gz": "gz",
	})
	os.Chtimes(filepath.Join(root, "stale.txt.gz"), staticTime, staticTime.Add(-time.Second))
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	etags := make(map[string]string)
	for _, test := range []struct {
		target, accept string
		coding, body   string
		kind           string
	}{
		{"/a.txt", "identity", "", "plain", "text/plain"},
		{"/a.txt", "gzip", "gzip", packed.String(), "text/plain"},
		{"/a.txt", "br", "br", "br", "text/plain"},
		{"/a.txt", "zstd", "zstd", "zst", "text/plain"},
		{"/a.txt", "gzip, deflate, br, zstd", "zstd", "zst", "text/plain"},
		{"/a.txt", "gzip, br", "br", "br", "text/plain"},
		{"/a.txt", "zstd;q=0, br;q=0.0, gzip;q=0.1", "gzip", packed.String(), "text/plain"},
		{"/a.txt", "gzip;q=0", "", "plain", "text/plain"},
		{"/a.txt", "deflate", "", "plain", "text/plain"},
		{"/b.css", "br, gzip", "gzip", "gz", "text/css"},
		{"/b.css", "br", "", "plain", "text/css"},
		{"/stale.txt", "gzip", "", "new", "text/plain"},
		{"/odd", "gzip", "gzip", "\x1f\x8b gz", "application/octet-stream"},
		{"/folder.txt", "gzip", "", "plain", "text/plain"},
		{"/dir/", "gzip", "gzip", "gz", "text/html"},
	} {
		resp, body := staticGet(t, p, "GET", test.target, "Accept-Encoding: "+test.accept)
		if resp.StatusCode != 200 || body != test.body || resp.Header.Get("Content-Encoding") != test.coding || !strings.HasPrefix(resp.Header.Get("Content-Type"), test.kind) {
			t.Errorf("%s, %s: %d %q %v", test.target, test.accept, resp.StatusCode, body, resp.Header)
		}
		if resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s, %s: Vary %q: a cache would mix them up", test.target, test.accept, resp.Header.Get("Vary"))
		}
		if test.target == "/a.txt" {
			etag := resp.Header.Get("Etag")
			if other, ok := etags[etag]; ok && other != test.coding {
				t.Errorf("%q and %q have the same tag", test.coding, other)
			}
			etags[etag] = test.coding
			if resp, body := staticGet(t, p, "GET", test.target, "Accept-Encoding: "+test.accept, "If-None-Match: "+etag); resp.StatusCode != 304 || body != "" {
				t.Errorf("%s, %s with its tag: %d", test.target, test.accept, resp.StatusCode)
			}
		}
	}
	if resp, _ := staticGet(t, p, "GET", "/only.txt", "Accept-Encoding: gzip"); resp.StatusCode != 404 {
		t.Errorf("a compressed file alone stands for the file: %d", resp.StatusCode)
	}
	if resp, body := staticGet(t, p, "GET", "/a.txt", "Accept-Encoding: br", "Range: bytes=1-1"); resp.StatusCode != 206 || body != "r" || resp.Header.Get("Content-Encoding") != "br" {
		t.Errorf("range of the compressed form: %d %q %v", resp.StatusCode, body, resp.Header)
	}

	curl := testenv.Need(t, "curl", "apt-get install curl")
	out, err := testenv.Command(t, curl, "-sS", "--noproxy", "*", "-H", "Accept-Encoding: gzip", "--compressed", "http://"+addr(t, p, 0)+"/a.txt").Output()
	if err != nil || string(out) != "plain" {
		t.Errorf("curl --compressed: %q, %v", out, err)
	}
}

// Nothing outside of the folder can be had, by no path and no link.
func TestStaticEscape(t *testing.T) {
	root := staticFolder(t, map[string]string{"in.txt": "inside", "sub/x.txt": "x"})
	outside := filepath.Join(filepath.Dir(root), "secret.txt")
	staticWrite(t, outside, "SECRET")
	staticWrite(t, root+"-other/secret.txt", "SECRET")
	for name, to := range map[string]string{
		"abs": outside, "rel": "../secret.txt", "deep": "sub/../../secret.txt", "folder": "..", "root": "/", "in-link.txt": "in.txt", "sub/up.txt": "../in.txt", "loop": "loop", "sub/index.html": "../../secret.txt",
		"in.txt.gz": "../secret.txt",
	} {
		if err := os.Symlink(to, filepath.Join(root, filepath.FromSlash(name))); err != nil {
			t.Skip("no symbolic links here: ", err)
		}
	}
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	for _, target := range []string{
		"/abs", "/rel", "/deep", "/folder/secret.txt", "/folder", "/folder/", "/root/etc/passwd", "/loop", "/sub/", "/sub/index.html",
		"/../secret.txt", "/sub/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/..%5csecret.txt", `/..\secret.txt`, "/sub/..%2f..%2fsecret.txt",
		"/in.txt%00/../secret.txt", "//" + strings.TrimPrefix(outside, "/"), "/%2F" + strings.TrimPrefix(outside, "/"), "/../root-other/secret.txt", "/./../secret.txt",
		"/in.txt/../../secret.txt", "/....//secret.txt", "/..;/secret.txt", "/.%00./secret.txt",
	} {
		got := wireReply(t, addr(t, p, 0), "GET "+target+" HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
		if status := wireStatus(got); strings.Contains(got, "SECRET") || strings.Contains(got, "root:") || status == 200 || status >= 500 {
			t.Errorf("%s: %q", target, got)
		}
	}
	for _, target := range []string{"/in.txt", "/in-link.txt", "/sub/up.txt"} {
		if resp, body := staticGet(t, p, "GET", target, "Accept-Encoding: gzip"); resp.StatusCode != 200 || body != "inside" {
			t.Errorf("%s: %d %q", target, resp.StatusCode, body)
		}
	}
}

// The path that chose the route is the path that is served: a folder closed by
// another route cannot be had by another spelling of its name.
func TestStaticRouteBypass(t *testing.T) {
	root := staticFolder(t, map[string]string{"private/secret.txt": "SECRET", "private/index.html": "SECRET", "a.txt": "a"})
	private := handlerRoute("private", Match{Path: "/private/*"})
	exact := handlerRoute("private folder", Match{Path: "/private"})
	p := start(t, Config{Routes: []Route{private, exact, {Name: "static", Match: Match{Ports: Ports(0)}, Action: Action{Type: Serve, Root: root}}}})
	if got := wireReply(t, addr(t, p, 0), "GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n"); wireStatus(got) != 200 {
		t.Fatal(got)
	}
	for _, target := range []string{"/private/secret.txt", "/private%2Fsecret.txt", "/private%2fsecret.txt", "//private/secret.txt", "/private//secret.txt", "/private%2F/secret.txt", "///private///secret.txt",
		"/%2Fprivate/secret.txt", "/private/", "//private/", "/private%2F", "//private", `/private\secret.txt`, "/private%5Csecret.txt", "/./private/secret.txt", "/%70rivate/secret.txt",
		"/private%2Fsecret.txt|", "http://a/private%2Fsecret.txt", "http://a//private/secret.txt"} {
		got := wireReply(t, addr(t, p, 0), "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n")
		if strings.Contains(got, "SECRET") {
			t.Errorf("%s: %q", target, got)
		}
	}
}

// What is no file must not hold a request up.
func TestStaticSpecialFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no named pipes as files")
	}
	mkfifo := testenv.Need(t, "mkfifo", "apt-get install coreutils")
	root := staticFolder(t, map[string]string{"a.txt": "a", "dir/x": "x"})
	for _, name := range []string{"pipe", "a.txt.gz", "dir/index.html"} {
		if out, err := testenv.Command(t, mkfifo, filepath.Join(root, name)).CombinedOutput(); err != nil {
			t.Fatalf("mkfifo: %v %s", err, out)
		}
	}
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	begin := time.Now()
	for target, want := range map[string]int{"/pipe": 404, "/dir/": 404, "/a.txt": 200} {
		if resp, body := staticGet(t, p, "GET", target, "Accept-Encoding: gzip"); resp.StatusCode != want {
			t.Errorf("%s: %d %q, want %d", target, resp.StatusCode, body, want)
		}
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

// The folder may come, go and be exchanged while the proxy runs.
func TestStaticFolderAppears(t *testing.T) {
	root := filepath.Join(testenv.Folder(t), "later")
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	for i := range 3 {
		if resp, _ := staticGet(t, p, "GET", "/a.txt"); resp.StatusCode != 404 {
			t.Errorf("without the folder: %d", resp.StatusCode)
		}
		text := fmt.Sprint("version ", i)
		staticWrite(t, filepath.Join(root, "a.txt"), text)
		if resp, body := staticGet(t, p, "GET", "/a.txt"); resp.StatusCode != 200 || body != text {
			t.Errorf("with the folder: %d %q, want %q", resp.StatusCode, body, text)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
	}
	// A file is no folder.
	staticWrite(t, root, "file")
	if resp, _ := staticGet(t, p, "GET", "/"); resp.StatusCode != 404 {
		t.Errorf("a file as the folder: %d", resp.StatusCode)
	}
}

// A large file over a slow connection, and its descriptor afterwards.
func TestStaticAbort(t *testing.T) {
	root := staticFolder(t, map[string]string{"big": strings.Repeat("0123456789abcdef", 1<<19)})
	p := start(t, oneRoute(Action{Type: Serve, Root: root}))
	for range 5 {
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
		io.ReadFull(c, make([]byte, 1000))
		c.Close()
	}
	eventually(t, "nothing in flight", func() bool { return p.Stats().Routes[0].Active == 0 })
	if runtime.GOOS == "linux" {
		eventually(t, "file closed", func() bool {
			links, _ := filepath.Glob("/proc/self/fd/*")
			for _, link := range links {
				if to, _ := os.Readlink(link); strings.HasPrefix(to, root) {
					return false
				}
			}
			return true
		})
	}
	if resp, body := staticGet(t, p, "GET", "/big"); resp.ContentLength != 1<<23 || len(body) != 1<<23 {
		t.Errorf("Content-Length %d, body of %d bytes", resp.ContentLength, len(body))
	}
}
