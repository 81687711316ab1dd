// Command radius-mab lets devices into the network by their MAC addresses, into
// the VLAN that their manufacturer belongs to. It listens on 127.0.0.1:18120, and
// keeps its rules in radius-mab.data.
//
//	go run ./examples/radius-mab
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"

	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	// Rules that change while it runs are kept here.
	store, err := storage.Open(ctx, storage.Dir("radius-mab.data"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	s, err := radius.New(radius.Config{
		ListenHost:     *listen,
		Port:           new(18120),
		AccountingPort: new(18130),
		Clients: []radius.Client{
			{Name: "this machine", IP: "127.0.0.1", Secret: "a long shared secret"},
			{Name: "switches", IP: "10.0.0.0/24", Secret: "another shared secret", RequireMessageAuthenticator: new(true)},
		},
		// A MAC address is no credential: what is allowed here anyone may do
		// who copies one. So VLAN 20 should lead to the print server and
		// nowhere else.
		VLANAssignment: []radius.VLANRule{{Match: radius.VLANMatch{MAC: "00:11:22:*"}, VLAN: 20}},
		MACAuth:        &radius.MACAuth{AllowedMACs: []string{"aa:bb:cc:dd:ee:ff"}, DefaultVLAN: 100, GuestVLAN: 999},
	}, radius.WithLogger(slog.Default()), radius.WithStorage(store))
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(context.Background())

	// Another device, at any time; it is there after a restart too.
	if err := s.AllowMACs(ctx, "aa:bb:cc:00:00:01"); err != nil {
		log.Fatal(err)
	}
	fmt.Printf(`A switch asks about a printer, about the device that was allowed just now, and about one
that nobody knows, which gets into the VLAN for guests:

  echo 'User-Name="001122334455", User-Password="001122334455", Calling-Station-Id="00-11-22-33-44-55", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="aabbcc000001", User-Password="aabbcc000001", Calling-Station-Id="AA-BB-CC-00-00-01", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="020000000001", User-Password="020000000001", Calling-Station-Id="02-00-00-00-00-01", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
`, *listen)
	<-ctx.Done()
}
