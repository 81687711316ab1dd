package radius

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc3576"
)

// ErrNoClient is returned for a NAS that is not among [Config.Clients].
var ErrNoClient = errors.New("radius: the address is no client's")

// eventWindow is how far the clocks of NAS and server may differ (RFC 5176
// section 6.3).
const eventWindow = 300 * time.Second

// NAKError is the answer of a NAS that could not, or would not, do what it was
// asked for.
type NAKError struct {
	// Cause is its Error-Cause (RFC 5176 section 3.5), 0 if it gave none, such
	// as 503 for a session that it does not know.
	Cause uint32
	// Message is its Reply-Message.
	Message string
}

// Error describes the cause.
func (e *NAKError) Error() string {
	text := "radius: the NAS refused"
	if e.Cause != 0 {
		text += fmt.Sprintf(": %v (%d)", rfc3576.ErrorCause(e.Cause), e.Cause)
	}
	if e.Message != "" {
		text += fmt.Sprintf(": %q", e.Message)
	}
	return text
}

// Identify returns the attributes by which a NAS finds a session (RFC 5176
// section 3).
func (s *Session) Identify() layeh.Attributes {
	var attrs layeh.Attributes
	add := func(t layeh.Type, value []byte) {
		if len(value) > 0 && len(value) <= 253 {
			attrs.Add(t, value)
		}
	}
	add(rfc2865.NASIdentifier_Type, []byte(s.NASIdentifier))
	if s.NASAddress.Is4() {
		add(rfc2865.NASIPAddress_Type, s.NASAddress.AsSlice())
	} else {
		add(rfc3162.NASIPv6Address_Type, s.NASAddress.AsSlice())
	}
	add(rfc2865.UserName_Type, []byte(s.UserName))
	add(rfc2865.CallingStationID_Type, []byte(s.CallingStationID))
	add(rfc2869.NASPortID_Type, []byte(s.NASPortID))
	add(rfc2866.AcctSessionID_Type, []byte(s.ID))
	return attrs
}

// Disconnect asks the NAS to end a session (Disconnect-Request, RFC 5176
// section 2.1) that the attributes describe, as [Session.Identify] makes them.
// nas is the address of the NAS, a client's; where it listens, by UDP,
// [Client.CoAPort] says. It asks up to three times in all, for 6 seconds.
//
// It returns nil when the NAS has done it, a [*NAKError] when it refuses,
// [ErrNoClient], or that there was no authentic answer.
func (s *Server) Disconnect(ctx context.Context, nas netip.Addr, session layeh.Attributes) error {
	return s.dynamic(ctx, nas, layeh.CodeDisconnectRequest, session)
}

// ChangeAuthorization asks the NAS to change a session (CoA-Request, RFC 5176
// section 2.2), such as its VLAN or Filter-Id: attrs describe the session and
// what it is to become. Else it is as Disconnect.
func (s *Server) ChangeAuthorization(ctx context.Context, nas netip.Addr, attrs layeh.Attributes) error {
	return s.dynamic(ctx, nas, layeh.CodeCoARequest, attrs)
}

func (s *Server) dynamic(ctx context.Context, nas netip.Addr, code layeh.Code, attrs layeh.Attributes) error {
	nas = nas.Unmap()
	c := s.clients.find(nas.WithZone(""))
	if c == nil {
		return ErrNoClient
	}
	var identifier [1]byte
	rand.Read(identifier[:])
	p := newBuilder(nil, code, identifier[0], true)
	p.addInteger(rfc2869.EventTimestamp_Type, uint32(time.Now().Unix()))
	for _, avp := range attrs {
		switch avp.Type {
		case rfc2869.MessageAuthenticator_Type, rfc2869.EventTimestamp_Type:
			continue
		}
		p.add(avp.Type, avp.Attribute)
	}
	var zeros [16]byte
	request, err := p.sign(c.secret, zeros[:], false)
	if err != nil {
		return err
	}
	ctx, cancel, err := s.whileRunning(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	addr := netip.AddrPortFrom(nas, uint16(valueOr(c.CoAPort, DefaultCoAPort))).String()
	reply, err := exchange(ctx, addr, request, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}, func(reply datagram) error {
		if got := reply.code(); got != code+1 && got != code+2 {
			return errNotReply
		}
		return verifyDynamicReply(reply, request, c.secret, time.Now())
	})
	if err != nil {
		return fmt.Errorf("radius: %w", err)
	}
	if reply.code() == code+1 {
		return nil
	}
	answer, err := layeh.Parse(reply, nil)
	if err != nil {
		return err
	}
	return &NAKError{integer(answer.Attributes, rfc3576.ErrorCause_Type), string(answer.Get(rfc2865.ReplyMessage_Type))}
}

// verifyDynamicReply checks an answer of a NAS. Its Event-Timestamp, if it has
// one, must be about now (RFC 5176 section 3.3).
func verifyDynamicReply(reply, request datagram, secret []byte, now time.Time) error {
	if err := verifyReply(reply, request, secret, false); err != nil {
		return err
	}
	p, err := layeh.Parse(reply, nil)
	if err != nil {
		return err
	}
	if stamp, ok := p.Lookup(rfc2869.EventTimestamp_Type); ok {
		n, err := layeh.Integer(stamp)
		if err != nil {
			return err
		}
		if off := now.Sub(time.Unix(int64(n), 0)).Abs(); off > eventWindow {
			return fmt.Errorf("the Event-Timestamp of the answer is %v off", off.Round(time.Second))
		}
	}
	return nil
}

// whileRunning returns a context that also ends when the Server stops.
func (s *Server) whileRunning(ctx context.Context) (context.Context, context.CancelFunc, error) {
	r := s.current()
	if r == nil {
		return nil, nil, ErrNotRunning
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.ctx, cancel)
	return ctx, func() { stop(); cancel() }, nil
}
