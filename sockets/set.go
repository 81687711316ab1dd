package sockets

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// Set is the sockets of a program. The zero Set is empty and ready for use. Its
// methods may be called from several goroutines.
type Set struct {
	mu   sync.Mutex
	list []*entry // in the order in which they were given or bound
}

// Add puts sockets of another process into the Set, which owns their files from
// here on. On an error, which is about a file that is no such socket, none is
// added and all are closed.
func (s *Set) Add(list ...Socket) error {
	var added []*entry
	var errs []error
	for _, so := range list {
		e := &entry{network: so.Network, asked: so.Address, file: so.File}
		added = append(added, e)
		// Makes sure of what it is, and finds the address.
		err := e.take()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e.ln != nil {
			e.local = e.ln.Addr()
			e.ln.Close()
		} else {
			e.local = e.pc.LocalAddr()
			e.pc.Close()
		}
		if e.asked == "" {
			e.asked = e.local.String()
		}
	}
	if len(errs) > 0 {
		for _, e := range added {
			e.close()
		}
		return errors.Join(errs...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, added...)
	return nil
}

// AddListener puts a listener into the Set for whoever asks for addr, or for the
// address that it is bound to. [Set.Unwanted] names it if nobody does.
func (s *Set) AddListener(addr string, ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, &entry{network: "tcp", asked: addr, local: ln.Addr(), ln: ln, strict: true})
}

// AddPacketConn does for datagrams what [Set.AddListener] does for connections.
func (s *Set) AddPacketConn(addr string, pc net.PacketConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, &entry{network: "udp", asked: addr, local: pc.LocalAddr(), pc: pc, strict: true})
}

// Listen returns the listener for an address that is in the Set, or what lc
// listens with.
func (s *Set) Listen(ctx context.Context, lc net.ListenConfig, network, addr string) (net.Listener, error) {
	if s == nil {
		return lc.Listen(ctx, network, addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find("tcp", network, addr); e != nil {
		if err := e.take(); err != nil {
			return nil, err
		}
		return e.ln, nil
	}
	ln, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s.remember(&entry{network: "tcp", asked: addr, local: ln.Addr(), ln: ln, inUse: true})
	return ln, nil
}

// ListenPacket does for datagrams what [Set.Listen] does for connections.
func (s *Set) ListenPacket(ctx context.Context, lc net.ListenConfig, network, addr string) (net.PacketConn, error) {
	if s == nil {
		return lc.ListenPacket(ctx, network, addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find("udp", network, addr); e != nil {
		if err := e.take(); err != nil {
			return nil, err
		}
		return e.pc, nil
	}
	pc, err := lc.ListenPacket(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s.remember(&entry{network: "udp", asked: addr, local: pc.LocalAddr(), pc: pc, inUse: true})
	return pc, nil
}

// ListenGroup is for sockets among which the system spreads the datagrams of one
// address. It returns all of the address that are in the Set: those of one that
// nobody reads would be lost. If there is none it returns what bind binds.
func (s *Set) ListenGroup(network, addr string, bind func() ([]net.PacketConn, error)) ([]net.PacketConn, error) {
	if s == nil {
		return bind()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var group []net.PacketConn
	for e := s.find("udp", network, addr); e != nil; e = s.find("udp", network, addr) {
		if err := e.take(); err != nil {
			for _, pc := range group {
				pc.Close()
			}
			return nil, err
		}
		group = append(group, e.pc)
	}
	if len(group) > 0 {
		return group, nil
	}
	group, err := bind()
	if err != nil {
		return nil, err
	}
	for _, pc := range group {
		s.remember(&entry{network: "udp", asked: addr, local: pc.LocalAddr(), pc: pc, inUse: true})
	}
	return group, nil
}

// Probe returns the error that [Set.Listen] would have for an address, or for a
// network of datagrams [Set.ListenPacket]. What is not in the Set is bound for that,
// and closed at once.
func (s *Set) Probe(ctx context.Context, network, addr string) error {
	datagrams := strings.HasPrefix(network, "udp")
	if s != nil {
		kind := "tcp"
		if datagrams {
			kind = "udp"
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.find(kind, network, addr) != nil {
			return nil
		}
	}
	var lc net.ListenConfig
	var opened io.Closer
	var err error
	if datagrams {
		opened, err = lc.ListenPacket(ctx, network, addr)
	} else {
		opened, err = lc.Listen(ctx, network, addr)
	}
	if err != nil {
		return err
	}
	return opened.Close()
}

// find returns a socket that can be handed out, first one that was asked for
// with the same words. s.mu is held.
func (s *Set) find(kind, network, addr string) *entry {
	var found *entry
	for _, e := range s.list {
		if e.network != kind || !e.free() {
			continue
		}
		if e.asked == addr {
			return e
		}
		if found == nil && isBoundTo(e.local, network, addr) {
			found = e
		}
	}
	return found
}

// remember notes a socket, and forgets those that are gone. s.mu is held.
func (s *Set) remember(e *entry) {
	s.forget()
	s.list = append(s.list, e)
}

func (s *Set) forget() {
	s.list = slices.DeleteFunc(s.list, func(e *entry) bool { return e.file == nil && e.closed() })
}

// List returns all sockets that are open. Their files are copies: closing them
// closes no port.
func (s *Set) List() ([]Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	var list []Socket
	for _, e := range s.list {
		held := e.file != nil
		err := e.hold()
		so := Socket{Network: e.network, Address: e.asked}
		if err == nil && held {
			so.File, err = duplicate(e.file)
		} else if err == nil {
			so.File, e.file = e.file, nil
		}
		if err != nil {
			for _, so := range list {
				so.File.Close()
			}
			return nil, err
		}
		list = append(list, so)
	}
	return list, nil
}

// Hold keeps all sockets open from here on, whoever closes them, until
// [Set.Release] or [Set.Close]. Whoever asks for their addresses then has them
// back. On an error nothing is held.
func (s *Set) Hold() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	for i, e := range s.list {
		if err := e.hold(); err != nil {
			for _, e := range s.list[:i] {
				e.release()
			}
			return err
		}
	}
	return nil
}

// Release ends what Hold began: sockets that nobody has are closed, and their
// names returned.
func (s *Set) Release() (closed []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if !e.inUse || e.closed() {
			closed = append(closed, e.String())
			e.close()
		} else {
			e.release()
		}
	}
	s.list = slices.DeleteFunc(s.list, func(e *entry) bool { return !e.inUse || e.closed() })
	return closed
}

// release lets go of file, where whoever has the socket keeps it open.
func (e *entry) release() {
	if e.inUse && e.file != nil {
		e.file.Close()
		e.file = nil
	}
}

// Unwanted names what [Set.AddListener] and [Set.AddPacketConn] have brought and
// nobody has asked for.
func (s *Set) Unwanted() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.strict && !e.inUse {
			names = append(names, e.String())
		}
	}
	return names
}

// Close closes what nobody has, and holds nothing any more.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		e.close()
	}
	s.list = slices.DeleteFunc(s.list, func(e *entry) bool { return !e.inUse || e.closed() })
}
