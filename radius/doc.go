// Package radius will be a RADIUS server (RFC 2865, RFC 2866) for network
// access control: MAC authentication bypass, VLAN assignment and accounting.
//
// A MAC address is no credential: anyone near enough can read and copy one.
// What a device gets by it should be what anyone may have.
//
// This version holds its configuration only: the types, their JSON form and
// their validation. The server arrives later.
package radius
