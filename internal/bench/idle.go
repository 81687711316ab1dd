package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// settle is how long a server has to find out that connections are idle, and to
// give back what it needed for a moment.
const settle = 4 * time.Second

// idleConnections is how many are held: 10,000, or fewer where a process may
// not have the two files open that each takes of a proxy.
func idleConnections() int { return min(10_000, (maxFiles()-1000)/2) }

// idleColumns are the figures of idle.
func idleColumns() []column {
	return []column{
		{name: "RSS KiB/connection", format: "%.2f", ratio: true},
		{name: "sockets/connection", format: "%.2f", ratio: true},
		{name: "pipe ends/connection", format: "%.2f"},
		{name: "connections", format: "%.0f"},
	}
}

// idle opens connections through the server, one after another, makes a
// request on each and leaves it open. The first one that fails is the end,
// and the figures are of those before it.
func (b *bench) idle(s *server, _ time.Duration) ([]float64, error) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	use := func() error {
		c, err := net.DialTimeout("tcp", loopback(s.port), 5*time.Second)
		if err != nil {
			return err
		}
		held = append(held, c)
		return exchange(c)
	}
	if err := use(); err != nil {
		return nil, err
	}
	before, err := holdings(s.proc.pid)
	if err != nil {
		return nil, err
	}
	n := 0
	for n < b.idlers && use() == nil {
		n++
	}
	time.Sleep(settle)
	after, err := holdings(s.proc.pid)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("it holds no connection")
	}
	per := func(before, after int) float64 { return float64(after-before) / float64(n) }
	return []float64{per(before.rss, after.rss) / 1024, per(before.sockets, after.sockets), per(before.pipes, after.pipes), float64(n)}, nil
}

// exchange makes one request on a connection that stays open.
func exchange(c net.Conn) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != body {
		err = fmt.Errorf("wrong answer %.200q", got)
	}
	return err
}

// holding is what a process and its children hold.
type holding struct{ rss, sockets, pipes int } // bytes, descriptors

func holdings(pid int) (h holding, err error) {
	for _, pid := range family(pid) {
		f, err := stat(pid)
		if err != nil {
			return h, err
		}
		var pages int
		if _, err := fmt.Sscan(f[24-3], &pages); err != nil { // rss
			return h, err
		}
		h.rss += pages * os.Getpagesize()
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		files, err := os.ReadDir(dir)
		if err != nil {
			return h, err
		}
		for _, file := range files {
			switch to, _ := os.Readlink(filepath.Join(dir, file.Name())); {
			case strings.HasPrefix(to, "socket:"):
				h.sockets++
			case strings.HasPrefix(to, "pipe:"):
				h.pipes++
			}
		}
	}
	return h, nil
}
