// Package tlsrpt counts.
package tlsrpt
