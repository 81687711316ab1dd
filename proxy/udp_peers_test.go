package proxy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startNSD runs an authoritative name server for example.test.
func startNSD(t testing.TB) Target {
	t.Helper()
	nsd := testenv.Need(t, "nsd", "apt-get install nsd")
	dir := testenv.Folder(t)
	at := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	var zone strings.Builder
	zone.WriteString("$ORIGIN example.test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\nwww AAAA 2001:db8::80\n")
	for i := range 12 { // some 3 KB
		fmt.Fprintf(&zone, "large TXT \"%d %s\"\n", i, strings.Repeat("x", 240))
	}
	for i := range 50 { // too much for UDP
		fmt.Fprintf(&zone, "huge TXT \"%d %s\"\n", i, strings.Repeat("y", 240))
	}
	config := fmt.Sprintf(`server:
  ip-address: %s@%d
  username: ""
  server-count: 1
  pidfile: "%[3]s/pid"
  xfrdfile: "%[3]s/xfrd"
  xfrdir: "%[3]s"
  zonelistfile: "%[3]s/zones"
  database: ""
  zonesdir: "%[3]s"
  rrl-ratelimit: 0
  ipv4-edns-size: 4096
remote-control:
  control-enable: no
zone:
  name: example.test
  zonefile: zone
`, at.Host, at.Port, dir)
	for name, text := range map[string]string{"zone": zone.String(), "conf": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: fmt.Sprintf("%s:%d", at.Host, at.Port)}, nsd, "-d", "-c", filepath.Join(dir, "conf"))
	return at
}

// DNS takes UDP and TCP on one port.
func TestDNSThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	dig := testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	one, two := startNSD(t), startNSD(t)
	port := testenv.FreePort(t)
	p := start(t, Config{Timeouts: Timeouts{UDPIdle: time.Second}, Routes: []Route{udpRoute("udp", port, one, two), streamRoute("tcp", port, one, two)}})
	ask := func(args ...string) string {
		t.Helper()
		return runTool(t, testenv.Command(t, dig, append([]string{"@127.0.0.1", "-p", fmt.Sprint(port), "+norec", "+tries=2", "+time=5"}, args...)...))
	}
	for range 20 {
		if got := ask("+short", "www.example.test", "A"); got != "192.0.2.80\n" {
			t.Fatalf("%q", got)
		}
	}
	for _, target := range []Target{one, two} {
		name := fmt.Sprintf("127.0.0.1:%d/udp", target.Port)
		for _, s := range p.Stats().Targets {
			// Not always ten: a port of the client's may come again, and with it
			// the session that it had.
			if s.Name == name && (s.Total < 7 || s.Total > 13) {
				t.Errorf("%+v", s)
			}
		}
	}
	if got := ask("+short", "+tcp", "www.example.test", "AAAA"); got != "2001:db8::80\n" {
		t.Errorf("%q", got)
	}
	if got := ask("+bufsize=4096", "+ignore", "large.example.test", "TXT"); strings.Count(got, "xxxx\"") != 12 || !strings.Contains(got, "(UDP)") {
		t.Errorf("%s", got)
	}
	if got := ask("huge.example.test", "TXT"); strings.Count(got, "yyyy\"") != 50 || !strings.Contains(got, "(TCP)") {
		t.Errorf("%s", got)
	}
	if got := ask("nobody.example.test"); !strings.Contains(got, "status: NXDOMAIN") {
		t.Errorf("%s", got)
	}
	var questions strings.Builder
	for i := range 500 {
		fmt.Fprintf(&questions, "www.example.test A\nn%d.example.test A\n", i)
	}
	file := filepath.Join(testenv.Folder(t), "questions")
	if err := os.WriteFile(file, []byte(questions.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			got, err := testenv.Command(t, dig, "@127.0.0.1", "-p", fmt.Sprint(port), "+norec", "+tries=3", "+time=5", "-f", file).Output()
			if a, b := strings.Count(string(got), "status: NOERROR"), strings.Count(string(got), "status: NXDOMAIN"); err != nil || a != 500 || b != 500 {
				t.Errorf("%d and %d answers, %v", a, b, err)
			}
		})
	}
	waitAll(t, &running)
	eventually(t, "the sessions end", func() bool { return p.Stats().UDPSessions == 0 })
}

func TestSocatThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	socat := testenv.Need(t, "socat", "apt-get install socat")
	port := testenv.FreePort(t)
	server := testenv.Start(t, testenv.Opts{}, socat, "-T5", fmt.Sprintf("UDP4-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr", port), "EXEC:cat")
	p := start(t, Config{Routes: []Route{udpRoute("udp", 0, Target{Host: "127.0.0.1", Port: port})}})
	ask := func(text string) string {
		cmd := testenv.Command(t, socat, "-t1", "-T2", "-", "UDP4:"+udpAddr(t, p, 0))
		cmd.Stdin = strings.NewReader(text)
		return runTool(t, cmd)
	}
	testenv.WaitFor(t, 10*time.Second, func() error { // it cannot be asked whether it listens
		if got := ask("ready?"); got != "ready?" {
			return fmt.Errorf("%q\n%s", got, server.Output())
		}
		return nil
	})
	for _, text := range []string{"hello", strings.Repeat("0123456789", 800)} {
		if got := ask(text); got != text {
			t.Errorf("%q", got)
		}
	}
}

// iperf3 talks by TCP about what it measures by UDP.
func TestIperfThroughTheProxy(t *testing.T) {
	testenv.Goroutines(t)
	iperf := testenv.Need(t, "iperf3", "apt-get install iperf3")
	p := start(t, Config{})
	run := func(args ...string) (sent, lost int) {
		t.Helper()
		// A server of its own each time: it would take what is left of one
		// measurement for the beginning of the next.
		server := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
		proc := testenv.Start(t, testenv.Opts{}, iperf, "-s", "-B", "127.0.0.1", "-p", fmt.Sprint(server.Port), "--forceflush")
		// It takes whoever looks whether it listens for its only client.
		testenv.WaitFor(t, 20*time.Second, func() error {
			if out := proc.Output(); !strings.Contains(out, "Server listening") {
				return fmt.Errorf("it prints %q", out)
			}
			return nil
		})
		port := testenv.FreePort(t)
		update(t, p, udpRoute("udp", port, server), streamRoute("tcp", port, server))
		out := runTool(t, testenv.Command(t, iperf, append([]string{"-c", "127.0.0.1", "-p", fmt.Sprint(port), "-u", "-J", "-t", "1"}, args...)...))
		var report struct {
			End struct {
				Sum struct {
					Packets int     `json:"packets"`
					Lost    int     `json:"lost_packets"`
					Bits    float64 `json:"bits_per_second"`
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		s := report.End.Sum
		t.Logf("%v: %d datagrams, %d lost, %.0f Mbit/s", args, s.Packets, s.Lost, s.Bits/1e6)
		return s.Packets, s.Lost
	}
	for _, args := range [][]string{
		{"-b", "10M", "-l", "1200"}, {"-b", "10M", "-l", "1200", "-P", "4"}, {"-b", "10M", "-l", "1200", "-R"}, {"-b", "50M", "-l", "60000"},
	} {
		if sent, lost := run(args...); sent < 10 || lost > sent/2 { // a busy machine loses some
			t.Errorf("%v: %d of %d datagrams are lost", args, lost, sent)
		}
	}
	if s := routeStats(p, "udp"); s.Streams < 7 || s.BytesIn < 3_000_000 || s.BytesOut < 1_000_000 {
		t.Errorf("%+v", s)
	}
}
