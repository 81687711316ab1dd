package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/sockets"
)

// An upgrade is a talk between two processes, over a connection that the new one
// inherits:
//
//	old: starts the new one, with copies of its sockets
//	new: reads and checks its configuration          says "ready"
//	old: stops what has the storage (Handover)       says "go"
//	new: starts                                      says "serving"
//	old: serves the connections that it still has, and ends
//
// If the new one ends before it says "serving", the old one goes on.
const (
	handoverVar = "GATEWAY_HANDOVER" // a JSON list of sockets, whose files follow the connection's

	sayReady, sayGo, sayServing = "ready", "go", "serving"

	checkTimeout    = time.Minute      // from the start of the new process to "ready"
	handoverTimeout = 20 * time.Second // for mail and requests that are under way
	startTimeout    = 5 * time.Minute  // from "go" to "serving": zones may be large
	drainTimeout    = 10 * time.Minute // for connections of the proxy that the old process still has
)

// peer is the other process.
type peer struct {
	net.Conn
	lines *bufio.Reader
}

func newPeer(c net.Conn) *peer { return &peer{c, bufio.NewReader(c)} }

func (p *peer) say(word string) error {
	_, err := fmt.Fprintln(p, word)
	return err
}

// hear waits for a word.
func (p *peer) hear(word string, limit time.Duration) error {
	p.SetReadDeadline(time.Now().Add(limit))
	line, err := p.lines.ReadString('\n')
	if err == nil && line != word+"\n" {
		err = fmt.Errorf("the other process says %q", line)
	}
	if err != nil {
		return fmt.Errorf("the other process does not say %q: %w", word, err)
	}
	return nil
}

// succession is what a process has of the one before it, and for the one after.
type succession struct {
	old     *peer  // nil: this is the first one
	program string // to start the next one
}

// inherited is what the process that this one is to replace has left; the peer is
// nil if there is none.
func inherited() (*peer, []sockets.Socket, error) {
	text, ok := os.LookupEnv(handoverVar)
	if !ok {
		return nil, nil, nil
	}
	os.Unsetenv(handoverVar)
	var list []sockets.Socket
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", handoverVar, err)
	}
	const first = 3 // after standard error
	f := os.NewFile(first, "handover")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", handoverVar, err)
	}
	for i := range list {
		list[i].File = os.NewFile(uintptr(first+1+i), list[i].Address)
		closeOnExec(first + 1 + i)
	}
	return newPeer(conn), list, nil
}

// takeOver waits for the old process to leave the storage.
func (p *peer) takeOver() error {
	if err := p.say(sayReady); err != nil {
		return err
	}
	return p.hear(sayGo, checkTimeout)
}

// program is the file that this process was started from, or what is there by the
// time of an upgrade. Call it before the working directory changes.
func program() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// upgrade starts path as a new process and leaves everything to it but for the
// connections that are open. On an error it has taken everything back; the
// Router runs, unless errLost is in the error.
func upgrade(ctx context.Context, r *dcrouter.Router, path string, log *slog.Logger) error {
	began := time.Now()
	child, err := startChild(r, path)
	if err != nil {
		return err
	}
	defer child.Close()
	defer context.AfterFunc(ctx, func() { child.Close() })() // hear fails then

	if err := child.hear(sayReady, checkTimeout); err != nil {
		return child.end(err)
	}
	paused := time.Now()
	limit, cancel := context.WithTimeout(ctx, handoverTimeout)
	err = r.Handover(limit)
	cancel()
	if err != nil {
		return child.end(err)
	}
	if err = child.say(sayGo); err == nil {
		err = child.hear(sayServing, startTimeout)
	}
	if err != nil {
		err = child.end(err) // before the storage can be opened again
		if ctx.Err() != nil {
			return err // nobody wants it to go on
		}
		if back := r.Start(ctx); back != nil {
			err = errors.Join(err, errLost, back)
		}
		return err
	}
	log.Info("the new process serves", "pid", child.cmd.Process.Pid, "took", time.Since(began), "paused", time.Since(paused))
	notify(fmt.Sprintf("MAINPID=%d", child.cmd.Process.Pid))
	return nil
}

// errLost is the error of an upgrade that has failed so that the old process
// cannot go on either.
var errLost = errors.New("and the old process cannot go on")

// child is the new process as the old one sees it.
type child struct {
	*peer
	cmd *exec.Cmd
}

func startChild(r *dcrouter.Router, path string) (*child, error) {
	list, err := r.Sockets()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range list {
			s.File.Close()
		}
	}()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	for i := range list {
		cmd.ExtraFiles = append(cmd.ExtraFiles, list[i].File)
	}
	type named struct{ Network, Address string }
	var names []named
	for _, s := range list {
		names = append(names, named{s.Network, s.Address})
	}
	text, err := json.Marshal(names)
	if err == nil {
		cmd.Env = append(os.Environ(), handoverVar+"="+string(text))
		err = cmd.Start()
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	return &child{newPeer(ours), cmd}, nil
}

// end ends the new process, and adds how it ended to why.
func (c *child) end(why error) error {
	c.Close() // a process that waits for us ends by itself, and says so
	timer := time.AfterFunc(2*time.Second, func() { c.cmd.Process.Kill() })
	defer timer.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%w (the new process: %v)", why, strings.TrimSpace(err.Error()))
	}
	return why
}
