package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startHAProxy runs HAProxy with these sections until the test ends.
func startHAProxy(t testing.TB, ready, sections string) {
	t.Helper()
	haproxy := testenv.Need(t, "haproxy", "apt-get install haproxy")
	dir := testenv.Folder(t)
	file := filepath.Join(dir, "haproxy.cfg")
	const head = `
defaults
  mode http
  timeout connect 5s
  timeout check 10s
  timeout client 20s
  timeout server 20s
`
	if err := os.WriteFile(file, []byte(head+sections), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: ready}, haproxy, "-db", "-f", file)
}

func TestHAProxyInFront(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	raw := testenv.FreePort(t)
	settings, pool := tlsFiles(t, "s.test")
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Forwarded-Port"))
	})
	p := start(t, Config{Routes: []Route{
		believing(httpRoute("web", 0, "a.test", web), "127.0.0.1"),
		tlsRoute("secure", settings, forwardTo(web), "s.test"),
		believing(Route{Name: "raw", Match: Match{Ports: Ports(raw)}, Action: Action{SocketHandler: SocketHandlerFunc(infoSocket)}}, "127.0.0.1"),
	}})
	dir := testenv.Folder(t)
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t)) }
	for i, send := range []string{"send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"} {
		http, tcp, http6, secure := at(), at(), strings.Replace(at(), "127.0.0.1", "[::1]", 1), at()
		sock := filepath.Join(dir, fmt.Sprintf("%d.sock", i))
		// The checks are connections of HAProxy's own.
		startHAProxy(t, http, fmt.Sprintf(`
frontend http
  bind %[2]s
  bind %[3]s
  bind unix@%[4]s
  unique-id-format id-%%[uuid]
  default_backend http
backend http
  option httpchk
  http-check send meth GET uri / ver HTTP/1.1 hdr Host a.test
  http-check expect status 200
  server s %[1]s %[7]s check inter 100ms check-send-proxy
listen secure
  mode tcp
  bind %[6]s
  server s %[1]s %[7]s
listen tcp
  mode tcp
  bind %[5]s
  server s 127.0.0.1:%[8]d %[7]s check inter 100ms
`, addr(t, p, 0), http, http6, sock, tcp, secure, send, raw))
		ask := func(c net.Conn) string {
			t.Helper()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			return body
		}
		port := func(at string) string { _, port, _ := net.SplitHostPort(at); return port }
		if got, want := ask(dialFrom(t, other, http)), other+" "+port(http); got != want {
			t.Errorf("%s: %q, want %q", send, got, want)
		}
		if c, err := net.Dial("tcp", http6); err != nil {
			t.Logf("no IPv6 here: %v", err)
		} else if got, want := ask(c), "::1 "+port(http6); got != want {
			t.Errorf("%s, IPv6: %q, want %q", send, got, want)
		}
		c, err := net.Dial("unix", sock) // has no address that could be told
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(c); !strings.HasPrefix(got, "127.0.0.1 ") {
			t.Errorf("%s, Unix socket: %q", send, got)
		}
		c.Close()
		if status, body := get(t, client(t, secure, pool), "https://s.test/"); status != 200 || body != "127.0.0.1 "+port(secure) {
			t.Errorf("%s, TLS: %d %q", send, status, body)
		}
		tcpConn := dialFrom(t, other, tcp)
		if got, want := readLine(t, tcpConn), fmt.Sprintf("%s %s raw=true", tcpConn.LocalAddr(), tcp); got != want {
			t.Errorf("%s: %q, want %q", send, got, want)
		}
		mustBounce(t, tcpConn, "hello")
		tcpConn.Close()
	}
	if s := p.Stats(); s.Refused["badProxyHeader"] != 0 {
		t.Errorf("%+v", s.Refused)
	}
}

