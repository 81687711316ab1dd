//go:build !unix

package proxy

const openNonblock = 0
