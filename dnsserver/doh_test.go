package dnsserver

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startDoH starts a server without sockets.
func startDoH(t testing.TB) *Server {
	t.Helper()
	s, err := New(Config{Listen: new(bool)})
	if err != nil {
		t.Fatal(err)
	}
	mustStart(t, s)
	return s
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// response is one with these records, to whatever is asked.
func response(t testing.TB, query []byte, rcode int, answer, authority string) []byte {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(query); err != nil {
		t.Fatal(err)
	}
	m.Response, m.Authoritative, m.Rcode = true, true, rcode
	for section, text := range map[*[]dns.RR]string{&m.Answer: answer, &m.Ns: authority} {
		for line := range strings.Lines(text) {
			rr, err := dns.NewRR(line)
			if err != nil {
				t.Fatal(err)
			}
			*section = append(*section, rr)
		}
	}
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// httpRequest is one, and the status that it gets.
type httpRequest struct {
	name, method, url, contentType string
	body                           []byte
	status                         int
}

func (r *httpRequest) request() *http.Request {
	req := httptest.NewRequest(r.method, r.url, bytes.NewReader(r.body))
	if r.name == "too long, as it turns out" {
		req.ContentLength = -1
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	return req
}

// httpRequests are good and bad ones.
func httpRequests(t testing.TB) []httpRequest {
	query := makeQuery(0, "a.example")
	long := append(append([]byte{}, query...), make([]byte, maxMessage)...)
	return []httpRequest{
		{"POST", "POST", "/dns-query", wireType, query, 200},
		{"POST with a parameter", "POST", "/dns-query", "Application/DNS-Message; x=y", query, 200},
		{"POST of the longest", "POST", "/dns-query", wireType, long[:maxMessage], 200},
		{"GET", "GET", "/dns-query?dns=" + encode(query), "", nil, 200},
		{"GET with more", "GET", "/dns-query?a=b&dns=" + encode(query), "", nil, 200},
		{"GET of the longest", "GET", "/dns-query?dns=" + encode(long[:maxMessage]), "", nil, 200},
		{"JSON", "GET", "/resolve?name=a.example", "", nil, 200},
		{"JSON as Cloudflare", "GET", "/dns-query?name=a.example&type=AAAA", "", nil, 200},
		{"below a prefix", "GET", "/x/resolve?name=a.example&type=65", "", nil, 200},
		{"PUT", "PUT", "/dns-query", wireType, query, 405},
		{"HEAD", "HEAD", "/dns-query?dns=" + encode(query), "", nil, 405},
		{"POST of JSON", "POST", "/resolve", wireType, query, 405},
		{"no type", "POST", "/dns-query", "", query, 415},
		{"another type", "POST", "/dns-query", "application/dns-json", query, 415},
		{"too long", "POST", "/dns-query", wireType, long, 413},
		{"too long, as it turns out", "POST", "/dns-query", wireType, long, 413},
		{"GET too long", "GET", "/dns-query?dns=" + encode(long), "", nil, 414},
		{"GET far too long", "GET", "/dns-query?x=y&dns=" + strings.Repeat("A", 200000), "", nil, 414},
		{"nothing", "POST", "/dns-query", wireType, nil, 400},
		{"short", "POST", "/dns-query", wireType, query[:11], 400},
		{"no parameter", "GET", "/dns-query", "", nil, 400},
		{"empty parameter", "GET", "/dns-query?dns=", "", nil, 400},
		{"two", "GET", "/dns-query?dns=" + encode(query) + "&dns=" + encode(query), "", nil, 400},
		{"padding", "GET", "/dns-query?dns=" + encode(query[:12]) + "=", "", nil, 400},
		{"standard base64", "GET", "/dns-query?dns=%2B%2F" + encode(query), "", nil, 400},
		{"line break", "GET", "/dns-query?dns=" + encode(query) + "%0A", "", nil, 400},
		{"bad escape", "GET", "/dns-query?dns=%zz", "", nil, 400},
		{"a response", "POST", "/dns-query", wireType, response(t, query, 0, "", ""), 400},
		{"JSON without name", "GET", "/resolve", "", nil, 400},
		{"JSON with dns", "GET", "/resolve?dns=" + encode(query), "", nil, 400},
		{"bad name", "GET", "/resolve?name=a..b", "", nil, 400},
		{"long label", "GET", "/resolve?name=" + strings.Repeat("a", 64), "", nil, 400},
		{"long name", "GET", "/resolve?name=" + strings.Repeat("a.", 2000), "", nil, 400},
		{"not ASCII", "GET", "/resolve?name=b%C3%BCcher.example", "", nil, 400},
		{"a space", "GET", "/resolve?name=a%20b", "", nil, 400},
		{"bad type", "GET", "/resolve?name=a&type=70000", "", nil, 400},
		{"no such type", "GET", "/resolve?name=a&type=AAAAA", "", nil, 400},
		{"bad flag", "GET", "/resolve?name=a&do=perhaps", "", nil, 400},
		{"bad form", "GET", "/resolve?name=a&ct=text/html", "", nil, 400},
		{"bad subnet", "GET", "/resolve?name=a&edns_client_subnet=x", "", nil, 400},
		{"name twice", "GET", "/resolve?name=a&name=b", "", nil, 400},
	}
}

func TestHTTPStatus(t *testing.T) {
	s := startDoH(t)
	query := makeQuery(0, "a.example")
	for _, test := range httpRequests(t) {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, test.request())
		if w.Code != test.status {
			t.Errorf("%s: %d %.100s", test.name, w.Code, w.Body)
		}
		if test.status == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s: no Allow", test.name)
		}
		if test.status == 400 && strings.Contains(w.Body.String(), "internal") {
			t.Errorf("%s: %s", test.name, w.Body)
		}
	}
	st := s.counters.snapshot().HTTPS
	if st.Queries != st.Responses+st.Dropped || st.Responses != 9 {
		t.Errorf("%+v", st)
	}
	stop(t, s)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/dns-query?dns="+encode(query), nil))
	if w.Code != 503 {
		t.Errorf("after Stop: %d", w.Code)
	}
}

// For how long an answer may be kept.
func TestFreshness(t *testing.T) {
	query := makeQuery(0, "a.example")
	const soa = "example. 900 IN SOA ns.example. h.example. 1 2 3 4 "
	for _, test := range []struct {
		name              string
		rcode             int
		answer, authority string
		want              uint32
	}{
		{"least TTL", 0, "a.example. 300 IN A 192.0.2.1\na.example. 60 IN A 192.0.2.2", "example. 5 IN NS ns.example.", 60},
		{"zero", 0, "a.example. 0 IN A 192.0.2.1\na.example. 60 IN A 192.0.2.2", "", 0},
		{"no data, by minimum", 0, "", soa + "120", 120},
		{"no name, by TTL", 3, "", soa + "7200", 900},
		{"alias to nothing", 3, "a.example. 3600 IN CNAME b.example.", soa + "30", 30},
		{"referral", 0, "", "a.example. 300 IN NS ns.a.example.", 0},
		{"refused", 5, "", "", 0},
		{"failure", 2, "a.example. 300 IN A 192.0.2.1", "", 0},
	} {
		msg := response(t, query, test.rcode, test.answer, test.authority)
		if got := freshness(msg); got != test.want {
			t.Errorf("%s: %d s, want %d", test.name, got, test.want)
		}
		for n := range msg { // cut anywhere
			freshness(msg[:n])
		}
	}
	msg := response(t, query, 0, "a.example. 300 IN A 192.0.2.1", "")
	copy(msg[len(msg)-10:], []byte{0x80}) // a TTL beyond 2^31-1
	if got := freshness(msg); got != 0 {
		t.Errorf("huge TTL: %d s", got)
	}
}

func TestJSON(t *testing.T) {
	s := startDoH(t)
	var asked []byte
	s.responding = func(_ *scratch, dst, query []byte, from *asker) []byte {
		asked = bytes.Clone(query)
		if from.transport != overHTTPS || from.addr != netip.MustParseAddrPort("192.0.2.1:1234") {
			t.Errorf("asked by %+v", from)
		}
		return append(dst, response(t, query, 0, "a.example. 60 IN TXT \"<x> & y\" \"z\"\na.example. 300 IN TYPE999 \\# 1 ff", "example. 5 IN NS ns.example.")...)
	}
	get := func(url, accept string) (*httptest.ResponseRecorder, *dns.Msg) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", url, nil)
		r.Header.Set("Accept", accept)
		s.ServeHTTP(w, r)
		var m dns.Msg
		if err := m.Unpack(asked); err != nil {
			t.Fatal(err)
		}
		return w, &m
	}
	w, q := get(`/resolve?name=A.example&type=txt&cd=1&do=true&edns_client_subnet=192.0.2.77&random_padding=xxx`, "")
	want := `{"Status":0,"TC":false,"RD":true,"RA":false,"AD":false,"CD":true,"Question":[{"name":"A.example.","type":16}],` +
		`"Answer":[{"name":"a.example.","type":16,"TTL":60,"data":"\"<x> & y\" \"z\""},{"name":"a.example.","type":999,"TTL":300,"data":"\\# 1 ff"}],` +
		`"Authority":[{"name":"example.","type":2,"TTL":5,"data":"ns.example."}],"edns_client_subnet":"192.0.2.0/0"}` + "\n"
	if got := w.Body.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if h := w.Header(); h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "max-age=60" {
		t.Errorf("%v", h)
	}
	opt := q.IsEdns0()
	if q.Id != 0 || !q.RecursionDesired || !q.CheckingDisabled || opt == nil || !opt.Do() || len(opt.Option) != 1 || opt.Option[0].String() != "192.0.2.0/24/0" {
		t.Errorf("asked %v", q)
	}
	w, q = get(`/dns-query?name=a.example&type=TYPE257`, "application/dns-json")
	if w.Header().Get("Content-Type") != jsonType || q.Question[0].Qtype != dns.TypeCAA || q.IsEdns0().Do() {
		t.Errorf("%v, asked %v", w.Header(), q)
	}
	w, _ = get(`/resolve?name=a.example&type=1&ct=application/dns-message&edns_client_subnet=2001:db8::/32`, "")
	var m dns.Msg
	if err := m.Unpack(w.Body.Bytes()); err != nil || w.Header().Get("Content-Type") != wireType || len(m.Answer) != 2 {
		t.Errorf("%v, %v", err, w.Header())
	}
}

