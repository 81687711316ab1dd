package dnsserver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/dnsserver"
)

// A server with a zone of records, one of which changes while it runs.
func Example() {
	ctx := context.Background()
	server, err := dnsserver.New(dnsserver.Config{
		ListenHost:  "127.0.0.1",
		Port:        new(int), // any free one
		NameServers: []string{"ns1.example.com"},
		Records: []dnsserver.Record{
			{Name: "www.example.com", Type: "A", Value: "192.0.2.1", TTL: 300},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer server.Stop(ctx)

	ask := func() {
		addr, _, _ := strings.Cut(server.Addrs()[0], "/")
		answer, err := dns.Exchange(new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), addr)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(answer.Answer[0].(*dns.A).A)
	}
	ask()
	tx := new(dnsserver.Tx)
	tx.Set(dnsserver.Record{Name: "www.example.com", Type: "A", Value: "192.0.2.2", TTL: 60})
	if err := server.Update(ctx, tx); err != nil {
		log.Fatal(err)
	}
	ask()
	// Output:
	// 192.0.2.1
	// 192.0.2.2
}

// A host that has a web server of its own serves DNS over HTTPS with it: the
// server then needs no port.
func ExampleServer_ServeHTTP() {
	ctx := context.Background()
	server, err := dnsserver.New(dnsserver.Config{
		Listen:  new(bool), // false
		Records: []dnsserver.Record{{Name: "www.example.com", Type: "A", Value: "192.0.2.1", TTL: 300}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer server.Stop(ctx)

	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, httptest.NewRequest("GET", "https://dns.example.com/resolve?name=www.example.com&type=A", nil))
	fmt.Println(answer.Body)
	// Output:
	// {"Status":0,"TC":false,"RD":true,"RA":false,"AD":false,"CD":false,"Question":[{"name":"www.example.com.","type":1}],"Answer":[{"name":"www.example.com.","type":1,"TTL":300,"data":"192.0.2.1"}]}
}

// DNS over HTTPS on a port of the server's own. A program in production has a
// certificate of its own, and leaves Port out for 443.
func ExampleEncryptedPort() {
	web := httptest.NewTLSServer(nil) // lends its certificate, and a client that trusts it
	defer web.Close()
	ctx := context.Background()
	server, err := dnsserver.New(dnsserver.Config{
		ListenHost: "127.0.0.1",
		Listen:     new(bool), // false: no UDP and TCP
		DoH:        &dnsserver.EncryptedPort{Port: new(int)},
		Records:    []dnsserver.Record{{Name: "www.example.com", Type: "A", Value: "192.0.2.1", TTL: 300}},
	}, dnsserver.WithTLSConfig(&tls.Config{Certificates: web.TLS.Certificates}))
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer server.Stop(ctx)

	addr, _, _ := strings.Cut(server.Addrs()[0], "/")
	resp, err := web.Client().Get("https://" + addr + "/resolve?name=www.example.com&type=A")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
	// Output:
	// {"Status":0,"TC":false,"RD":true,"RA":false,"AD":false,"CD":false,"Question":[{"name":"www.example.com.","type":1}],"Answer":[{"name":"www.example.com.","type":1,"TTL":300,"data":"192.0.2.1"}]}
}
