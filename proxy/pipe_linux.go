package proxy

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipe is where splice(2) puts bytes on their way from one socket to another.
type pipe struct {
	r, w int
	size int
}

const (
	// pipeSize is what a pipe should hold. Users other than root may have 64
	// MB in pipes in all.
	pipeSize = 256 << 10
	// maxPipes bounds how many are in use: clients that do not read keep what
	// was meant for them in one each.
	maxPipes = 256
	// sparePipes is how many are kept for later.
	sparePipes = 16
)

// pipes lends pipes, always empty ones.
type pipes struct {
	mu     sync.Mutex
	spare  []*pipe
	lent   int
	closed bool
}

// get returns a pipe, or nil if there is none to be had: the system may be out
// of descriptors or of memory for pipes.
func (p *pipes) get() *pipe {
	p.mu.Lock()
	if p.lent >= maxPipes {
		p.mu.Unlock()
		return nil
	}
	p.lent++
	if last := len(p.spare) - 1; last >= 0 {
		one := p.spare[last]
		p.spare = p.spare[:last]
		p.mu.Unlock()
		return one
	}
	p.mu.Unlock()
	one := newPipe()
	if one == nil {
		p.mu.Lock()
		p.lent--
		p.mu.Unlock()
	}
	return one
}

// put takes a pipe back, or closes it if it is not empty or not needed.
func (p *pipes) put(one *pipe, empty bool) {
	p.mu.Lock()
	p.lent--
	keep := empty && !p.closed && len(p.spare) < sparePipes
	if keep {
		p.spare = append(p.spare, one)
	}
	p.mu.Unlock()
	if !keep {
		one.close()
	}
}

// close closes the spare pipes, and from now on those that come back.
func (p *pipes) close() {
	p.mu.Lock()
	spare := p.spare
	p.spare, p.closed = nil, true
	p.mu.Unlock()
	for _, one := range spare {
		one.close()
	}
}

func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	var err error
	if p.size, err = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.size, err = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	// Users who have too many get tiny ones, which are slower than to copy.
	if err != nil || p.size < 64<<10 {
		p.close()
		return nil
	}
	return p
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// splice moves bytes between a socket and a pipe, and never waits either, but
// may have much to do.
func splice(from, to, max int) (int, error) {
	n, err := unix.Splice(from, nil, to, nil, max, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), err
}