// curl asks over HTTP/2 and HTTP/1.1, and kdig over HTTP/2.
func TestHTTPPeers(t *testing.T) {
	testenv.Goroutines(t)
	certPath, keyPath, _ := testenv.SelfSigned(t)
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Config{Listen: new(bool), DoH: &EncryptedPort{Port: new(int)}}, WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
	mux := http.NewServeMux()
	mux.Handle("/dns-query", s)
	mux.Handle("/resolve", s)
	web := &http.Server{Handler: mux}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); web.ServeTLS(ln, certPath, keyPath) }()
	t.Cleanup(func() { web.Close(); <-done })
	for name, at := range map[string]string{"handler": ln.Addr().String(), "own port": addr(t, s, "https")} {
		t.Run(name, func(t *testing.T) { askHTTPSPeers(t, at, certPath) })
	}
}

func askHTTPSPeers(t *testing.T, at, certPath string) {
	base := "https://" + at
	query := makeQuery(0, "a.example")
	body := filepath.Join(testenv.Folder(t), "query")
	if err := os.WriteFile(body, query, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"--http2", "--http1.1"} {
		common := []string{"-sS", version, "--max-time", "10", "--cacert", certPath, "-w", "|%{http_version} %{http_code} %{content_type}"}
		for _, test := range [][]string{
			{"-H", "content-type: " + wireType, "--data-binary", "@" + body, base + "/dns-query"},
			{base + "/dns-query?dns=" + encode(query)},
			{base + "/resolve?name=a.example&ct=" + wireType},
		} {
			out := runClient(t, "curl", "curl", append(common, test...)...)
			msg, tail, _ := strings.Cut(out, "|")
			n := map[string]string{"--http2": "2", "--http1.1": "1.1"}[version]
			if tail != n+" 200 "+wireType {
				t.Errorf("%v: %q", test, tail)
			}
			wantAnswer(t, []byte(msg), query)
		}
		out := runClient(t, "curl", "curl", append(common, base+"/resolve?name=a.example")...)
		text, _, _ := strings.Cut(out, "|")
		var j struct{ Status int }
		if err := json.Unmarshal([]byte(text), &j); err != nil || j.Status != 5 {
			t.Errorf("%v: %s", err, out)
		}
	}
	host, port := hostPort(t, at)
	for _, how := range []string{"+https", "+https-get"} {
		out := runClient(t, "kdig", "knot-dnsutils", "@"+host, "-p", port, "+timeout=5", "+tls-ca="+certPath, "+tls-hostname=localhost", how, "a.example")
		if !strings.Contains(out, "status: REFUSED") {
			t.Errorf("kdig %s printed\n%s", how, out)
		}
	}
}

