//go:build !race

package testenv

// Race reports whether the race detector is at work: it costs time and memory,
// and drops from pools at random. What it therefore cannot test is tested
// without it by "make unit".
const Race = false
