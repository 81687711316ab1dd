// Command radius-users lets users in by name and password, and writes down what
// they have used. It listens on 127.0.0.1:18120, and for accounting on 18130.
//
//	go run ./examples/radius-users
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

// passwords stands for the host's database.
func passwords() map[string]string { return map[string]string{"alice": "wonderland"} }

// authorize is asked about every user, whether by PAP, CHAP or MS-CHAPv2.
func authorize(_ context.Context, r *radius.Request) (radius.Decision, error) {
	password, known := passwords()[r.UserName]
	if !known || !r.CheckPassword(password) {
		return radius.Decision{ReplyMessage: "no such user, or another password"}, nil
	}
	return radius.Decision{Accept: true, VLANName: "staff"}, nil
}

// bill is told of every accounting record. If it returned an error, the switch
// would send the record again, so it may see one twice.
func bill(_ context.Context, r *radius.Record) error {
	switch r.Status {
	case radius.StatusStop:
		log.Printf("%s has used %d octets in %v", r.Session.UserName, r.Session.InputOctets+r.Session.OutputOctets, r.Session.Duration)
	case radius.StatusOn, radius.StatusOff:
		log.Printf("%s has restarted, which ends %d sessions", r.Session.NASIdentifier, len(r.Closed))
	}
	return nil
}

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	store, err := storage.Open(ctx, storage.Dir("radius-users.data"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	s, err := radius.New(radius.Config{
		ListenHost: *listen, Port: new(18120), AccountingPort: new(18130),
		Secret: "a long shared secret",
	}, radius.WithLogger(slog.Default()), radius.WithStorage(store), radius.WithAuthorizer(authorize), radius.WithAccountingSink(bill))
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(context.Background())

	fmt.Printf(`A switch asks about alice, with her password and with another, and tells what she has used:

  echo 'User-Name="alice", User-Password="wonderland", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="alice", User-Password="looking-glass", Message-Authenticator=0x00' | radclient -x %[1]s:18120 auth "a long shared secret"
  echo 'User-Name="alice", Acct-Session-Id="1", Acct-Status-Type=Start' | radclient -x %[1]s:18130 acct "a long shared secret"
  echo 'User-Name="alice", Acct-Session-Id="1", Acct-Status-Type=Stop, Acct-Input-Octets=1000, Acct-Session-Time=60' | radclient -x %[1]s:18130 acct "a long shared secret"
`, *listen)
	<-ctx.Done()
	for session := range s.Sessions() {
		log.Printf("still there: %s, %d octets", session.UserName, session.InputOctets+session.OutputOctets)
	}
}
