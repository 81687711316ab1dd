package radius

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	layeh "layeh.com/radius"
)

// service is what a port is for.
type service int

const (
	authService service = 1 << iota
	acctService
)

// maxProxyStates bounds the way of a request through proxies, which may be a
// circle.
const maxProxyStates = 32

// arrival is a packet, and where its answer goes.
type arrival struct {
	d       datagram
	outline outline
	from    netip.AddrPort
	client  *client
	secret  []byte
	service service
	at      time.Time
	conn    *radSecConn // nil for UDP
	backlog *backlog    // that it is in

	out sender
	via []byte // for out: the address that the packet was sent to
	key requestKey
}

// sender is a socket or connection.
type sender interface {
	send(d datagram, in *arrival)
}

// tls reports whether nobody can be in between.
func (in *arrival) tls() bool { return in.conn != nil }

// isRecord reports whether it is about accounting.
func (in *arrival) isRecord() bool { return in.d.code() == layeh.CodeAccountingRequest }

// take deals with a packet. Its bytes are the caller's again afterwards. It
// reports whether the packet was sound.
func (r *run) take(in *arrival, b []byte) (sound bool) {
	s := r.s
	var ok bool
	if in.d, ok = trim(b); ok {
		in.outline, ok = in.d.outline()
	}
	if !ok {
		in.drop(s, malformed, nil)
		return false
	}
	if why, ok := s.verify(in); !ok {
		in.drop(s, why, nil)
		return why != malformed && why != badSignature && why != badAuthenticator
	}
	s.stats.requests.Add(1)
	in.client.stats.requests.Add(1)
	if !in.tls() { // a stream loses nothing, so nobody asks twice
		in.key = keyOf(in.from, in.d)
		if reply, known := s.duplicates.begin(in.key, in.at); known {
			s.stats.duplicates.Add(1)
			if reply != nil {
				in.out.send(reply, in)
			}
			return true
		}
	}
	if !s.rates.allow(in.from.Addr(), in.at) {
		in.drop(s, rateLimited, nil)
		r.finish(in, nil)
		return true
	}
	switch in.d.code() {
	case layeh.CodeStatusServer:
		code := layeh.CodeAccessAccept
		if in.service == acctService {
			code = layeh.CodeAccountingResponse
		}
		reply, err := encodeStatus(in, code)
		if err == nil {
			s.stats.status.Add(1)
		}
		r.answer(in, reply, err)
	case layeh.CodeAccountingRequest:
		r.takeAccounting(in)
	default:
		r.takeAccess(in)
	}
	return true
}

// takeAccess answers an Access-Request, at once if it can.
func (r *run) takeAccess(in *arrival) {
	a, err := newAccess(in)
	if err != nil {
		r.answer(in, nil, &dropError{malformed, err})
		return
	}
	rest, err := r.s.authenticate(a, in.at)
	if rest != nil {
		a.arrival = in.clone()
		p, wait := r.users, true
		if a.realm != nil {
			p, wait = a.realm.auth, !a.realm.isDown((*homeServer).authLink)
		}
		r.later(a.arrival, p, wait, func(ctx context.Context) (datagram, error) {
			reply, err := rest(ctx)
			if err == nil {
				r.s.accessDone(a, reply)
			}
			return reply, err
		})
		return
	}
	var reply datagram
	if err == nil {
		reply, err = r.s.encodeAccess(a)
	}
	if err == nil {
		r.s.accessDone(a, reply)
	}
	r.answer(in, reply, err)
}

// accessDone counts an answer, a rejection against who it was about, and
// remembers the VLAN of an Accept.
func (s *Server) accessDone(a *access, reply datagram) {
	s.countAccess(a.client, reply.code())
	switch reply.code() {
	case layeh.CodeAccessReject:
		s.failures.failed(a.subject, a.at)
		if user, ok := a.user(); ok && !a.unasked {
			s.failures.failed(user, a.at)
		}
	case layeh.CodeAccessAccept:
		s.vlans.accepted(a.subject, reply)
	}
}

// verify checks what proves that a packet is a client's, and is not made for
// forging answers (RFC 3579 section 3.2, RFC 5997 section 3, CVE-2024-3596).
func (s *Server) verify(in *arrival) (why reason, ok bool) {
	o, d := &in.outline, in.d
	if o.proxyStates > maxProxyStates {
		return malformed, false
	}
	var zeros [16]byte
	authenticator := d.authenticator()
	switch d.code() {
	case layeh.CodeAccessRequest, layeh.CodeStatusServer:
		if d.code() == layeh.CodeAccessRequest && in.service&authService == 0 {
			return unexpectedCode, false
		}
	case layeh.CodeAccountingRequest:
		if in.service&acctService == 0 {
			return unexpectedCode, false
		}
		if !d.authentic(in.secret, zeros[:]) {
			return badAuthenticator, false
		}
		authenticator = zeros[:]
	default:
		return unexpectedCode, false
	}
	if o.signature != 0 {
		if !d.signed(o.signature, in.secret, authenticator) {
			return badSignature, false
		}
		if d.code() == layeh.CodeAccessRequest && !o.eap {
			// EAP must be signed anyway (RFC 3579 section 3.2): many switches
			// sign that and nothing else.
			in.client.hasSigned(in.from.Addr())
		}
		return 0, true
	}
	switch d.code() {
	case layeh.CodeStatusServer:
		return unsigned, false
	case layeh.CodeAccessRequest:
		if o.eap {
			return unsigned, false
		}
		if in.tls() { // nobody is in between
			return 0, true
		}
		if in.client.mustSign(in.from.Addr()) {
			return unsigned, false
		}
		if o.proxyStates > 0 {
			return proxyState, false
		}
		if in.client.mustProve() && !provesSecret(o.password, in.secret, authenticator) {
			return unsigned, false
		}
	}
	return 0, true
}

// clone makes an arrival that outlives the buffer it was read into.
func (in *arrival) clone() *arrival {
	c := *in
	c.d, c.via = slices.Clone(in.d), slices.Clone(in.via)
	return &c
}

// later works on a request that has to wait for something, if there is a place.
// Over RadSec, where nobody asks twice, the request waits for one, if wait says that
// it is worth it; those behind it on the connection are read meanwhile, and may be
// answered before it.
func (r *run) later(in *arrival, p places, wait bool, work func(context.Context) (datagram, error)) {
	waiting := &r.loggingIn
	if in.isRecord() {
		waiting = &r.reporting
	}
	waiting.Add(1)
	do := func(entered bool) {
		defer waiting.Add(-1)
		reply, err := func() (datagram, error) {
			if !entered {
				return nil, &dropError{overloaded, nil}
			}
			defer p.leave()
			return work(r.ctx)
		}()
		r.answer(in, reply, err)
	}
	switch {
	case in.tls():
		in.conn.later(in, p, wait, do)
	case p.enter(r.ctx, false):
		r.working.Go(func() { do(true) })
	default:
		do(false)
	}
}

// answer sends the answer, to everybody who asked, or accounts for why there is
// none.
func (r *run) answer(in *arrival, reply datagram, err error) {
	if err != nil {
		why := tooLarge
		var drop *dropError
		if errors.As(err, &drop) {
			why, err = drop.reason, drop.err
		}
		in.drop(r.s, why, err)
		reply = nil
	}
	again := r.finish(in, reply)
	if reply == nil {
		return
	}
	for range 1 + again {
		in.out.send(reply, in)
	}
}

func (r *run) finish(in *arrival, reply datagram) (again int) {
	if in.tls() {
		return 0
	}
	return r.s.duplicates.finish(in.key, reply, time.Now())
}
