package email

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// crashConfig keeps what it accepts: it has nowhere to send it.
func crashConfig(folder string, port int) Config {
	return Config{
		ListenHost: "127.0.0.1", Ports: Ports(port), Hostname: "mx.example.com", DataPath: folder,
		Domains: []Domain{{Domain: "example.com"}},
		Routes:  []Route{{Name: "all", Action: Action{Type: Process}}},
		Queue:   Queue{Paused: true},
	}
}

// TestCrashChild is the process that TestKill kills.
func TestCrashChild(t *testing.T) {
	folder := os.Getenv("EMAIL_CRASH_CHILD")
	if folder == "" {
		t.Skip("TestKill runs it")
	}
	serveUntilKilled(t, func(port int) Config { return crashConfig(folder, port) })
}

// serveUntilKilled is all that a child does.
func serveUntilKilled(t *testing.T, config func(port int) Config) {
	port, err := strconv.Atoi(os.Getenv("EMAIL_CRASH_PORT"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(config(port), WithResolver(noDNS{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Fatal(s.Wait())
}

// killRounds is how often a test kills its child: as many times as the variable
// says, or else so often.
func killRounds(t *testing.T, variable string, rounds int) int {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGKILL")
	}
	if s := os.Getenv(variable); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		return 3
	}
	return rounds
}

// startChild runs a test of this program as a process of its own.
func startChild(t *testing.T, test string, env ...string) (port int, child *testenv.Process) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	port = testenv.FreePort(t)
	return port, testenv.Start(t, testenv.Opts{
		Ready: fmt.Sprintf("127.0.0.1:%d", port), Timeout: time.Minute, Env: append(env, fmt.Sprintf("EMAIL_CRASH_PORT=%d", port)),
	}, program, "-test.run=^"+test+"$")
}

// A Server that is killed at any moment has, after the next Start, every message
// that it has said to have, byte for byte, and none that is not whole.
// EMAIL_CRASH_ROUNDS sets how often.
func TestKill(t *testing.T) {
	rounds := killRounds(t, "EMAIL_CRASH_ROUNDS", 15)
	testenv.Goroutines(t)
	k := &killTest{t: t, folder: t.TempDir(), promised: make(map[string]string), random: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))}
	for round := range rounds {
		port, child := startChild(t, "TestCrashChild", "EMAIL_CRASH_CHILD="+k.folder)
		k.load(round, port, child)
		if round%3 != 2 || round == rounds-1 { // sometimes it is killed again before anybody tidies up
			k.check(round)
		}
		if t.Failed() {
			return
		}
	}
	if k.accepted == 0 {
		t.Fatal("nothing was ever accepted")
	}
	t.Logf("%d messages accepted in %d rounds, %d found that no reply had come for", k.accepted, rounds, k.unanswered)
}

// killTest is what is known of the spool.
type killTest struct {
	t      *testing.T
	folder string
	random *rand.Rand

	mu       sync.Mutex
	promised map[string]string // name of a message by its ID
	accepted int

	unanswered int
}

const crashConnections = 6

// load sends messages until the child is killed in the midst of it.
func (k *killTest) load(round, port int, child *testenv.Process) {
	var killed atomic.Bool
	var clients sync.WaitGroup
	var first sync.Once
	loaded := make(chan struct{}) // the first message was accepted
	for c := range crashConnections {
		clients.Go(func() {
			err := k.send(fmt.Sprintf("%d-%d", round, c), port, func() { first.Do(func() { close(loaded) }) })
			if !killed.Load() {
				k.t.Errorf("before the kill: %v", err)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		clients.Wait()
		close(ended)
	}()
	if round%5 != 4 { // then it may be before anything was accepted
		select {
		case <-loaded:
		case <-ended:
		case <-time.After(30 * time.Second):
			k.t.Error("nothing was accepted for half a minute")
		}
	}
	select {
	case <-time.After(time.Duration(k.random.IntN(150)) * time.Millisecond): // any moment
	case <-ended:
	}
	killed.Store(true)
	child.Kill()
	<-ended
}

// send sends one message after another and notes those that were accepted. It
// ends with the connection.
func (k *killTest) send(name string, port int, accepted func()) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	reply := func(want string) (string, error) {
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return "", err
			case !strings.HasPrefix(line, want):
				return "", fmt.Errorf("%q instead of %s", line, want)
			case line[3] == ' ':
				return strings.TrimSpace(line), nil
			}
		}
	}
	say := func(text, want string) (string, error) {
		if _, err := io.WriteString(conn, text); err != nil {
			return "", err
		}
		return reply(want)
	}
	if _, err := reply("220"); err != nil {
		return err
	}
	if _, err := say("EHLO client.example.net\r\n", "250"); err != nil {
		return err
	}
	for n := 0; ; n++ {
		message := fmt.Sprintf("%s-%d", name, n)
		for _, step := range [][2]string{{"MAIL FROM:<a@example.net>\r\n", "250"}, {"RCPT TO:<b@example.com>\r\n", "250"}, {"DATA\r\n", "354"}} {
			if _, err := say(step[0], step[1]); err != nil {
				return err
			}
		}
		said, err := say(crashMessage(message)+".\r\n", "250")
		if err != nil {
			return err
		}
		id := said[strings.LastIndexByte(said, ' ')+1:]
		k.mu.Lock()
		k.promised[id] = message
		k.accepted++
		k.mu.Unlock()
		accepted()
	}
}

