package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// bulkSource is a back end that sends the same bytes to whoever connects.
type bulkSource struct {
	ln    net.Listener
	size  int64
	block []byte // what it repeats, twice, so that any part of it is in one piece
}

const bulkBlock = 1 << 20

func newBulkSource(size int64) (*bulkSource, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &bulkSource{ln: ln, size: size, block: make([]byte, bulkBlock, 2*bulkBlock)}
	rand.NewChaCha8([32]byte{1}).Read(s.block)
	s.block = append(s.block, s.block...)
	go s.serve()
	return s, nil
}

func (s *bulkSource) port() int { return s.ln.Addr().(*net.TCPAddr).Port }

func (s *bulkSource) serve() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for left := s.size; left > 0; {
				n, err := c.Write(s.block[:min(left, bulkBlock)])
				if err != nil {
					return
				}
				left -= int64(n)
			}
		}()
	}
}

// receive reads everything through the server at addr and compares it with
// what was sent.
func (s *bulkSource) receive(addr string) (took time.Duration, err error) {
	begin := time.Now()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	var got int64
	for {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(buf)
		at := got % bulkBlock
		if !bytes.Equal(buf[:n], s.block[at:at+int64(n)]) {
			return 0, fmt.Errorf("wrong bytes after %d", got)
		}
		got += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	if got != s.size {
		return 0, fmt.Errorf("%d bytes came, want %d", got, s.size)
	}
	return time.Since(begin), nil
}

// bulkColumns are the figures of bulk.
func bulkColumns() []column {
	return []column{
		{name: "CPU ms/GB", format: "%.0f", ratio: true},
		{name: "GB/s", format: "%.2f", ratio: true, more: true},
	}
}

// bulk measures one transfer, however long it takes.
func (b *bench) bulk(s *server, _ time.Duration) ([]float64, error) {
	var took time.Duration
	cpu, err := s.cpuOf(func() (err error) {
		took, err = b.source.receive(loopback(s.port))
		return err
	})
	gb := float64(b.source.size) / 1e9
	return []float64{micros(cpu) / 1000 / gb, gb / took.Seconds()}, err
}
