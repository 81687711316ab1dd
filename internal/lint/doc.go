// Package lint holds the rules that keep this library embeddable, as tests:
// layers between packages, bans on process-wide effects, file sizes, the shape
// of go.mod, the number of modules that each package brings along, and that
// another module can import it all. "make lint" runs it.
//
// There is no code here but tests. Each rule is a function from a source tree
// to a list of problems, and each has a test that shows it a violation.
package lint
