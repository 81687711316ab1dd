// Package limit bounds what strangers can make a server do: how often
// ([Limiter]), how much at once ([Gate]), and how fast passwords can be guessed
// ([Throttle]).
//
// All of them are keyed, and hold a bounded number of keys: beyond it those that
// were not used for longest are forgotten. All are safe for concurrent use.
package limit