// Whatever is in a URL or a body, a request gets a status.
func FuzzHTTP(f *testing.F) {
	query := makeQuery(0, "a.example")
	f.Add("dns="+encode(query), []byte(nil))
	f.Add("", query)
	f.Add("name=a.example&type=AAAA&do=1&cd=0&edns_client_subnet=192.0.2.0/24&ct=application/dns-json", []byte(nil))
	f.Add(`name=a\.b\032\..example&type=TYPE65535`, []byte(nil))
	f.Add("name=.&edns_client_subnet=::/0", []byte(nil))
	s := startDoH(f)
	f.Fuzz(func(t *testing.T, params string, body []byte) {
		r := httptest.NewRequest("GET", "/resolve", nil)
		if len(body) > 0 {
			r = httptest.NewRequest("POST", "/dns-query", bytes.NewReader(body))
			r.Header.Set("Content-Type", wireType)
		} else {
			r.URL.RawQuery = params
			if strings.Contains(params, "dns=") {
				r.URL.Path = "/dns-query"
			}
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		switch w.Code {
		case 200, 400, 413, 414:
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	})
}

// What is read of a message agrees with the library where that can read it.
func FuzzFreshness(f *testing.F) {
	query := makeQuery(0, "a.example")
	f.Add(response(f, query, 0, "a.example. 300 IN A 192.0.2.1\nb.example. 60 IN CNAME a.example.", "example. 5 IN NS ns.example."))
	f.Add(response(f, query, 3, "", "example. 900 IN SOA ns.example. h.example. 1 2 3 4 120"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got := freshness(msg)
		var m dns.Msg
		if m.Unpack(msg) != nil || len(m.Answer) == 0 || len(m.Ns) > 0 || msg[3]&0x0f != 0 || m.Truncated {
			return
		}
		want := uint32(1<<31 - 1)
		for _, rr := range m.Answer {
			if rr.Header().Ttl > 1<<31-1 {
				want = 0
			}
			want = min(want, rr.Header().Ttl)
		}
		if got != want {
			t.Errorf("%d s, want %d", got, want)
		}
	})
}
