// Command radius is who lets devices and users into the network of an office, as a
// part of the gateway: printers by their MAC addresses into a VLAN of their own, other
// devices of the house, guests, and users by name and password. A web page of the
// same program lists who is there, and lets further devices in.
//
//	go run ./examples/radius
//
// It prints what to try; radclient is in the package freeradius-utils. What is allowed
// meanwhile, and who is there, is kept in radius.data. See radius-mab and radius-users
// for the RADIUS server alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

const help = `Try, in another shell, what a switch says about a printer, a guest, and alice:

  echo 'User-Name="001122334455", User-Password="001122334455", Calling-Station-Id="00-11-22-33-44-55", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="020000000001", User-Password="020000000001", Calling-Station-Id="02-00-00-00-00-01", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="alice", User-Password="wonderland", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="alice", Acct-Session-Id="1", Acct-Status-Type=Start, NAS-Identifier="switch-1"' | radclient -x %[1]s:18130 acct "a long shared secret"

Then who is there, and make the guest a device of the house:

  curl -s http://%[1]s:8080/sessions
  curl -s -X POST http://%[1]s:8080/devices/02-00-00-00-00-01
`

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen string) error {
	pages := http.NewServeMux()
	r, err := dcrouter.New(
		dcrouter.WithConfig(dcrouter.Config{
			Proxy: &proxy.Config{ListenHost: listen, Routes: []proxy.Route{{
				Name:   "pages",
				Match:  proxy.Match{Ports: proxy.Ports(8080), ClientIP: []string{"127.0.0.0/8"}}, // whoever comes here may let others in
				Action: proxy.Action{Handler: pages},
			}}},
			Storage: &dcrouter.StorageConfig{FSPath: "radius.data"},
		}),
		// The section radiusConfig, and beside it the code that decides about users.
		dcrouter.WithRADIUS(radius.Config{
			ListenHost: listen, Port: new(18120), AccountingPort: new(18130), // 1812 and 1813 outside of examples
			Clients: []radius.Client{{Name: "switches", IP: "127.0.0.0/8", Secret: "a long shared secret"}},
			MACAuth: &radius.MACAuth{AllowedMACs: []string{"aa:bb:cc:*"}, DefaultVLAN: 100, GuestVLAN: 999},
			// A MAC address is no credential, as anyone can copy one: VLAN 20 leads to
			// the print server and nowhere else.
			VLANAssignment: []radius.VLANRule{{Match: radius.VLANMatch{MAC: "00:11:22:*"}, VLAN: 20}},
		}, radius.WithAuthorizer(authorize)),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return err
	}
	pages.HandleFunc("GET /sessions", func(w http.ResponseWriter, _ *http.Request) {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		out.Encode(slices.Collect(r.RADIUS().Sessions()))
	})
	pages.HandleFunc("POST /devices/{mac}", func(w http.ResponseWriter, req *http.Request) {
		if err := r.RADIUS().AllowMACs(req.Context(), req.PathValue("mac")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, "allowed, also after a restart")
	})
	if err := r.Start(ctx); err != nil {
		return err
	}
	defer r.Stop(context.Background())
	fmt.Printf(help, listen)
	<-ctx.Done()
	return nil
}

// authorize is asked about users. A real one asks a directory.
func authorize(_ context.Context, r *radius.Request) (radius.Decision, error) {
	passwords := map[string]string{"alice": "wonderland"}
	if password, known := passwords[r.UserName]; !known || !r.CheckPassword(password) {
		return radius.Decision{ReplyMessage: "no such user, or another password"}, nil
	}
	return radius.Decision{Accept: true, VLAN: 30}, nil
}
