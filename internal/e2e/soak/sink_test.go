package soak

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// sinkMode is how a mail server behaves.
type sinkMode int

const (
	wellBehaved sinkMode = iota
	tempFails            // 451 after the final dot
	drops                // takes the message, and closes the connection in place of 250
	lags                 // answers, but late
)

// sink is the next hop of all mail. It keeps count of what has arrived.
type sink struct {
	port int

	mu    sync.Mutex
	ln    net.Listener // nil while it is dead
	conns map[net.Conn]*taken
	mode  sinkMode
	// arrived is how often each message came, cut those of them whose 250 perhaps
	// did not get through.
	arrived map[string]int
	cut     map[string]bool
	damaged []string
	work    sync.WaitGroup
}

// taken is the latest message that a connection has brought.
type taken struct {
	id string
	at time.Time
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{port: testenv.FreePort(t), conns: map[net.Conn]*taken{}, arrived: map[string]int{}, cut: map[string]bool{}}
	s.start(t)
	t.Cleanup(func() {
		s.kill()
		testenv.Await(t, "the sink", s.work.Wait)
	})
	return s
}

func (s *sink) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", address(s.port))
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	s.work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.ln != ln {
				s.mu.Unlock()
				c.Close()
				return
			}
			s.conns[c] = new(taken)
			s.mu.Unlock()
			s.work.Go(func() { s.serve(c) })
		}
	})
}

// kill ends it as SIGKILL would. What it has just said may not have been heard.
func (s *sink) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		s.ln.Close()
		s.ln = nil
	}
	for c, last := range s.conns {
		if last.id != "" && time.Since(last.at) < 5*time.Second {
			s.cut[last.id] = true
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func (s *sink) behave(mode sinkMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = mode
}

func (s *sink) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	say := func(text string) bool {
		_, err := io.WriteString(c, text+"\r\n")
		return err == nil
	}
	for ok := say("220 sink.test ESMTP"); ok; {
		_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		switch verb {
		case "EHLO", "HELO":
			ok = say("250-sink.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 10000000")
		case "DATA":
			if !say("354 Go on") {
				return
			}
			message, err := io.ReadAll(textproto.NewReader(r).DotReader())
			if err != nil {
				return
			}
			ok = s.take(c, message, say)
		case "QUIT":
			say("221 Bye")
			return
		default:
			ok = say("250 OK")
		}
	}
}

// take counts a message and answers the final dot.
func (s *sink) take(c net.Conn, message []byte, say func(string) bool) bool {
	id, damage := inspect(message)
	s.mu.Lock()
	mode := s.mode
	if mode == tempFails {
		s.mu.Unlock()
		return say("451 4.3.0 Later, please")
	}
	s.mu.Unlock()
	if mode == lags {
		timer := time.NewTimer(time.Second)
		<-timer.C
	}
	s.mu.Lock()
	if damage != "" {
		s.damaged = append(s.damaged, damage)
	}
	s.arrived[id]++
	if s.ln == nil || mode == drops {
		s.cut[id] = true
		s.mu.Unlock()
		return false
	}
	if last := s.conns[c]; last != nil {
		*last = taken{id, time.Now()}
	}
	s.mu.Unlock()
	if say("250 2.0.0 Taken") {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut[id] = true
	return false
}

// Header fields of the soak's messages.
const idField, sumField = "X-Soak-Id", "X-Soak-Sum"

// compose writes a message that inspect can verify.
func compose(id, from, to string, body []byte) []byte {
	return fmt.Appendf(nil, "From: <%s>\r\nTo: <%s>\r\nSubject: soak\r\nDate: %s\r\nMessage-ID: <%s@sender.test>\r\n%s: %s\r\n%s: %x\r\n\r\n%s",
		from, to, time.Now().Format(time.RFC1123Z), id, idField, id, sumField, sha256.Sum256(body), body)
}

// inspect returns the id of a message, whose lines end with LF, and what is wrong
// with it.
func inspect(message []byte) (id, damage string) {
	head, body, ok := bytes.Cut(message, []byte("\n\n"))
	if !ok {
		return "", fmt.Sprintf("no end of the head in %.200q", message)
	}
	fields, err := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("\n\n")))).ReadMIMEHeader()
	if err != nil {
		return "", err.Error()
	}
	id = fields.Get(idField)
	if got := fmt.Sprintf("%x", sha256.Sum256(bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")))); got != fields.Get(sumField) {
		damage = fmt.Sprintf("the body of %q has changed", id)
	}
	return id, damage
}
