// Command tcp-sni carries streams that are not HTTP: a range of ports to the same
// ports of a database server, for some addresses only, and TLS on one port to two
// services by the name that the client asks for. One of these has its TLS to
// itself, for the other the gateway does it.
//
//	go run ./examples/tcp-sni
//
// needs nothing else: the servers are in this program, at 127.0.0.2, as the databases
// have the same ports as the gateway. (Where that is no address of the machine, as on
// macOS, use -targets ::1.) They say who they are and what they get. It prints what
// to try.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
)

const help = `Try, in another shell here:

  echo hello | curl -sm 9 telnet://%[1]s:15432  # the first database, as the port says
  echo hello | curl -sm 9 telnet://%[1]s:15435  # the last one
  echo hello | curl -sm 9 telnet://%[1]s:15440  # closed: this port is for 192.168.1.0/24
  echo hello | openssl s_client -quiet -connect %[1]s:18443 -servername secure.example.com  # with the certificate of the service itself
  echo hello | openssl s_client -quiet -connect %[1]s:18443 -servername app.example.com     # with one that the gateway has made
`

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	targets := flag.String("targets", "127.0.0.2", "another `address` of this machine, for the servers behind")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen, *targets); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, host string) error {
	for port := 15432; port <= 15435; port++ {
		if _, err := serve("database", host, port, nil); err != nil {
			return err
		}
	}
	app, err := serve("app", host, 0, nil)
	if err != nil {
		return err
	}
	cert, err := selfSigned("secure.example.com")
	if err != nil {
		return err
	}
	secure, err := serve("secure", host, 0, &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}

	r, err := dcrouter.New(
		dcrouter.WithProxy(proxy.Config{
			ListenHost: listen,
			Routes:     routes(host, app, secure),
			ACME:       &proxy.ACME{LocalCA: true}, // in production Email and UseProduction
		}),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	defer r.Stop(context.Background())
	fmt.Printf(help, listen)
	<-ctx.Done()
	return nil
}

func routes(host string, app, secure int) []proxy.Route {
	return []proxy.Route{{
		Name: "database-cluster",
		// Database servers speak first: with "tcp" the gateway does not wait for the client.
		Match: proxy.Match{Ports: []proxy.PortRange{{From: 15432, To: 15435}}, Protocol: "tcp"},
		Action: proxy.Action{
			Type:     proxy.Forward,
			Targets:  []proxy.Target{{Host: host, Port: proxy.PreservePort}},
			Security: proxy.Security{IPAllowList: []string{"127.0.0.0/8", "::1"}},
		},
	}, {
		Name:  "database-for-others",
		Match: proxy.Match{Ports: proxy.Ports(15440), Protocol: "tcp"},
		Action: proxy.Action{
			Type:     proxy.Forward,
			Targets:  []proxy.Target{{Host: host, Port: 15432}},
			Security: proxy.Security{IPAllowList: []string{"192.168.1.0/24"}},
		},
	}, {
		Name:  "secure-service",
		Match: proxy.Match{Ports: proxy.Ports(18443), Domains: []string{"secure.example.com"}},
		Action: proxy.Action{
			Type:    proxy.Forward,
			Targets: []proxy.Target{{Host: host, Port: secure}},
			TLS:     &proxy.TLS{Mode: proxy.Passthrough},
		},
	}, {
		Name:  "app",
		Match: proxy.Match{Ports: proxy.Ports(18443), Domains: []string{"app.example.com"}, Protocol: "tcp"},
		Action: proxy.Action{
			Type:    proxy.Forward,
			Targets: []proxy.Target{{Host: host, Port: app}},
			TLS:     &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
		},
	}}
}

// serve starts a server that greets, answers a line and closes. It returns its port.
func serve(name, host string, port int, config *tls.Config) (int, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return 0, err
	}
	port = ln.Addr().(*net.TCPAddr).Port
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s at port %d\n", name, port)
				line, _ := bufio.NewReader(conn).ReadString('\n')
				fmt.Fprintf(conn, "%s got %q\n", name, line)
			}()
		}
	}()
	return port, nil
}

func selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour)}
	template.Subject.CommonName = name
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
