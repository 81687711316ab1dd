//go:build !unix

package certfile

const openNonblock = 0
