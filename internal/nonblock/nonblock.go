// Package nonblock reads and writes sockets with system calls that never wait.
// Therefore they need not tell Go's scheduler that they might, which for small
// messages makes up to a quarter of all that a proxy does. Go's runtime still
// does the waiting, so that deadlines and Close work as always.
package nonblock
