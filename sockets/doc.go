// Package sockets keeps what a program listens with, so that another process can
// go on with it: the one that a new version of the program runs in, or systemd.
//
// Servers ask a [Set] for their sockets instead of [net.ListenConfig]. What is
// in the Set for an address already is taken from there, anything else is bound
// and remembered. What they close is closed, unless the Set holds it:
//
//	var set sockets.Set
//	p, err := proxy.New(config, proxy.WithSockets(&set))
//	...
//	set.Hold()               // from here on no port closes
//	list, err := set.List()  // files to start another process with
//
// In the other process they go into a Set with [Set.Add]. Both have the same
// socket of the kernel then: a connection waits in its queue, and a datagram in
// its buffer, until one of the two takes it. So none is refused or lost while no
// process happens to.
//
// A nil *Set binds and remembers nothing. Files of sockets are to be had on Unix
// only; elsewhere Hold and List fail with [errors.ErrUnsupported].
package sockets
