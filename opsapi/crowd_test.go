package opsapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// crowds is how often the log says that an address may be a proxy.
func (d *desk) crowds() (n int) {
	d.logs.ring.Newest(0, func(r logRecord) bool {
		if strings.Contains(r.message, "trustedProxies") {
			n++
		}
		return true
	})
	return n
}

// Where the clients of a proxy share what is for one client, the log says so, and what
// to do about it.
func TestCrowdBehindOneAddress(t *testing.T) {
	for _, c := range []struct {
		name, header, trusted string
		want                  bool
	}{
		{"a proxy", "X-Forwarded-For", "", true},
		{"another", "Forwarded", "", true},
		{"somebody", "X-Other", "", false},
		{"one that is trusted", "X-Forwarded-For", "127.0.0.1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := testenv.NewClock(time.Now())
			cfg := testConfig()
			if c.trusted != "" {
				cfg.TrustedProxies = []string{c.trusted}
			}
			d := openDeskWith(t, newHost(), nil, cfg, WithClock(clock.Now))
			for range maxFailures { // lock the address
				d.post("", "adminLoginWithUsernameAndPassword", object{"username": "admin", "password": "wrong"}, c.header, "192.0.2.1")
			}
			want := 0
			if c.want {
				want = 1
			}
			if n := d.crowds(); n != want {
				t.Errorf("%d lines, want %d", n, want)
			}
			clock.Advance(2 * crowdAgain)
			small := d.server.running().strangers.small
			for range maxSmall / 4 {
				small.take("127.0.0.1")
			}
			for range 3 {
				d.post("", "getHealthStatus", object{}, c.header, "192.0.2.1")
			}
			if c.want {
				want = 2 // and not once for each
			}
			if n := d.crowds(); n != want {
				t.Errorf("%d lines, want %d", n, want)
			}
		})
	}
}

// So it does where connections are refused, of which no request is read.
func TestCrowdOfConnections(t *testing.T) {
	d := openDesk(t, newHost(), nil)
	d.send(http.MethodGet, "/healthz", "", nil, "X-Forwarded-For", "192.0.2.1")
	places := d.server.running().ln.(*boundedListener).places
	testenv.WaitFor(t, 30*time.Second, func() error {
		d.client.CloseIdleConnections()
		for places.take("127.0.0.1") { // also what a connection gives back that ends
		}
		if resp, err := d.client.Get(d.base + "/healthz"); err == nil {
			resp.Body.Close()
			return errors.New("there is room")
		}
		if n := d.crowds(); n != 1 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
}
