package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// child is a gateway in a process of its own that keeps its state in a folder.
type child struct {
	path, folder string
	port         int
	front        *front
	pebble       *testenv.Pebble
}

func newChild(t *testing.T) *child {
	t.Helper()
	c := &child{folder: filepath.Join(testenv.Folder(t), "state"), port: testenv.FreePort(t), front: newFront(t)}
	dnsPort := testenv.FreePort(t)
	c.pebble = testenv.StartPebble(t, testenv.PebbleOpts{DNS: fmt.Sprintf("127.0.0.1:%d", dnsPort)})
	route := autoRoute(c.port, "example.com")
	route.Action = proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.org/"}, TLS: route.Action.TLS}
	cfg := dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route},
			ACME: &proxy.ACME{CADirectory: c.front.directory(), CARootPath: c.front.certPath, RetryInterval: time.Second}},
		DNS:     &dnsserver.Config{ListenHost: "127.0.0.1", Port: &dnsPort, Zones: []dnsserver.Zone{{Name: "example.com"}}},
		Storage: &dcrouter.StorageConfig{FSPath: c.folder},
	}
	c.path = filepath.Join(testenv.Folder(t), "config.json")
	f, err := os.Create(c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := dcrouter.WriteConfig(f, cfg); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *child) start(t *testing.T) *testenv.Process {
	t.Helper()
	return startChild(t, c.path, fmt.Sprintf("127.0.0.1:%d", c.port))
}

// A process that is killed at whatever point leaves nothing that is in its way
// later, and what has been obtained is there: it is not ordered again.
func TestKilledDuringIssuance(t *testing.T) {
	for _, stage := range []struct {
		path   string
		orders int // in all
	}{{accounts, 1}, {newOrder, 2}, {finalize, 2}, {download, 2}} {
		t.Run(stage.path, func(t *testing.T) {
			c := newChild(t)
			reached, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			c.front.hold = func(path string, ok bool) {
				if ok && strings.HasPrefix(path, "/"+stage.path) {
					once.Do(func() { close(reached); <-release })
				}
			}
			c.front.start(t, c.pebble)
			p := c.start(t)
			select {
			case <-reached:
			case <-time.After(patience):
				t.Fatal("the authority has never been asked")
			}
			p.Kill()
			close(release)
			// Nonces are refused at random, so orders are counted where they are made.
			p = c.start(t)
			cert := waitForCertificate(t, c.port, "example.com", c.pebble.Root(t))
			if n := strings.Count(c.pebble.Output(), "Added order"); n != stage.orders {
				t.Errorf("%d orders, want %d", n, stage.orders)
			}
			if stage.path != download {
				return
			}
			// And once more, with the certificate there.
			p.Kill()
			p = c.start(t)
			again := waitForCertificate(t, c.port, "example.com", c.pebble.Root(t))
			if again.SerialNumber.Cmp(cert.SerialNumber) != 0 || strings.Count(c.pebble.Output(), "Added order") != stage.orders {
				t.Error("ordered again after a restart")
			}
			p.Stop()
			c.checkFiles(t)
		})
	}
}

// checkFiles finds files that others may read.
func (c *child) checkFiles(t *testing.T) {
	t.Helper()
	keys := 0
	err := filepath.WalkDir(c.folder, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if !d.IsDir() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if strings.Contains(string(text), "PRIVATE KEY") {
				keys++
			}
		}
		return nil
	})
	if err != nil || keys != 2 { // of the account and of the certificate
		t.Errorf("%d keys, %v", keys, err)
	}
}

// Nothing is printed by a Router without logger, whatever happens to it.
func TestNothingIsPrinted(t *testing.T) {
	c := newChild(t)
	p := c.start(t) // there is no authority
	if _, err := shake(c.port, "example.com", nil); err == nil {
		t.Error("a certificate without an authority")
	}
	c.front.start(t, c.pebble)
	waitForCertificate(t, c.port, "example.com", c.pebble.Root(t))
	p.Stop()
	if out := p.Output(); out != "" {
		t.Errorf("printed: %q", out)
	}
	if p.ExitCode() != 0 {
		t.Errorf("exit code %d", p.ExitCode())
	}
}
