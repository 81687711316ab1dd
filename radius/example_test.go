package radius_test

import (
	"context"
	"fmt"
	"log"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"

	"github.com/dcrouter/dcrouter/radius"
)

// Devices by MAC address: printers into VLAN 20, other known ones into 100,
// everything else into the guest VLAN.
func ExampleNew() {
	ctx := context.Background()
	s, err := radius.New(radius.Config{
		ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0),
		Secret:         "a long shared secret",
		MACAuth:        &radius.MACAuth{AllowedMACs: []string{"aa:bb:cc:*"}, DefaultVLAN: 100, GuestVLAN: 999},
		VLANAssignment: []radius.VLANRule{{Match: radius.VLANMatch{MAC: "00:11:22:*"}, VLAN: 20}},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(ctx)

	// What a switch would ask.
	for _, mac := range []string{"aabbcc010203", "00-11-22-33-44-55", "0a0a0a0a0a0a"} {
		p := layeh.New(layeh.CodeAccessRequest, []byte("a long shared secret"))
		rfc2865.UserName_SetString(p, mac)
		rfc2865.UserPassword_SetString(p, mac)
		rfc2865.CallingStationID_SetString(p, mac)
		answer, err := layeh.Exchange(ctx, p, s.Addrs()[0].String())
		if err != nil {
			log.Fatal(err)
		}
		_, vlan := rfc2868.TunnelPrivateGroupID_GetString(answer)
		fmt.Println(mac, answer.Code, vlan)
	}
	// Output:
	// aabbcc010203 Access-Accept 100
	// 00-11-22-33-44-55 Access-Accept 20
	// 0a0a0a0a0a0a Access-Accept 999
}

// Users with passwords of the host's.
func ExampleAuthorizer() {
	users := map[string]string{"alice": "wonderland"}
	authorize := func(_ context.Context, r *radius.Request) (radius.Decision, error) {
		password, ok := users[r.UserName]
		if !ok || !r.CheckPassword(password) {
			return radius.Decision{ReplyMessage: "no such user, or another password"}, nil
		}
		return radius.Decision{Accept: true, VLANName: "staff"}, nil
	}
	s, err := radius.New(radius.Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: "a long shared secret"},
		radius.WithAuthorizer(authorize))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := s.Start(ctx); err != nil {
		log.Fatal(err)
	}
	defer s.Stop(ctx)

	p := layeh.New(layeh.CodeAccessRequest, []byte("a long shared secret"))
	rfc2865.UserName_SetString(p, "alice")
	rfc2865.UserPassword_SetString(p, "wonderland")
	answer, err := layeh.Exchange(ctx, p, s.Addrs()[0].String())
	if err != nil {
		log.Fatal(err)
	}
	_, vlan := rfc2868.TunnelPrivateGroupID_GetString(answer)
	fmt.Println(answer.Code, vlan)
	// Output: Access-Accept staff
}

// Whoever pays by volume wants to know how much it was.
func ExampleAccountingSink() {
	bill := func(_ context.Context, r *radius.Record) error {
		if r.Status == radius.StatusStop {
			log.Printf("%s: %d octets", r.Session.UserName, r.Session.InputOctets+r.Session.OutputOctets)
		}
		return nil // an error would make the NAS send the record again
	}
	s, err := radius.New(radius.Config{Secret: "a long shared secret"}, radius.WithAccountingSink(bill))
	fmt.Println(s != nil, err)
	// Output: true <nil>
}

// A device that has lost its right is sent away.
func ExampleServer_Disconnect() {
	var s *radius.Server // running
	sendAway := func(ctx context.Context, mac string) error {
		if err := s.RemoveMACs(ctx, mac); err != nil {
			return err
		}
		for session := range s.Sessions() {
			if session.CallingStationID == mac {
				return s.Disconnect(ctx, session.Source, session.Identify())
			}
		}
		return nil
	}
	_ = sendAway
}
