package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
)

const (
	mailSize   = 4 << 10
	mailSender = "someone@sender.example"
	mailRcpt   = "someone@bench.example"
)

// mailRows are about the mail server: how it takes messages over, durably.
func (b *bench) mailRows() []row {
	peers := []peer{b.oursMail(b.gateway), postfix("hold"), postfix("defer")}
	if b.before != "" {
		before := b.oursMail(b.before)
		before.name = "before"
		peers = append(peers, before)
	}
	const load = "smtp-source -s %d -l 4096, %s; no message leaves. Ours also checks SPF, DKIM, DMARC, ARC and the client's name, with a DNS server beside it that knows none of the names"
	each, kept := "a connection for each message", "connections kept (-d)"
	mailRow := func(name, title string, connections int, how string, targets []target, args ...string) row {
		return row{
			name: name, title: "Mail accepted durably, 4 KiB, " + title, load: fmt.Sprintf(load, connections, how),
			columns: mailColumns(), targets: targets, peers: peers, measure: b.accepting(connections, args...),
		}
	}
	return append([]row{
		mailRow("mail-1", "one connection", 1, each, []target{{0, "Postfix", 0.4}, {0, "Postfix, deferring", 0.4}, {1, "Postfix", 1.5}}),
		mailRow("mail-40", "40 connections", 40, each, []target{{0, "Postfix", 0.4}, {0, "Postfix, deferring", 0.4}, {1, "Postfix", 5}}),
		mailRow("mail-kept", "40 connections, kept", 40, kept, []target{{0, "Postfix", 0.4}}, "-d"),
	}, b.relayRows()...)
}

func mailColumns() []column {
	return []column{
		{name: "CPU µs/message", format: "%.0f", ratio: true},
		{name: "messages/s", format: "%.0f", ratio: true, more: true},
		{name: "MiB", format: "%.1f", ratio: true},
	}
}

// oursMail keeps what it accepts.
func (b *bench) oursMail(gateway string) peer {
	return b.oursMailWith(gateway, func(c *email.Config) error {
		c.Queue.Paused = true
		return nil
	})
}

func (b *bench) oursMailWith(gateway string, more func(*email.Config) error) peer {
	return peer{name: "ours", program: gateway, queued: (*server).spooled, setup: func(s site) ([]string, error) {
		names, err := b.nameServer()
		if err != nil {
			return nil, err
		}
		cfg := email.Config{
			ListenHost: "127.0.0.1", Ports: email.Ports(s.port), Hostname: "mx.bench.example", DataPath: filepath.Join(s.dir, "data"),
			Domains: []email.Domain{{Domain: "bench.example"}},
			Routes:  []email.Route{{Name: "all", Action: email.Action{Type: email.Process}}},
		}
		if err := more(&cfg); err != nil {
			return nil, err
		}
		conf, err := json.Marshal(cfg)
		if err != nil {
			return nil, err
		}
		file, err := s.write("mail.json", string(conf))
		return []string{"-mail", file, "-resolver", names, "-control", loopback(s.control)}, err
	}}
}

// nameServer is the address of a DNS server that knows no name of senders and
// clients.
func (b *bench) nameServer() (string, error) {
	if b.names == nil {
		names, err := dnsserver.New(dnsserver.Config{
			ListenHost: "127.0.0.1", Port: new(0),
			Zones: []dnsserver.Zone{{Name: "sender.example"}, {Name: "example"}, {Name: "arpa"}},
		})
		if err != nil {
			return "", err
		}
		if err := names.Start(context.Background()); err != nil {
			return "", err
		}
		b.names = names
	}
	addr, _, _ := strings.Cut(b.names.Addrs()[0], "/")
	return addr, nil
}

// postfix accepts mail and keeps it, in one of two ways: "hold" puts it where
// nothing more happens to it, which is the least that Postfix can do; "defer"
// has the queue manager look at it and put it off, as ours does.
func postfix(keep string) peer {
	settings := "smtpd_data_restrictions = check_client_access static:hold"
	if keep == "defer" {
		settings = "defer_transports = relay"
	}
	p := postfixWith(func() (string, error) { return settings, nil })
	if keep == "defer" {
		p.name = "Postfix, deferring"
	}
	return p
}

