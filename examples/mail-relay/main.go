// Command mail-relay takes mail from programs on this machine and sends it on to the
// world: newsletters from addresses that are new, and send more from day to day,
// everything else from one that is known. Webhooks tell what becomes of it.
//
//	go run ./examples/mail-relay
//
// needs no internet: a second server in the same program is the MX host of all
// domains. Messages may be sent to it at 127.0.0.1:2525.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email"
)

func main() {
	port := flag.Int("port", 2525, "the port to take mail at; 0 is any")
	every := flag.Duration("every", 10*time.Second, "how often to print figures")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *port, *every); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, port int, every time.Duration) error {
	w, err := startWorld(ctx)
	if err != nil {
		return err
	}
	defer w.server.Stop(context.Background())
	key := make([]byte, 32)
	rand.Read(key)
	hook, err := startReceiver(key)
	if err != nil {
		return err
	}
	defer hook.Close()

	s, err := email.New(relay(port, hook.Addr().String(), key), email.WithLogger(slog.Default()),
		email.WithResolver(w), email.WithDialer(w.dial)) // out in the world, without these two
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	defer s.Stop(context.Background())
	fmt.Println("listening on", s.Addrs()[0])
	log.Printf("try: swaks --server %s --from news@news.example.com --to you@example.net", s.Addrs()[0])

	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, a := range s.Stats().Sources {
				if a.Address != "" {
					fmt.Printf("source %s (%s): day %d of %d, sent %d of %d today\n", a.Address, a.Pool, a.Day, a.Days, a.Today, a.Limit)
				}
			}
		}
	}
}

// relay is the configuration, which could as well be JSON.
func relay(port int, hook string, key []byte) email.Config {
	return email.Config{
		ListenHost: "127.0.0.1",
		Ports:      []email.Port{{Port: port, Mode: email.SMTP}},
		Hostname:   "mail.example.com",
		Domains:    []email.Domain{{Domain: "example.com"}, {Domain: "news.example.com"}},
		Routes: []email.Route{{
			Name:   "out",
			Match:  email.Match{ClientIP: []string{"127.0.0.0/8"}}, // who may send
			Action: email.Action{Type: email.Process},
		}},
		Outbound: email.Outbound{WarmUp: email.WarmUp{
			Pools: []email.SourcePool{{
				Name:    "newsletters",
				Senders: []string{"*@news.example.com"},
				Addresses: []email.SourceAddress{
					{Address: "127.0.0.2", HELO: "out1.example.com"},
					{Address: "127.0.0.3", HELO: "out2.example.com"},
				},
				Overflow: email.OverflowDefer, // the rest goes tomorrow
			}, {
				Name:      "everything else",
				Addresses: []email.SourceAddress{{Address: "127.0.0.4", HELO: "out3.example.com", Warm: true}},
			}},
			Schedule: []int{20, 40, 80, 160, 320, 640},
		}},
		RateLimits: email.RateLimits{Outbound: email.OutboundLimits{MessagesPerHour: 1000}},
		Webhooks: []email.Webhook{{
			URL:    "http://" + hook + "/mail",
			Secret: email.Secret("whsec_" + base64.StdEncoding.EncodeToString(key)),
			Events: []string{email.EventDelivered, email.EventDeferred, email.EventFailed, email.EventBounced, email.EventComplained},
		}},
	}
}

// startReceiver starts what is told of events: most often a program elsewhere. It
// believes what is signed with the key, and is not old.
func startReceiver(key []byte) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || !signed(key, r.Header, body) {
			http.Error(w, "not signed", http.StatusBadRequest)
			return
		}
		fmt.Printf("webhook %s\n", body)
		w.WriteHeader(http.StatusNoContent)
	}))
	return ln, nil
}

// signed checks the signature of Standard Webhooks.
func signed(key []byte, h http.Header, body []byte) bool {
	var seconds int64
	if _, err := fmt.Sscan(h.Get("Webhook-Timestamp"), &seconds); err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for got := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		if hmac.Equal([]byte(got), []byte(want)) {
			return true
		}
	}
	return false
}

// world is the internet of this example: a server that takes all mail, and a DNS
// in which it is the MX host of every domain, at an address from a documentation.
type world struct{ server *email.Server }

func startWorld(ctx context.Context) (*world, error) {
	w := new(world)
	var err error
	w.server, err = email.New(email.Config{
		ListenHost: "127.0.0.1",
		Ports:      []email.Port{{Mode: email.SMTP}},
		Hostname:   "mx.example.net",
		Domains:    []email.Domain{{Domain: "example.net"}},
		Routes:     []email.Route{{Match: email.Match{Recipients: []string{"*@*"}}, Action: email.Action{Type: email.Deliver}}},
	}, email.WithResolver(w), email.WithMailbox(func(_ context.Context, d *email.Delivery) error {
		fmt.Printf("mail for %s from %s, which says it is %s\n", d.Recipient, d.Client.Addr, d.Client.Helo)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	return w, w.server.Start(ctx)
}

func (w *world) dial(ctx context.Context, source netip.Addr, network, _ string) (net.Conn, error) {
	var d net.Dialer
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	return d.DialContext(ctx, network, w.server.Addrs()[0].String())
}

func (w *world) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: "mx.example.net.", Pref: 10}}, nil
}

func (w *world) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return []net.IPAddr{{IP: net.IPv4(192, 0, 2, 25)}}, nil
}

func (w *world) LookupTXT(_ context.Context, name string) ([]string, error) {
	return nil, missing(name)
}
func (w *world) LookupAddr(_ context.Context, ip string) ([]string, error) { return nil, missing(ip) }

func missing(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
