package testenv

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// fakeTB records what a test would have reported, so that failures can be
// tested.
type fakeTB struct {
	testing.TB
	failed, skipped bool
	text            strings.Builder
	cleanups        []func()
}

func (f *fakeTB) Helper()                   {}
func (f *fakeTB) Cleanup(fn func())         { f.cleanups = append(f.cleanups, fn) }
func (f *fakeTB) Failed() bool              { return f.failed }
func (f *fakeTB) Logf(s string, a ...any)   { fmt.Fprintf(&f.text, s+"\n", a...) }
func (f *fakeTB) Errorf(s string, a ...any) { f.Error(fmt.Sprintf(s, a...)) }
func (f *fakeTB) Error(a ...any)            { f.failed = true; fmt.Fprintln(&f.text, a...) }
func (f *fakeTB) Fatal(a ...any)            { f.Error(a...); runtime.Goexit() }
func (f *fakeTB) Fatalf(s string, a ...any) { f.Fatal(fmt.Sprintf(s, a...)) }
func (f *fakeTB) Skipf(s string, a ...any)  { f.skipped = true; f.Logf(s, a...); runtime.Goexit() }

// run calls fn and then the cleanups, each as the testing package would.
func (f *fakeTB) run(t *testing.T, fn func()) {
	f.TB = t
	each := func(fn func()) {
		done := make(chan struct{})
		go func() { defer close(done); fn() }()
		<-done
	}
	each(fn)
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		each(f.cleanups[i])
	}
}

func TestNeed(t *testing.T) {
	t.Setenv("CI", "")
	if runtime.GOOS != "windows" {
		if p := Need(t, "sh", "any Unix"); !filepath.IsAbs(p) {
			t.Errorf("Need(sh) = %q", p)
		}
		if p := Need(t, "/bin/s*", "any Unix"); !strings.HasPrefix(p, "/bin/s") {
			t.Errorf("Need(/bin/s*) = %q", p)
		}
	}
	for _, tool := range []string{"no-such-tool", "/no/such/*/tool", "/no/such/tool"} {
		t.Setenv("CI", "")
		var local fakeTB
		local.run(t, func() { Need(&local, tool, "apt-get install moon") })
		if !local.skipped || local.failed {
			t.Errorf("%s: skipped %v, failed %v; want a skip", tool, local.skipped, local.failed)
		}
		t.Setenv("CI", "true")
		var ci fakeTB
		ci.run(t, func() { Need(&ci, tool, "apt-get install moon") })
		if ci.skipped || !ci.failed {
			t.Errorf("%s with CI=true: skipped %v, failed %v; want a failure", tool, ci.skipped, ci.failed)
		}
		for _, s := range []string{local.text.String(), ci.text.String()} {
			if !strings.Contains(s, tool) || !strings.Contains(s, "apt-get install moon") {
				t.Errorf("%q does not name the tool and how to get it", s)
			}
		}
	}
}

func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port := FreePort(t)
		if seen[port] {
			t.Fatalf("port %d twice", port)
		}
		seen[port] = true
	}
	// The next ones are taken: for TCP, for UDP.
	next := FreePort(t) + 1
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", next))
	if err != nil {
		t.Skip(err)
	}
	defer ln.Close()
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", next+1))
	if err != nil {
		t.Skip(err)
	}
	defer pc.Close()
	if got := FreePort(t); got == next || got == next+1 {
		t.Errorf("FreePort = %d, which is taken", got)
	}
}

func TestWaitPort(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	var f fakeTB
	f.run(t, func() { WaitPort(&f, addr, 20*time.Millisecond) })
	if !f.failed {
		t.Error("nothing listens, but WaitPort did not fail")
	}
	closed := make(chan struct{})
	defer func() { <-closed }()
	go func() {
		defer close(closed)
		time.Sleep(50 * time.Millisecond)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		if c, err := ln.Accept(); err == nil {
			c.Close()
		}
	}()
	WaitPort(t, addr, 10*time.Second)

	if runtime.GOOS != "windows" {
		path := filepath.Join(Folder(t), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		WaitPort(t, path, time.Second)
	}
}

func TestFolder(t *testing.T) {
	var f fakeTB
	var dir string
	f.run(t, func() {
		dir = Folder(&f)
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
			f.Fatal(err)
		}
	})
	if f.failed {
		t.Error(f.text.String())
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestGoroutines(t *testing.T) {
	stop := make(chan struct{})
	var old, clean, slow, leaky fakeTB

	go func() { <-stop }() // there before: not a leak
	old.run(t, func() { checkGoroutines(&old, 5*time.Second) })
	clean.run(t, func() {
		checkGoroutines(&clean, 5*time.Second)
		done := make(chan struct{})
		go close(done)
		<-done
	})
	slow.run(t, func() {
		checkGoroutines(&slow, 5*time.Second)
		go time.Sleep(100 * time.Millisecond) // not of the module by its frames, but started by it
	})
	for name, f := range map[string]*fakeTB{"old": &old, "clean": &clean, "slow": &slow} {
		if f.failed {
			t.Errorf("%s: %s", name, f.text.String())
		}
	}

	leaky.run(t, func() {
		checkGoroutines(&leaky, 20*time.Millisecond)
		go leak(stop)
	})
	if s := leaky.text.String(); !leaky.failed || !strings.Contains(s, "testenv.leak") || !strings.Contains(s, "created by") {
		t.Errorf("a leak was not reported with its stack: %q", s)
	}
	close(stop)
}

func leak(stop chan struct{}) { <-stop }

func TestSelfSigned(t *testing.T) {
	cert, key, pool := SelfSigned(t, "a.example", "*.b.example", "127.0.0.1", "::1")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer func() { ln.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	handshake := func(name string) error {
		c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: pool, ServerName: name})
		if err == nil {
			c.Close()
		}
		return err
	}
	for _, name := range []string{"a.example", "x.b.example", "127.0.0.1", "::1"} {
		if err := handshake(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := handshake("c.example"); err == nil {
		t.Error("c.example was accepted")
	}
}
