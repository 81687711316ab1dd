package radius

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
)

// access is an Access-Request on its way to an answer.
type access struct {
	*arrival
	req     Request
	subject subject
	realm   *realm // whose home servers decide, nil if none
	unasked bool   // it was rejected since there were too many failures

	eap   bool
	eapID byte

	// The answer.
	code     layeh.Code
	decision Decision
	eapReply []byte // of a challenge
	state    []byte
}

// newAccess decodes a verified Access-Request.
func newAccess(in *arrival) (*access, error) {
	p, err := layeh.Parse(in.d, nil)
	if err != nil {
		return nil, err
	}
	a := &access{arrival: in}
	a.req = Request{Client: in.client.Name, Remote: in.from, Packet: p, UserName: string(p.Get(rfc2865.UserName_Type))}
	a.subject = newSubject(in.from.Addr(), a.req.UserName, string(p.Get(rfc2865.CallingStationID_Type)))
	return a, nil
}

// device returns the address if the client asks about a device by its MAC
// address. What tells is that User-Name is the address of the device that
// speaks: other attributes are the same for people, and a person who types an
// address as a name speaks from another device.
func (a *access) device() (macAddress, bool) {
	mac, ok := parseMAC(a.req.UserName, false)
	if !ok {
		return 0, false
	}
	attrs := a.req.Packet.Attributes
	if calling, ok := parseMAC(string(attrs.Get(rfc2865.CallingStationID_Type)), false); ok && calling == mac {
		return mac, true
	}
	if a.client.MACInCalledStation {
		called, ok := parseMAC(string(attrs.Get(rfc2865.CalledStationID_Type)), true)
		return mac, ok && called == mac
	}
	return 0, false
}

// userFailures is how many times MaxFailures a user may be rejected from all devices
// together: somebody who guesses can say to be another device each time. It is more
// than one, so that others do not lock users out so soon.
const userFailures = 10

// user returns who a request is about whatever device it comes from, if it is about
// a user. With EAP for a home server there is no telling: the name may be the same
// for all users.
func (a *access) user() (s subject, ok bool) {
	if _, device := a.device(); device || a.req.UserName == "" || a.realm != nil && a.outline.eap {
		return subject{}, false
	}
	return subject{a.from.Addr(), "user " + strings.ToLower(a.req.UserName)}, true
}

func (a *access) verdict(accept bool) { a.decide(Decision{Accept: accept}) }

func (a *access) decide(d Decision) {
	a.decision, a.code = d, layeh.CodeAccessReject
	if d.Accept {
		a.code = layeh.CodeAccessAccept
	}
}

func (a *access) challenge(eap, state []byte) {
	a.code, a.eapReply, a.state = layeh.CodeAccessChallenge, eap, state
}

// authenticate decides about a request as far as it can be done at once. If
// somebody has to be waited for, it returns what does the rest.
func (s *Server) authenticate(a *access, now time.Time) (rest func(context.Context) (datagram, error), err error) {
	if a.outline.eap {
		if p, ok := parseEAP(a.req.Packet.Attributes); ok {
			a.eap, a.eapID = true, p.id
		}
	}
	realm, name := s.realmOf(a.req.UserName)
	a.realm = realm
	user, isUser := a.user()
	if s.failures.exceeded(a.subject, 1, now) || isUser && s.failures.exceeded(user, userFailures, now) {
		a.unasked = true
		a.drop(s, tooManyFailures, nil)
		a.verdict(false)
		return nil, nil
	}
	if a.outline.eap {
		name = a.req.UserName // EAP has it too, and home servers compare
	}
	if realm != nil {
		return func(ctx context.Context) (datagram, error) { return s.forwardAccess(ctx, a, name) }, nil
	}
	if a.outline.eap {
		if s.eapStep(a, now) {
			return nil, nil
		}
	} else if err := a.req.readCredentials(a.secret); err != nil {
		a.drop(s, badPassword, err)
		a.verdict(false)
		return nil, nil
	}
	rules := s.rules.Load()
	if mac, ok := a.device(); ok {
		a.req.MAC = mac.String()
		if rules.enabled {
			if !rules.passwordFits(&a.req, mac) {
				if a.req.Method == PAP && !isText(a.req.cred.password) {
					a.drop(s, badPassword, nil)
				}
				a.verdict(false)
				return nil, nil
			}
			a.decide(rules.decide(mac))
			return nil, nil
		}
	}
	if s.opts.authorize == nil {
		a.verdict(false)
		return nil, nil
	}
	return func(ctx context.Context) (datagram, error) {
		decision, err := s.ask(ctx, &a.req)
		if err != nil {
			return nil, &dropError{authorizerFailed, err}
		}
		if a.req.Method == MSCHAPv2 && decision.Accept && !a.req.cred.ms.proven {
			return nil, &dropError{authorizerFailed, errors.New("it accepted MS-CHAPv2 without a right CheckPassword or CheckNTHash")}
		}
		a.decide(decision)
		return s.encodeAccess(a)
	}, nil
}

// dropError says why there is no answer.
type dropError struct {
	reason reason
	err    error
}

func (e *dropError) Error() string { return fmt.Sprint(e.reason, ": ", e.err) }
func (e *dropError) Unwrap() error { return e.err }

// ask calls the Authorizer. A panic of the host's ends the request alone, as in
// net/http.
func (s *Server) ask(ctx context.Context, r *Request) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the Authorizer panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return s.opts.authorize(ctx, r)
}

// countAccess counts an answer.
func (s *Server) countAccess(c *client, code layeh.Code) {
	switch code {
	case layeh.CodeAccessAccept:
		s.stats.accepts.Add(1)
		c.stats.accepts.Add(1)
	case layeh.CodeAccessReject:
		s.stats.rejects.Add(1)
		c.stats.rejects.Add(1)
	case layeh.CodeAccessChallenge:
		s.stats.challenges.Add(1)
		c.stats.challenges.Add(1)
	}
}
