// Package radius is a RADIUS server for network access control: MAC
// authentication bypass (MAB) with VLAN assignment, users through a hook of the
// host, and accounting with sessions that outlast a crash.
//
//	s, err := radius.New(radius.Config{
//		Clients: []radius.Client{{Name: "switch-1", IP: "192.168.1.1", Secret: "a long shared secret"}},
//		MACAuth: &radius.MACAuth{AllowedMACs: []string{"aa:bb:cc:*"}, DefaultVLAN: 100, GuestVLAN: 999},
//	}, radius.WithStorage(store))
//	...
//	err = s.Start(ctx)
//	defer s.Stop(ctx)
//
// # Devices
//
// A request whose User-Name is the MAC address of the device that it is about,
// in whatever notation the switch uses, is about a device (MAB). [Policy] says
// what becomes of it, and can change at any time: [Server.UpdatePolicy],
// [Server.AllowMACs].
//
// A MAC address is no credential: anyone near enough can read and copy one.
// What a device gets by it should be what anyone may have: a VLAN that leads
// nowhere else, a switch port where the device belongs. An [Authorizer] sees
// the port (NAS-Port-Id, NAS-Identifier) and can bind a device to it.
//
// # Users
//
// All other requests go to the [Authorizer], with PAP, CHAP, MS-CHAPv2 or
// EAP-MD5, or by their realm to home servers ([Realm]).
//
// # Accounting
//
// A record is given to the [AccountingSink], stored ([WithStorage]) and then
// acknowledged, so that whatever was acknowledged is there after a crash.
// [Server.Sessions] lists the open ones; [Server.Disconnect] and
// [Server.ChangeAuthorization] act on them.
//
// # Forged answers
//
// RADIUS over UDP protects answers with MD5, which is not enough any more
// (BlastRADIUS, CVE-2024-3596). Every answer to an Access-Request begins with a
// Message-Authenticator here, a wrong one is ignored, and
// [Client.RequireMessageAuthenticator] says what of requests without. Nothing
// hides what is in packets from readers but [RadSec].
//
// # Standards
//
// RFC 2865 (RADIUS), 2866 (accounting), 2868 and 3580 (VLANs), 2869 and 3162
// (extensions, IPv6), 3579 (EAP), 5080 (duplicates), 5176 (Disconnect, CoA),
// 5997 (Status-Server), 6614 (RadSec), 2548 and 2759 (MS-CHAPv2).
package radius
