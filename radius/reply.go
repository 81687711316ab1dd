package radius

import (
	"fmt"
	"math"
	"strconv"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"
)

// Values of Tunnel-Type and Tunnel-Medium-Type that make a tunnel a VLAN (RFC
// 3580 section 3.31), and of Termination-Action.
const (
	tunnelVLAN    = 13
	tunnelIEEE802 = 6

	terminateByRequest = 1
)

// encodeAccess makes the answer.
func (s *Server) encodeAccess(a *access) (datagram, error) {
	p := newBuilder(make([]byte, 0, 128), a.code, a.d.identifier(), true)
	d := &a.decision
	switch a.code {
	case layeh.CodeAccessAccept:
		if err := p.addVLAN(d, s.cfg.VLANTag); err != nil {
			return nil, &dropError{tooLarge, err}
		}
		p.addTimeout(d.SessionTimeout, d.Reauthenticate)
		p.addText(rfc2865.FilterID_Type, d.FilterID)
		p.addLong(rfc2865.ReplyMessage_Type, []byte(d.ReplyMessage))
		if a.req.Method == MSCHAPv2 {
			a.addMSChapSuccess(&p)
		}
		if a.eap {
			p.addLong(rfc2869.EAPMessage_Type, encodeEAP(eapSuccess, a.eapID))
		}
	case layeh.CodeAccessReject:
		p.addLong(rfc2865.ReplyMessage_Type, []byte(d.ReplyMessage))
		if a.req.Method == MSCHAPv2 {
			p.add(rfc2865.VendorSpecific_Type, vendorAttribute(microsoft, msChapError, a.req.cred.ms.failure()))
		}
		if a.eap {
			p.addLong(rfc2869.EAPMessage_Type, encodeEAP(eapFailure, a.eapID))
		}
	case layeh.CodeAccessChallenge:
		p.addLong(rfc2869.EAPMessage_Type, a.eapReply)
		if a.state != nil {
			p.add(rfc2865.State_Type, a.state)
		}
	}
	if a.code != layeh.CodeAccessChallenge {
		for _, avp := range d.Attributes {
			if avp == nil {
				continue
			}
			switch avp.Type {
			case rfc2869.MessageAuthenticator_Type, rfc2869.EAPMessage_Type, rfc2865.State_Type, rfc2865.ProxyState_Type:
				continue
			case rfc2865.ReplyMessage_Type, rfc2865.VendorSpecific_Type:
			default:
				if a.code != layeh.CodeAccessAccept {
					continue
				}
			}
			p.add(avp.Type, avp.Attribute)
		}
	}
	p.addProxyStates(a.req.Packet.Attributes)
	reply, err := p.sign(a.secret, a.d.authenticator(), false)
	if err != nil {
		return nil, &dropError{tooLarge, err}
	}
	return reply, nil
}

// addProxyStates returns what proxies between the client and us have added, in
// order (RFC 2865 section 5.33).
func (p *builder) addProxyStates(request layeh.Attributes) {
	for _, avp := range request {
		if avp.Type == rfc2865.ProxyState_Type {
			p.add(avp.Type, avp.Attribute)
		}
	}
}

// addVLAN names a VLAN. Both integers have a place for the tag in any case; in
// the text a tag of 0 would be taken for a part of the name, so it is left out
// (RFC 2868 sections 3.1, 3.2, 3.6).
func (p *builder) addVLAN(d *Decision, tag int) error {
	name := d.VLANName
	switch {
	case d.VLAN != 0 && name != "":
		return fmt.Errorf("a VLAN has a number (%d) or a name (%q)", d.VLAN, name)
	case d.VLAN < 0 || d.VLAN > 4094:
		return fmt.Errorf("%d is not a VLAN (1-4094)", d.VLAN)
	case d.VLAN != 0:
		name = strconv.Itoa(d.VLAN)
	case name == "":
		return nil
	}
	p.addInteger(rfc2868.TunnelType_Type, uint32(tag)<<24|tunnelVLAN)
	p.addInteger(rfc2868.TunnelMediumType_Type, uint32(tag)<<24|tunnelIEEE802)
	value := []byte(name)
	if tag != 0 {
		value = append([]byte{byte(tag)}, value...)
	}
	p.add(rfc2868.TunnelPrivateGroupID_Type, value)
	return nil
}

func (p *builder) addTimeout(d time.Duration, again bool) {
	if d <= 0 {
		return
	}
	seconds := min(math.MaxUint32, (d+time.Second-1)/time.Second)
	p.addInteger(rfc2865.SessionTimeout_Type, uint32(seconds))
	if again {
		p.addInteger(rfc2865.TerminationAction_Type, terminateByRequest)
	}
}

// addMSChapSuccess proves to the client that we know the password, and gives
// the NAS the keys to encrypt its link with.
func (a *access) addMSChapSuccess(p *builder) {
	m := a.req.cred.ms
	vendor := func(kind byte, value []byte) {
		p.add(rfc2865.VendorSpecific_Type, vendorAttribute(microsoft, kind, value))
	}
	vendor(msChap2Success, m.success(a.req.UserName))
	send, receive := m.keys()
	vendor(msMPPESendKey, saltEncrypt(send, a.secret, a.d.authenticator(), 1))
	vendor(msMPPERecvKey, saltEncrypt(receive, a.secret, a.d.authenticator(), 2))
	vendor(msMPPEPolicy, []byte{0, 0, 0, 1}) // encryption allowed, not required
	vendor(msMPPETypes, []byte{0, 0, 0, 4})  // with 128 bits
}

// encodeStatus answers a Status-Server (RFC 5997 section 3).
func encodeStatus(in *arrival, code layeh.Code) (datagram, error) {
	return encodePlain(in, code, true)
}

// encodePlain answers with Proxy-State and nothing else.
func encodePlain(in *arrival, code layeh.Code, sign bool) (datagram, error) {
	attrs, err := layeh.ParseAttributes(in.d[headerLength:])
	if err != nil {
		return nil, err
	}
	p := newBuilder(make([]byte, 0, 64), code, in.d.identifier(), sign)
	p.addProxyStates(attrs)
	return p.sign(in.secret, in.d.authenticator(), false)
}
