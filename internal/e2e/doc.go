// Package e2e has tests of the whole whose tools are Go modules that host
// programs should not get to see.
package e2e
