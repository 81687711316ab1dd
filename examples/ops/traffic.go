package main

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"net/http"
	"net/smtp"
	"sync"
	"sync/atomic"
	"time"
)

// traffic is clients of all kinds, some of which want what they may not have. Errors
// are what the dashboard shows, so they are of no interest here.
type traffic struct {
	host string
	last atomic.Int64 // how long the last request took, in ns
}

// run makes traffic until ctx ends, more at some times than at others.
func (t *traffic) run(ctx context.Context) {
	var clients sync.WaitGroup
	clients.Go(func() { t.often(ctx, 20*time.Millisecond, t.request) })
	clients.Go(func() { t.often(ctx, 50*time.Millisecond, t.query) })
	clients.Go(func() { t.often(ctx, time.Second, t.message) })
	clients.Wait()
}

// often calls do about once in pause, in waves of half a minute.
func (t *traffic) often(ctx context.Context, pause time.Duration, do func(ctx context.Context, n int)) {
	start := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		do(ctx, n)
		wave := 1 + 0.8*math.Sin(2*math.Pi*time.Since(start).Seconds()/30)
		select {
		case <-time.After(time.Duration(float64(pause) * wave)):
		case <-ctx.Done():
		}
	}
}

func (t *traffic) request(ctx context.Context, n int) {
	path := "/"
	if n%10 == 0 {
		path = "/office/"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(t.host, "8080")+path, nil)
	if err != nil {
		return
	}
	begun := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	t.last.Store(int64(time.Since(begun)))
}

func (t *traffic) query(ctx context.Context, n int) {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(t.host, "5300"))
	}}
	name := "www.example.com."
	if n%5 == 0 {
		name = "nothing.example.com."
	}
	resolver.LookupHost(ctx, name)
}

func (t *traffic) message(_ context.Context, n int) {
	to := "ann@example.com"
	if n%4 == 0 {
		to = "somebody@example.org" // this is no relay
	}
	text := "From: shop@example.net\r\nTo: " + to + "\r\nSubject: an order\r\n\r\nThank you.\r\n"
	c, err := smtp.Dial(net.JoinHostPort(t.host, "2525"))
	if err != nil {
		return
	}
	defer c.Close()
	// As between most mail servers: encrypted to whoever answers.
	if c.StartTLS(&tls.Config{InsecureSkipVerify: true}) != nil || c.Mail("shop@example.net") != nil || c.Rcpt(to) != nil {
		return
	}
	if w, err := c.Data(); err == nil {
		w.Write([]byte(text))
		w.Close()
	}
	c.Quit()
}
