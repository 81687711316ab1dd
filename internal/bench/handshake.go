package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// handshakes opens TLS connections from a number of clients at once, makes one
// request on each and closes it. All servers get the same offer, TLS 1.3 with
// X25519, so that none chooses a dearer key exchange than another; resume
// makes the clients present a ticket from their last connection, and a server
// that does not take it fails.
func (b *bench) handshakes(addr string, clients int, resume bool, d time.Duration) (result, error) {
	var mu sync.Mutex
	var times []time.Duration
	var problem error
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			mine, err := b.handshakesOfOne(addr, resume, begin.Add(d))
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			if problem == nil {
				problem = err // the others' is most likely the same
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	return result{requests: len(times), took: took, p50: percentile(times, 50), p99: percentile(times, 99)}, problem
}

func (b *bench) handshakesOfOne(addr string, resume bool, end time.Time) (times []time.Duration, err error) {
	conf := b.cert.trust()
	conf.MinVersion = tls.VersionTLS13
	conf.CurvePreferences = []tls.CurveID{tls.X25519}
	if resume {
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	for time.Now().Before(end) {
		begin := time.Now()
		resumed, err := handshake(addr, conf)
		if err != nil {
			return times, err
		}
		// The very first one has no ticket yet.
		if len(times) > 0 && resumed != resume {
			return times, fmt.Errorf("session resumed: %v, want %v", resumed, resume)
		}
		times = append(times, time.Since(begin))
	}
	return times, nil
}

// handshake is one connection with one request.
func handshake(addr string, conf *tls.Config) (resumed bool, err error) {
	raw, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return false, err
	}
	c := tls.Client(raw, conf)
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false, err
	}
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(got) != body) {
		err = fmt.Errorf("wrong answer %s: %.200q", resp.Status, got)
	}
	return c.ConnectionState().DidResume, err
}
