package main

import (
	"io"
	"net"
	"net/http"
)

// web answers each HTTP request with its name, and echoes what comes to the
// other port.
func web(name, addr, tcp string) error {
	ln, err := net.Listen("tcp", tcp)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, name)
	}))
}
