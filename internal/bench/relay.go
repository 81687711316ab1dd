package main

import (
	"fmt"
	"os"
	"time"

	"github.com/dcrouter/dcrouter/email"
)

// mailSink is Postfix's smtp-sink: a server that takes all mail and keeps none.
type mailSink struct {
	port int
	proc *process
}

// relayRows are about mail that goes through a server: taken durably, and sent on.
func (b *bench) relayRows() []row {
	peers := []peer{b.oursRelay(b.gateway), postfixWith(func() (string, error) {
		port, err := b.sinkPort()
		return fmt.Sprintf("relayhost = [127.0.0.1]:%d", port), err
	})}
	if b.before != "" {
		before := b.oursRelay(b.before)
		before.name = "before"
		peers = append(peers, before)
	}
	relayRow := func(name, title string, connections int) row {
		return row{
			name: name, title: "Mail relayed, 4 KiB, " + title,
			load:    fmt.Sprintf("smtp-source -s %d -l 4096, a connection for each message, to smtp-sink as the next hop, until the queue is empty; ours checks the sender as above", connections),
			columns: mailColumns(), targets: []target{{1, "Postfix", 3}}, peers: peers, measure: b.relaying(connections),
		}
	}
	return []row{relayRow("relay-1", "one connection", 1), relayRow("relay-40", "40 connections", 40)}
}

func (b *bench) oursRelay(gateway string) peer {
	return b.oursMailWith(gateway, func(c *email.Config) error {
		port, err := b.sinkPort()
		c.SmartHost = &email.SmartHost{Host: "127.0.0.1", Port: port}
		return err
	})
}

// sinkPort is where the sink listens, which is started for whoever is first.
func (b *bench) sinkPort() (int, error) {
	if b.sink != nil {
		return b.sink.port, nil
	}
	program, err := find("smtp-sink")
	if err != nil {
		return 0, err
	}
	port, err := freePort()
	if err != nil {
		return 0, err
	}
	dir, err := b.folder("sink")
	if err != nil {
		return 0, err
	}
	args := []string{loopback(port), "1000"}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	proc, err := start(dir, loopback(port), program, args...)
	if err != nil {
		return 0, err
	}
	b.sink = &mailSink{port, proc}
	return port, nil
}

// relaying measures so many connections at a time that bring messages, until the
// server has sent the last one on.
func (b *bench) relaying(connections int) func(*server, time.Duration) ([]float64, error) {
	return func(s *server, d time.Duration) ([]float64, error) {
		sent, took := 0, time.Duration(0)
		cpu, err := s.cpuOf(func() error {
			for batch := 100 * connections; took < d; batch = nextBatch(sent, took, d, connections) {
				begin := time.Now()
				if err := smtpSource(s.port, connections, batch); err != nil {
					return err
				}
				for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
					left, err := s.left()
					if err != nil {
						return err
					}
					if left == 0 {
						break
					}
					if time.Now().After(deadline) {
						return fmt.Errorf("%d messages were not sent on", left)
					}
				}
				sent, took = sent+batch, took+time.Since(begin)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		used, err := memory(s.proc.pid)
		if err != nil {
			return nil, err
		}
		return []float64{micros(cpu) / float64(sent), float64(sent) / took.Seconds(), mebi(used)}, nil
	}
}

// left is how many messages a mail server still has.
func (s *server) left() (int, error) {
	if s.name == "Postfix" {
		return s.files("maildrop", "incoming", "active", "deferred")
	}
	return s.spooled()
}