// crashMessage is the message of that name. Most are small; some are for a file of
// their own.
func crashMessage(name string) string {
	h := fnv.New64()
	io.WriteString(h, name)
	random := rand.New(rand.NewPCG(h.Sum64(), 0))
	lines := random.IntN(100)
	switch random.IntN(20) {
	case 0:
		lines = 6_000 + random.IntN(6_000) // 400 to 800 KiB
	case 1:
		lines = 16_000 + random.IntN(4_000) // more than 1 MiB
	}
	var b strings.Builder
	fmt.Fprintf(&b, "From: a@example.net\r\nTo: b@example.com\r\nSubject: %s\r\n\r\n", name)
	var raw [24]byte
	for range lines {
		for i := 0; i < len(raw); i += 8 {
			binary.LittleEndian.PutUint64(raw[i:], random.Uint64())
		}
		fmt.Fprintf(&b, "%x.........%s\r\n", raw, name)
	}
	return b.String()
}

// check starts a Server on what is left, compares all of it, and takes most of it
// away.
func (k *killTest) check(round int) {
	k.t.Helper()
	s, err := New(crashConfig(k.folder, 0), WithResolver(noDNS{}))
	if err != nil {
		k.t.Fatal(err)
	}
	if err := s.Start(k.t.Context()); err != nil {
		k.t.Fatalf("round %d: after the kill: %v", round, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			k.t.Error(err)
		}
	}()
	there := make(map[string]bool)
	for m, err := range s.Queue(k.t.Context()) {
		if err == nil {
			var name string
			if name, err = k.compare(s, m.ID); err == nil && k.promised[m.ID] != name {
				if k.promised[m.ID] != "" {
					err = fmt.Errorf("it is %s, want %s", name, k.promised[m.ID])
				}
				k.promised[m.ID] = name // from now on it must stay
				k.unanswered++
			}
		}
		if err != nil {
			k.t.Errorf("round %d, message %s: %v", round, m.ID, err)
		}
		there[m.ID] = true
	}
	for id, name := range k.promised {
		if !there[id] {
			k.t.Errorf("round %d: message %s, %s, was accepted and is lost", round, id, name)
		}
	}
	for id := range there {
		if k.random.IntN(4) == 0 {
			continue
		}
		testenv.WaitFor(k.t, time.Minute, func() error { return s.Drop(k.t.Context(), id) }) // it may be under way
		delete(k.promised, id)
	}
}

// compare reads a message, which must be as it was sent behind the header fields
// of the Server, and returns its name.
func (k *killTest) compare(s *Server, id string) (name string, err error) {
	_, content, err := s.Queued(k.t.Context(), id)
	if err != nil {
		return "", err
	}
	defer content.Close()
	all, err := io.ReadAll(content)
	if err != nil {
		return "", err
	}
	_, rest, _ := bytes.Cut(all, []byte("\r\nSubject: "))
	title, _, _ := bytes.Cut(rest, []byte("\r\n"))
	name = string(title)
	added, ok := bytes.CutSuffix(all, []byte(crashMessage(name)))
	if !ok || !bytes.HasPrefix(added, []byte("Received: from client.example.net ")) || !bytes.HasSuffix(added, []byte("\r\n")) {
		return name, errors.New("it is not as it was sent")
	}
	return name, nil
}
