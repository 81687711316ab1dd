package email

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// relayConfig sends what it accepts to a next hop.
func relayConfig(folder string, port int, next string) Config {
	_, nextPort, _ := net.SplitHostPort(next)
	number, _ := strconv.Atoi(nextPort)
	return Config{
		ListenHost: "127.0.0.1", Ports: Ports(port), Hostname: "mx.example.com", DataPath: folder,
		Domains:   []Domain{{Domain: "example.com"}},
		Routes:    []Route{{Name: "all", Action: Action{Type: Process}}},
		SmartHost: &SmartHost{Host: "127.0.0.1", Port: number, TLS: ClientTLS{Mode: NoTLS}},
		Queue:     Queue{RetryDelay: 50 * time.Millisecond},
	}
}

// TestRelayChild is the process that TestKillDuringDelivery kills.
func TestRelayChild(t *testing.T) {
	folder := os.Getenv("EMAIL_RELAY_CHILD")
	if folder == "" {
		t.Skip("TestKillDuringDelivery runs it")
	}
	serveUntilKilled(t, func(port int) Config { return relayConfig(folder, port, os.Getenv("EMAIL_RELAY_NEXT")) })
}

// A Server that is killed while it delivers loses nothing, and delivers twice only
// what the next server had just taken. EMAIL_RELAY_ROUNDS sets how often.
func TestKillDuringDelivery(t *testing.T) {
	rounds := killRounds(t, "EMAIL_RELAY_ROUNDS", 10)
	testenv.Goroutines(t)
	sink := newSink(t)
	k := &killTest{t: t, folder: t.TempDir(), promised: make(map[string]string), random: rand.New(rand.NewPCG(2, uint64(time.Now().UnixNano())))}
	var kills []time.Time
	for round := range rounds {
		port, child := startChild(t, "TestRelayChild", "EMAIL_RELAY_CHILD="+k.folder, "EMAIL_RELAY_NEXT="+sink.Addr().String())
		k.load(round, port, child)
		kills = append(kills, time.Now())
		if t.Failed() {
			return
		}
	}
	s, err := New(relayConfig(k.folder, 0, sink.Addr().String()), WithResolver(noDNS{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	testenv.WaitFor(t, 2*time.Minute, func() error {
		if n := s.Stats().Spool.Messages; n > 0 {
			return fmt.Errorf("%d messages are still in the spool", n)
		}
		return nil
	})

	twice := 0
	for id, name := range k.promised {
		got := sink.taken(name)
		if len(got) == 0 {
			t.Errorf("message %s, %s, was accepted and is lost", id, name)
		}
		for _, at := range got[:max(0, len(got)-1)] {
			twice++
			// It was taken before a kill that followed soon.
			ok := false
			for _, kill := range kills {
				ok = ok || at.Before(kill.Add(time.Second)) && kill.Sub(at) < 5*time.Second
			}
			if !ok {
				t.Errorf("message %s came again though it was taken at %v", name, at)
			}
		}
	}
	if k.accepted == 0 {
		t.Fatal("nothing was ever accepted")
	}
	t.Logf("%d messages accepted in %d rounds, %d of them delivered twice", k.accepted, rounds, twice)
	if most := rounds * crashConnections * 4; twice > most {
		t.Errorf("%d were delivered twice, which is more than can have been under way: %d", twice, most)
	}
}

// sink is a server that takes messages, or puts them off, and notes when.
type sink struct {
	net.Listener
	t  *testing.T
	mu sync.Mutex
	at map[string][]time.Time // by name, when the reply was under way
}

func newSink(t *testing.T) *sink {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{Listener: ln, t: t, at: make(map[string][]time.Time)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if err := s.serve(conn); err != nil && !errors.Is(err, io.EOF) {
					t.Log("sink:", err) // the child was killed
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	return s
}

func (s *sink) taken(name string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[name]
}

func (s *sink) serve(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	r := bufio.NewReader(conn)
	say := func(line string) error {
		_, err := io.WriteString(conn, line+"\r\n")
		return err
	}
	if err := say("220 sink"); err != nil {
		return err
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		reply := "250 ok"
		switch verb := strings.ToUpper(strings.TrimSpace(line)); {
		case strings.HasPrefix(verb, "QUIT"):
			return say("221 bye")
		case strings.HasPrefix(verb, "RCPT") && rand.IntN(20) == 0:
			reply = "450 4.2.1 not now"
		case strings.HasPrefix(verb, "DATA"):
			if err := say("354 go on"); err != nil {
				return err
			}
			var content bytes.Buffer
			for {
				line, err := r.ReadBytes('\n')
				if err != nil {
					return err
				}
				if string(line) == ".\r\n" {
					break
				}
				content.Write(bytes.TrimPrefix(line, []byte(".")))
			}
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond) // the load of a server, not a wait of the test
			s.take(content.Bytes())
		}
		if err := say(reply); err != nil {
			return err
		}
	}
}

// take notes a message, which must be whole.
func (s *sink) take(content []byte) {
	_, rest, _ := bytes.Cut(content, []byte("\r\nSubject: "))
	title, _, _ := bytes.Cut(rest, []byte("\r\n"))
	name := string(title)
	if !bytes.HasSuffix(content, []byte(crashMessage(name))) {
		s.t.Errorf("message %q is not as it was sent", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[name] = append(s.at[name], time.Now())
}
