// Command radius is our RADIUS server for the benchmark: it lets in the devices
// that a file lists. On the port's TCP side it tells that it is ready.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/dcrouter/dcrouter/radius"
)

func main() {
	port := flag.Int("port", 0, "UDP port")
	secret := flag.String("secret", "", "shared secret")
	file := flag.String("macs", "", "file of MAC addresses, one a line")
	flag.Parse()
	if err := serve(*port, *secret, *file); err != nil {
		log.Fatal(err)
	}
}

func serve(port int, secret, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var macs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		macs = append(macs, lines.Text())
	}
	s, err := radius.New(radius.Config{
		ListenHost: "127.0.0.1", Port: &port, AccountingPort: new(0),
		Clients: []radius.Client{{IP: "127.0.0.1", Secret: radius.Secret(secret)}},
		MACAuth: &radius.MACAuth{AllowedMACs: macs, DefaultVLAN: 100},
	})
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return s.Stop(context.Background())
		}
		c.Close()
	}
}
