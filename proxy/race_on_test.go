//go:build race

package proxy

// raceEnabled: the race detector drops from pools at random, so that they allocate.
const raceEnabled = true