func TestServersBehindWithPROXY(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	nginx := testenv.Need(t, "nginx", "apt-get install nginx-light")
	cert, key, _ := testenv.SelfSigned(t, "s.test")
	dir := testenv.Folder(t)
	pem := filepath.Join(dir, "both.pem")
	var both []byte
	for _, file := range []string{cert, key} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	if err := os.WriteFile(pem, both, 0o600); err != nil {
		t.Fatal(err)
	}
	server := func() Target { return Target{Host: "127.0.0.1", Port: testenv.FreePort(t)} }
	name := func(s Target) string { return fmt.Sprintf("%s:%d", s.Host, s.Port) }

	haproxy, haproxyTLS := server(), server()
	startHAProxy(t, name(haproxy), fmt.Sprintf(`
frontend f
  bind %s accept-proxy
  bind %s accept-proxy ssl crt %s
  http-request return status 200 content-type text/plain lf-string "%%[src] %%[src_port] %%[dst] %%[dst_port]"
`, name(haproxy), name(haproxyTLS), pem))

	plain, secure := server(), server()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
daemon off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
  log_format told "$proxy_protocol_addr $request_uri $status";
  access_log %[1]s/access.log told;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server {
    listen %[2]s proxy_protocol;
    listen %[3]s proxy_protocol ssl;
    ssl_certificate %[4]s;
    ssl_certificate_key %[5]s;
    location /health { return 204; }
    location / { return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"; }
  }
}
`, dir, name(plain), name(secure), cert, key), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: name(plain)}, nginx, "-e", "stderr", "-p", dir, "-c", conf)

	for version := 1; version <= 2; version++ {
		var routes []Route
		for host, target := range map[string]Target{"haproxy.test": haproxy, "nginx.test": plain} {
			r := httpRoute(host, 0, host, target)
			r.Action.ProxyProtocol = &ProxyProtocol{Send: version}
			routes = append(routes, checked(r, HealthCheck{Path: "/health", Interval: 1e7}))
		}
		for host, target := range map[string]Target{"haproxy-tls.test": haproxyTLS, "nginx-tls.test": secure} {
			r := httpRoute(host, 0, host, target)
			r.Action.ProxyProtocol = &ProxyProtocol{Send: version}
			r.Action.TLS = &TLS{Mode: TerminateAndReencrypt, Certificate: Certificate{CertPath: cert, KeyPath: key}, Upstream: UpstreamTLS{InsecureSkipVerify: true}}
			routes = append(routes, r)
		}
		ports := make(map[string]int)
		for host, target := range map[string]Target{"haproxy": haproxy, "nginx": plain} {
			ports[host] = testenv.FreePort(t)
			r := streamRoute(host, ports[host], target)
			r.Action.ProxyProtocol = &ProxyProtocol{Send: version}
			routes = append(routes, r)
		}
		p := start(t, Config{Routes: routes})
		for _, from := range []string{"127.0.0.1", other} {
			ask := func(c net.Conn, host string) (answer, want string) {
				io.WriteString(c, "GET /"+from+" HTTP/1.0\r\nHost: "+host+"\r\n\r\n")
				all, err := io.ReadAll(c)
				if err != nil {
					t.Error(err)
				}
				_, answer, _ = strings.Cut(string(all), "\r\n\r\n")
				split := func(a net.Addr) string { return strings.Replace(a.String(), ":", " ", 1) }
				return answer, split(c.LocalAddr()) + " " + split(c.RemoteAddr())
			}
			for host := range ports {
				if got, want := ask(dialFrom(t, from, addr(t, p, 0)), host+".test"); got != want {
					t.Errorf("version %d, %s: %q, want %q", version, host, got, want)
				}
				if got, want := ask(dialFrom(t, from, addr(t, p, ports[host])), host+".test"); got != want {
					t.Errorf("version %d, %s, stream: %q, want %q", version, host, got, want)
				}
			}
		}
		curl := testenv.Need(t, "curl", "apt-get install curl")
		for _, host := range []string{"haproxy-tls.test", "nginx-tls.test"} {
			got := runTool(t, testenv.Command(t, curl, "-sS", "-q", "-k", "--noproxy", "*", "--interface", other, "--connect-to", "::"+addr(t, p, 0), "https://"+host+"/tls"))
			if !strings.HasPrefix(got, other+" ") {
				t.Errorf("version %d, %s: %q", version, host, got)
			}
		}
		for _, s := range p.Stats().Targets {
			if !s.Healthy || s.LastError != "" {
				t.Errorf("%+v", s)
			}
		}
		stopNow(p)
	}
	log, err := os.ReadFile(filepath.Join(dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line, times := range map[string]int{"127.0.0.1 /127.0.0.1 200\n": 4, other + " /" + other + " 200\n": 4, other + " /tls 200\n": 2} {
		if n := strings.Count(string(log), line); n != times {
			t.Errorf("nginx has logged %q %d times, want %d:\n%s", line, n, times, log)
		}
	}
	// A check is nobody's, so nginx logs no client for it.
	if !strings.Contains(string(log), " /health 204\n") || strings.Contains(string(log), "127.0.0.1 /health") {
		t.Errorf("checks in the log of nginx:\n%s", log)
	}
}

func TestCurlSendsPROXY(t *testing.T) {
	testenv.Goroutines(t)
	curl := testenv.Need(t, "curl", "apt-get install curl")
	settings, _ := tlsFiles(t, "a.test")
	infos := Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, _ := ConnInfoFrom(r.Context())
		fmt.Fprint(w, i.Client.Addr(), " ", i.Local)
	})}
	p := start(t, Config{Routes: []Route{
		believing(Route{Name: "plain", Match: Match{Ports: Ports(0)}, Action: infos}, "127.0.0.1"),
		tlsRoute("secure", settings, infos, "a.test"),
	}})
	run := func(args ...string) string {
		t.Helper()
		return runTool(t, testenv.Command(t, curl, append([]string{"-sS", "-q", "-k", "--noproxy", "*", "--max-time", "20", "--connect-to", "::" + addr(t, p, 0)}, args...)...))
	}
	for _, url := range []string{"http://a.test/", "https://a.test/"} {
		if got, want := run("--haproxy-protocol", url), "127.0.0.1 "+addr(t, p, 0); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		if !strings.Contains(runTool(t, testenv.Command(t, curl, "--help", "all")), "--haproxy-clientip") {
			t.Log("this curl has no --haproxy-clientip")
			continue
		}
		for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
			if got := run("--haproxy-clientip", ip, url); !strings.HasPrefix(got, ip+" ") {
				t.Errorf("%s as %s: %q", url, ip, got)
			}
		}
	}
}
