package proxy

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// lot is where flows wait that stand still. The two goroutines of a stream take
// twice the memory of all the rest of it, and most streams stand still most of
// the time.
type lot struct {
	epoll *os.File // nil if there is none
	raw   syscall.RawConn

	mu     sync.Mutex
	parked map[uint64]*flow
	places uint64 // given so far; none is given twice
}

// open makes the lot, without which flows simply keep their goroutines.
func (l *lot) open() {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return
	}
	unix.SetNonblock(fd, true) // so that Go's runtime waits for it
	f := os.NewFile(uintptr(fd), "epoll")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return
	}
	l.epoll, l.raw, l.parked = f, raw, make(map[uint64]*flow)
}

// close ends watch. Nothing is parked by then, and nothing can be afterwards.
func (l *lot) close() {
	if l.epoll != nil {
		l.epoll.Close()
	}
}

// watch wakes flows that have something to read, until the lot is closed.
func (l *lot) watch() {
	if l.epoll == nil {
		return
	}
	events := make([]unix.EpollEvent, 64)
	n := 0
	wait := func(fd uintptr) bool {
		n, _ = unix.EpollWait(int(fd), events, 0)
		return n != 0
	}
	for l.raw.Read(wait) == nil {
		for _, e := range events[:max(n, 0)] {
			l.leave(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
		}
	}
}

// park makes the caller's flow wait in the lot, or reports false if it cannot.
// If it can, the flow may already be on its way again.
func (l *lot) park(f *flow) bool {
	if l.epoll == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.places++
	err := errors.ErrUnsupported
	ctl := func(fd uintptr) { err = l.expect(f, int(fd), l.places) }
	if f.raw.src.Control(ctl) != nil || err != nil {
		return false // closed, for example
	}
	f.raw.place = l.places
	l.parked[f.raw.place] = f
	return true
}

// expect asks for one event when the flow's source has something to read, which
// may be at once.
func (l *lot) expect(f *flow, fd int, place uint64) error {
	var err error
	op := unix.EPOLL_CTL_ADD
	if f.raw.known {
		op = unix.EPOLL_CTL_MOD
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(place), Pad: int32(place >> 32)}
	if ctlErr := l.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, &event) }); ctlErr != nil {
		return ctlErr
	}
	f.raw.known = f.raw.known || err == nil
	return err
}

// wake makes a flow go on if it is parked: its source has been closed, of which
// epoll says nothing.
func (l *lot) wake(f *flow) {
	l.mu.Lock()
	place := f.raw.place
	l.mu.Unlock()
	l.leave(place)
}

// leave makes the flow in a place go on, if it is still there.
func (l *lot) leave(place uint64) {
	l.mu.Lock()
	f := l.parked[place]
	delete(l.parked, place)
	l.mu.Unlock()
	if f != nil {
		go f.relay.run(f, nil)
	}
}
