package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// runTool runs a program to its end and returns what it prints to stdout.
func runTool(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", filepath.Base(cmd.Path), err, errors.String(), out)
	}
	return string(out)
}

func TestRedisThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	server := testenv.Need(t, "redis-server", "apt-get install redis-server")
	cli := testenv.Need(t, "redis-cli", "apt-get install redis-tools")
	redis := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	testenv.Start(t, testenv.Opts{Ready: fmt.Sprintf("127.0.0.1:%d", redis.Port)}, server,
		"--port", fmt.Sprint(redis.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	port := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{streamRoute("redis", port, redis)}})
	run := func(stdin io.Reader, args ...string) string {
		t.Helper()
		cmd := testenv.Command(t, cli, append([]string{"-p", fmt.Sprint(port)}, args...)...)
		cmd.Stdin = stdin
		return strings.TrimSpace(runTool(t, cmd))
	}
	if got := run(nil, "PING"); got != "PONG" {
		t.Fatalf("PING says %q", got)
	}
	// 10,000 commands at once, some with large values, through one connection.
	var pipe strings.Builder
	command := func(args ...string) {
		fmt.Fprintf(&pipe, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(&pipe, "$%d\r\n%s\r\n", len(a), a)
		}
	}
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MB
	for i := range 10_000 {
		command("INCRBY", "sum", fmt.Sprint(i))
		if i%1000 == 0 {
			command("APPEND", "large", large)
		}
	}
	if got := run(strings.NewReader(pipe.String()), "--pipe"); !strings.Contains(got, "errors: 0, replies: 10010") {
		t.Errorf("pipe: %s", got)
	}
	if got := run(nil, "GET", "sum"); got != "49995000" {
		t.Errorf("the sum is %s", got)
	}
	if got := run(nil, "GET", "large"); got != strings.Repeat(large, 10) {
		t.Errorf("the large value came back with %d bytes", len(got))
	}

	// What is published arrives on a connection that waits.
	sub := dialTCP(t, addr(t, p, port))
	io.WriteString(sub, "*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n")
	want := "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(sub, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
	run(nil, "PUBLISH", "news", "hello")
	want = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n"
	got = make([]byte, len(want))
	if _, err := io.ReadFull(sub, got); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if s := routeStats(p, "redis"); s.BytesIn < uint64(pipe.Len()) || s.BytesOut < uint64(10*len(large)) {
		t.Errorf("counted %d bytes in, %d out", s.BytesIn, s.BytesOut)
	}
}

func TestPostgreSQLThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	const how = "apt-get install postgresql"
	initdb := testenv.Need(t, "/usr/lib/postgresql/*/bin/initdb", how)
	postgres := testenv.Need(t, "/usr/lib/postgresql/*/bin/postgres", how)
	psql := testenv.Need(t, "psql", how)
	const account = "nobody" // postgres refuses root
	dir := testenv.Folder(t)
	data := filepath.Join(dir, "data")
	made := testenv.Start(t, testenv.Opts{Dir: dir, User: account}, initdb, "-D", data, "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
	select {
	case <-made.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("initdb takes too long")
	}
	if code := made.ExitCode(); code != 0 {
		t.Fatalf("initdb: %d\n%s", code, made.Output())
	}
	nobody, err := user.Lookup(account)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	// With TLS of its own, which starts in the middle of the stream.
	cert, key, _ := testenv.SelfSigned(t)
	for from, to := range map[string]string{cert: "server.crt", key: "server.key"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(data, to)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 { // otherwise the server runs as we do
			if err := os.Chown(file, uid, gid); err != nil {
				t.Fatal(err)
			}
		}
	}
	db := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	at := fmt.Sprintf("127.0.0.1:%d", db.Port)
	testenv.Start(t, testenv.Opts{Dir: dir, User: account, Ready: at}, postgres, "-D", data, "-p", fmt.Sprint(db.Port), "-k", "", "-h", "127.0.0.1",
		"-c", "fsync=off", "-c", "ssl=on")
	port := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{streamRoute("postgres", port, db)}})
	query := func(mode string, stdin io.Reader, sql string) string {
		t.Helper()
		cmd := testenv.Command(t, psql, fmt.Sprintf("host=127.0.0.1 port=%d user=tester dbname=postgres sslmode=%s", port, mode), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql)
		cmd.Stdin = stdin
		return runTool(t, cmd)
	}
	testenv.WaitFor(t, 10*time.Second, func() error { // it listens before it is ready
		out, err := testenv.Command(t, psql, fmt.Sprintf("host=127.0.0.1 port=%d user=tester dbname=postgres", db.Port), "-X", "-c", "select 1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})

	var rows strings.Builder
	const count = 100_000
	sum := 0
	for i := range count {
		fmt.Fprintf(&rows, "%d\tsome text for row %d, long enough to make megabytes of it\n", i, i*7)
		sum += i
	}
	for _, mode := range []string{"disable", "require"} {
		query(mode, nil, "DROP TABLE IF EXISTS t; CREATE TABLE t (id int, text text)")
		query(mode, strings.NewReader(rows.String()), "COPY t FROM STDIN")
		if got := strings.TrimSpace(query(mode, nil, "SELECT count(*), sum(id) FROM t")); got != fmt.Sprintf("%d|%d", count, sum) {
			t.Errorf("%s: %s", mode, got)
		}
		if got := query(mode, nil, "COPY (SELECT * FROM t ORDER BY id) TO STDOUT"); got != rows.String() {
			t.Errorf("%s: %d bytes came back, %d were sent", mode, len(got), rows.Len())
		}
		if got := strings.TrimSpace(query(mode, nil, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")); got != map[string]string{"disable": "f", "require": "t"}[mode] {
			t.Errorf("%s: the server says ssl is %s", mode, got)
		}
	}
	if s := routeStats(p, "postgres"); s.BytesIn < uint64(2*rows.Len()) || s.BytesOut < uint64(2*rows.Len()) {
		t.Errorf("counted %d bytes in, %d out", s.BytesIn, s.BytesOut)
	}
	t.Logf("%d MB copied each way, twice", rows.Len()>>20)
}

func TestCurlThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	curl := testenv.Need(t, "curl", "apt-get install curl")
	cert, key, _ := testenv.SelfSigned(t, "a.test", "b.test", "*.c.test")
	// Each says who it is, what it was asked and what it was sent.
	named := func(name string) Target {
		_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%s %s %s %s %s %d", name, r.Method, r.Host, r.RequestURI, r.Header.Get("X-Forwarded-Proto"), n)
		})
		return target
	}
	var routes []Route
	add := func(name, domain, path string) {
		target := named(name)
		for _, secure := range []bool{false, true} {
			r := httpRoute(fmt.Sprintf("%s %v", name, secure), 0, domain, target)
			r.Match.Path = path
			if secure {
				r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
			}
			routes = append(routes, r)
		}
	}
	add("a", "a.test", "")
	add("a-api", "a.test", "/api/*")
	add("a-exact", "a.test", "/api/v1")
	add("b", "b.test", "")
	add("wild", "*.c.test", "")
	p := start(t, Config{Routes: routes})
	port := targetOf(p.Addr(0)).Port
	big := filepath.Join(testenv.Folder(t), "big")
	if err := os.WriteFile(big, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		return runTool(t, testenv.Command(t, curl, append([]string{"-sS", "-q", "--noproxy", "*", "--max-time", "20", "--cacert", cert, "-w", "\n%{http_code} %{http_version}",
			"--connect-to", fmt.Sprintf("::127.0.0.1:%d", port)}, args...)...))
	}
	http2 := regexp.MustCompile(`\bHTTP2\b`).MatchString(runTool(t, testenv.Command(t, curl, "--version")))
	for _, test := range []struct{ host, path, want string }{
		{"a.test", "/", "a"}, {"a.test", "/apis?x=1", "a"}, {"a.test", "/api/users?q=%20", "a-api"}, {"a.test", "/api/v1", "a-exact"},
		{"A.Test", "/api/v1/more", "a-api"}, {"b.test", "/api/v1", "b"}, {"x.c.test", "/", "wild"},
	} {
		for _, v := range []struct{ scheme, option, version string }{
			{"http", "--http1.1", "1.1"}, {"http", "--http1.0", "1"}, {"https", "--http1.1", "1.1"}, {"https", "--http2", "2"},
		} {
			if v.version == "2" && !http2 {
				continue
			}
			want := fmt.Sprintf("%s GET %s %s %s 0\n200 %s", test.want, test.host, test.path, v.scheme, v.version)
			got := strings.TrimSuffix(run(v.option, v.scheme+"://"+test.host+test.path), ".0")
			if !strings.EqualFold(got, want) { // hosts may come in lower case
				t.Errorf("%s %s://%s%s: %q, want %q", v.option, v.scheme, test.host, test.path, got, want)
			}
		}
	}
	for _, url := range []string{"http://b.test/up", "https://b.test/up"} {
		for _, option := range []string{"--http1.1", "--http2"} {
			if strings.HasPrefix(url, "http:") && option == "--http2" || option == "--http2" && !http2 {
				continue // curl would ask for an upgrade to h2c
			}
			for _, send := range [][]string{{"--data-binary", "@" + big}, {"-T", big}, {"--data-binary", "@" + big, "-H", "Transfer-Encoding: chunked"}, {"--data-binary", "@" + big, "-H", "Expect: 100-continue"}} {
				if option == "--http2" && len(send) > 3 && strings.HasPrefix(send[3], "Transfer") {
					continue
				}
				got := run(append([]string{option, url}, send...)...)
				if !strings.Contains(got, " "+strconv.Itoa(5<<20)+"\n200") {
					t.Errorf("%s %s %v: %q", option, url, send, got)
				}
			}
		}
	}
	if got := run("http://nobody.test/"); !strings.HasSuffix(got, "\n404 1.1") {
		t.Errorf("unknown host: %q", got)
	}
	out, err := testenv.Command(t, curl, "-sS", "-q", "--noproxy", "*", "--cacert", cert, "--connect-to", fmt.Sprintf("::127.0.0.1:%d", port), "https://nobody.test/").CombinedOutput()
	if err == nil {
		t.Errorf("unknown host over HTTPS: %q", out)
	}
}