// postfixWith is Postfix with more in its main.cf.
func postfixWith(more func() (string, error)) peer {
	p := peer{name: "Postfix", program: "/usr/lib/postfix/sbin/master", queued: (*server).inQueue}
	p.setup = func(s site) ([]string, error) {
		if os.Getuid() != 0 {
			return nil, errors.New("only root can start Postfix")
		}
		dir := filepath.Join(s.dir, "conf")
		if err := errors.Join(os.Chmod(s.dir, 0o755), os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(s.dir, "queue"), 0o755)); err != nil {
			return nil, err
		}
		settings, err := more()
		if err != nil {
			return nil, err
		}
		_, err = s.write("conf/main.cf", fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
mail_owner = postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.bench.example
mydestination =
relay_domains = bench.example
smtpd_relay_restrictions = reject_unauth_destination
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
message_size_limit = 0
mailbox_size_limit = 0
%[2]s
`, s.dir, settings))
		if err != nil {
			return nil, err
		}
		_, err = s.write("conf/master.cf", fmt.Sprintf(`
127.0.0.1:%d inet n - n - 100 smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
`, s.port))
		if err != nil {
			return nil, err
		}
		program, err := find("postfix")
		if err != nil {
			return nil, err
		}
		if out, err := exec.Command(program, "-c", dir, "check").CombinedOutput(); err != nil { // makes the queue
			return nil, fmt.Errorf("postfix check: %w: %s", err, out)
		}
		return []string{"-c", dir, "-s"}, nil
	}
	return p
}

// inQueue is how many messages Postfix has, once it does nothing more with them.
func (s *server) inQueue() (int, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		busy, err := s.files("maildrop", "incoming", "active")
		if (err != nil || busy > 0) && time.Now().Before(deadline) {
			continue // its queue manager moves files meanwhile
		}
		if err != nil || busy > 0 {
			return 0, fmt.Errorf("%d messages do not come to rest: %v", busy, err)
		}
		return s.files("deferred", "hold")
	}
}

// files counts those in folders of Postfix's queue.
func (s *server) files(folders ...string) (n int, err error) {
	for _, name := range folders {
		err = errors.Join(err, filepath.WalkDir(filepath.Join(s.dir, "queue", name), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				n++
			}
			return err
		}))
	}
	return n, err
}

// spooled is how many messages ours has.
func (s *server) spooled() (int, error) {
	text, err := s.ask("queue")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// accepting measures so many connections at a time that bring messages.
func (b *bench) accepting(connections int, args ...string) func(*server, time.Duration) ([]float64, error) {
	return func(s *server, d time.Duration) ([]float64, error) {
		before, err := s.queued(s)
		if err != nil {
			return nil, err
		}
		sent, took := 0, time.Duration(0)
		cpu, err := s.cpuOf(func() error {
			for batch := 50 * connections; took < d; batch = nextBatch(sent, took, d, connections) {
				begin := time.Now()
				if err := smtpSource(s.port, connections, batch, args...); err != nil {
					return err
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
		after, err := s.queued(s)
		if err != nil {
			return nil, err
		}
		if after-before != sent {
			return nil, fmt.Errorf("%d messages were accepted, and %d are there", sent, after-before)
		}
		return []float64{micros(cpu) / float64(sent), float64(sent) / took.Seconds(), mebi(used)}, nil
	}
}

// nextBatch is how many messages fill what is left of d, at the rate so far.
func nextBatch(sent int, took, d time.Duration, connections int) int {
	left := float64(d-took) / float64(took) * float64(sent)
	return max(10*connections, int(math.Ceil(left)))
}

// smtpSource runs the load generator of that name. It gives up at the first
// reply that is not the one for success.
func smtpSource(port, connections, messages int, args ...string) error {
	program, err := find("smtp-source")
	if err != nil {
		return err
	}
	args = append([]string{"-s", strconv.Itoa(connections), "-m", strconv.Itoa(messages), "-l", strconv.Itoa(mailSize),
		"-M", "client.sender.example", "-f", mailSender, "-t", mailRcpt}, append(args, "inet:"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))...)
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Errorf("smtp-source: %v: %s", err, out)
	}
	return nil
}
