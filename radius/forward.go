package radius

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"
)

// realm is a Realm with the state of its servers, and places for those who wait for
// them.
type realm struct {
	Realm
	servers    []*homeServer
	auth, acct places
}

// homeServer is one of them. Its two ports live and die on their own.
type homeServer struct {
	HomeServer
	secret     []byte
	auth, acct link

	requests, failures atomic.Uint64
}

// link is a port of a home server.
type link struct {
	addr string
	down atomic.Bool // it has not answered, and not been heard of since
	// heard is when it last answered anyone, in nanoseconds since 1970: one
	// request that it does not answer may be the request's fault.
	heard atomic.Int64
}

func newRealms(cfg *Config) (realms []*realm) {
	for _, one := range cfg.Realms {
		r := &realm{Realm: one, auth: newPlaces(&cfg.Limits), acct: newPlaces(&cfg.Limits)}
		for _, h := range one.HomeServers {
			server := &homeServer{HomeServer: h, secret: []byte(h.Secret.Reveal())}
			server.auth.addr = hostPort(h.Host, valueOr(h.Port, DefaultPort))
			server.acct.addr = hostPort(h.Host, valueOr(h.AccountingPort, DefaultAccountingPort))
			r.servers = append(r.servers, server)
		}
		realms = append(realms, r)
	}
	return realms
}

func (h *homeServer) authLink() *link { return &h.auth }
func (h *homeServer) acctLink() *link { return &h.acct }

// isDown reports whether none of the servers answers.
func (r *realm) isDown(pick func(*homeServer) *link) bool {
	return !slices.ContainsFunc(r.servers, func(h *homeServer) bool { return !pick(h).down.Load() })
}

func (h *homeServer) stats(realm string) HomeServerStats {
	return HomeServerStats{Realm: realm, Address: h.auth.addr, Alive: !h.auth.down.Load() && !h.acct.down.Load(),
		Requests: h.requests.Load(), Failures: h.failures.Load()}
}

// realmOf returns who decides about a user, and the name that they know the
// user by. It is nil if that is us.
func (s *Server) realmOf(user string) (*realm, string) {
	if len(s.realms) == 0 {
		return nil, ""
	}
	at := strings.LastIndexByte(user, '@')
	if at < 0 {
		return nil, ""
	}
	var found *realm
	for _, r := range s.realms {
		if strings.EqualFold(r.Name, user[at+1:]) {
			found = r
			break
		}
		if r.Name == "*" {
			found = r
		}
	}
	if found != nil && found.StripRealm {
		user = user[:at]
	}
	return found, user
}

// try asks the servers of a realm until one answers: those first that did last
// time.
func (r *realm) try(ctx context.Context, pick func(*homeServer) *link, ask func(*homeServer, *link) (datagram, error)) (datagram, *homeServer, error) {
	var problems []error
	tried := make(map[*homeServer]bool, len(r.servers))
	for _, down := range []bool{false, true} {
		for _, h := range r.servers {
			l := pick(h)
			if tried[h] || l.down.Load() && !down {
				continue
			}
			tried[h] = true
			h.requests.Add(1)
			began := time.Now().UnixNano()
			reply, err := ask(h, l)
			if err == nil {
				l.heard.Store(time.Now().UnixNano())
				l.down.Store(false)
				return reply, h, nil
			}
			if drop := (*dropError)(nil); ctx.Err() != nil || errors.As(err, &drop) {
				return nil, nil, err // nothing that another server would make better
			}
			h.failures.Add(1)
			if l.heard.Load() < began {
				l.down.Store(true)
			}
			problems = append(problems, err)
		}
	}
	return nil, nil, errors.Join(problems...)
}

func (h *homeServer) pauses() []time.Duration {
	d := valueOr(h.Timeout, 2*time.Second)
	return []time.Duration{d / 2, d - d/2}
}

// forwardAccess has a home server decide.
func (s *Server) forwardAccess(ctx context.Context, a *access, user string) (datagram, error) {
	s.stats.proxied.Add(1)
	var authenticator [16]byte
	ask := func(h *homeServer, l *link) (datagram, error) {
		request, err := a.forward(h, user, &authenticator)
		if err != nil {
			return nil, err
		}
		return exchange(ctx, l.addr, request, h.pauses(), func(reply datagram) error {
			switch reply.code() {
			case layeh.CodeAccessAccept, layeh.CodeAccessReject, layeh.CodeAccessChallenge:
				return verifyReply(reply, request, h.secret, !h.AllowUnsignedReplies)
			}
			return errNotReply
		})
	}
	reply, h, err := a.realm.try(ctx, (*homeServer).authLink, ask)
	if err != nil {
		return nil, noAnswer(err)
	}
	return a.bringBack(h, reply, authenticator[:])
}

// forward makes the request to a home server: what is hidden with the secret
// between client and us is hidden anew with ours.
func (a *access) forward(h *homeServer, user string, authenticator *[16]byte) (datagram, error) {
	var identifier [1]byte
	rand.Read(identifier[:])
	rand.Read(authenticator[:])
	p := newBuilder(nil, layeh.CodeAccessRequest, identifier[0], true)
	attrs := a.req.Packet.Attributes
	for _, avp := range attrs {
		value := []byte(avp.Attribute)
		switch avp.Type {
		case rfc2869.MessageAuthenticator_Type:
			continue
		case rfc2865.UserName_Type:
			value = []byte(user)
		case rfc2865.UserPassword_Type:
			password, ok := decryptPassword(avp.Attribute, a.secret, a.d.authenticator())
			if !ok {
				return nil, &dropError{malformed, errBadCredentials}
			}
			hidden, err := layeh.NewUserPassword([]byte(password), h.secret, authenticator[:])
			if err != nil {
				return nil, &dropError{malformed, err}
			}
			value = hidden
		}
		p.add(avp.Type, value)
	}
	if _, ok := attrs.Lookup(rfc2865.CHAPPassword_Type); ok {
		if _, ok := attrs.Lookup(rfc2865.CHAPChallenge_Type); !ok {
			p.add(rfc2865.CHAPChallenge_Type, a.d.authenticator()) // it was the challenge
		}
	}
	p.add(rfc2865.ProxyState_Type, identifier[:]) // counts the way, lest it be a circle
	d, err := p.sign(h.secret, authenticator[:], true)
	if err != nil {
		return nil, &dropError{tooLarge, err}
	}
	return d, nil
}

// bringBack makes a home server's answer ours.
func (a *access) bringBack(h *homeServer, reply datagram, authenticator []byte) (datagram, error) {
	parsed, err := layeh.Parse(reply, nil)
	if err != nil {
		return nil, &dropError{noHomeServer, err}
	}
	p := newBuilder(nil, reply.code(), a.d.identifier(), true)
	hidden := byte(0)
	again := func(value []byte) ([]byte, bool) {
		plain, ok := saltDecrypt(value, h.secret, authenticator)
		if !ok {
			return nil, false
		}
		hidden++
		return saltEncrypt(plain, a.secret, a.d.authenticator(), hidden), true
	}
	for _, avp := range parsed.Attributes {
		value := []byte(avp.Attribute)
		switch avp.Type {
		case rfc2869.MessageAuthenticator_Type, rfc2865.ProxyState_Type:
			continue
		case rfc2868.TunnelPassword_Type:
			if len(value) < 1 {
				continue
			}
			v, ok := again(value[1:])
			if !ok {
				continue
			}
			value = append([]byte{value[0]}, v...)
		case rfc2865.VendorSpecific_Type:
			if len(value) > 4 && binary.BigEndian.Uint32(value) == microsoft {
				value = recryptMicrosoft(value, again)
			}
		}
		p.add(avp.Type, value)
	}
	p.addProxyStates(a.req.Packet.Attributes)
	d, err := p.sign(a.secret, a.d.authenticator(), false)
	if err != nil {
		return nil, &dropError{tooLarge, err}
	}
	return d, nil
}

// recryptMicrosoft hides the keys in a Vendor-Specific of Microsoft anew.
func recryptMicrosoft(value []byte, again func([]byte) ([]byte, bool)) []byte {
	out := append([]byte(nil), value[:4]...)
	for rest := value[4:]; len(rest) >= 2; {
		n := int(rest[1])
		if n < 2 || n > len(rest) {
			return value
		}
		body := rest[2:n]
		if rest[0] == msMPPESendKey || rest[0] == msMPPERecvKey {
			if v, ok := again(body); ok {
				body = v
			}
		}
		out = append(append(out, rest[0], byte(2+len(body))), body...)
		rest = rest[n:]
	}
	return out
}

// forwardAccounting gives a record to a home server, and returns when that has
// acknowledged it.
func (s *Server) forwardAccounting(ctx context.Context, in *arrival, realm *realm, user string) error {
	s.stats.proxied.Add(1)
	attrs, err := layeh.ParseAttributes(in.d[headerLength:])
	if err != nil {
		return &dropError{malformed, err}
	}
	ask := func(h *homeServer, l *link) (datagram, error) {
		var identifier [1]byte
		rand.Read(identifier[:])
		p := newBuilder(nil, layeh.CodeAccountingRequest, identifier[0], false)
		for _, avp := range attrs {
			value := []byte(avp.Attribute)
			switch avp.Type {
			case rfc2869.MessageAuthenticator_Type:
				continue
			case rfc2865.UserName_Type:
				value = []byte(user)
			}
			p.add(avp.Type, value)
		}
		if _, ok := attrs.Lookup(rfc2865.NASIPAddress_Type); !ok && in.from.Addr().Is4() {
			if _, ok := attrs.Lookup(rfc2865.NASIdentifier_Type); !ok {
				p.add(rfc2865.NASIPAddress_Type, in.from.Addr().AsSlice())
			}
		}
		if _, ok := attrs.Lookup(rfc2866.AcctDelayTime_Type); !ok {
			p.addInteger(rfc2866.AcctDelayTime_Type, uint32(max(0, time.Since(in.at)/time.Second)))
		}
		p.add(rfc2865.ProxyState_Type, identifier[:])
		var zeros [16]byte
		request, err := p.sign(h.secret, zeros[:], false)
		if err != nil {
			return nil, &dropError{tooLarge, err}
		}
		return exchange(ctx, l.addr, request, h.pauses(), func(reply datagram) error {
			if reply.code() != layeh.CodeAccountingResponse {
				return errNotReply
			}
			return verifyReply(reply, request, h.secret, false)
		})
	}
	if _, _, err := realm.try(ctx, (*homeServer).acctLink, ask); err != nil {
		return noAnswer(err)
	}
	return nil
}

// noAnswer is why there is none, unless err says so itself.
func noAnswer(err error) error {
	if drop := (*dropError)(nil); errors.As(err, &drop) {
		return drop
	}
	return &dropError{noHomeServer, err}
}

// probePause is how often servers that do not answer are asked whether they are
// back.
const probePause = 5 * time.Second

// probeHomeServers asks them by Status-Server (RFC 5997), which harms nobody's
// login. One that does not know that is tried with requests if all others are
// down too.
func (r *run) probeHomeServers() {
	if len(r.s.realms) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	r.working.Go(func() {
		select {
		case <-r.quit:
			cancel()
		case <-ctx.Done():
		}
	})
	for sleep(ctx, probePause) {
		r.probeDown(ctx)
	}
}

// probeDown asks all that do not answer, at once: the time that one takes to fail is
// not for others to wait.
func (r *run) probeDown(ctx context.Context) {
	var probing sync.WaitGroup
	defer probing.Wait()
	for _, realm := range r.s.realms {
		for _, h := range realm.servers {
			for _, l := range []*link{&h.auth, &h.acct} {
				if !l.down.Load() {
					continue
				}
				probing.Go(func() {
					if h.probe(ctx, l) == nil {
						l.down.Store(false)
						r.s.log.Info("a home server answers again", "realm", realm.Name, "addr", l.addr)
					}
				})
			}
		}
	}
}

func (h *homeServer) probe(ctx context.Context, l *link) error {
	var random [17]byte
	rand.Read(random[:])
	p := newBuilder(nil, layeh.CodeStatusServer, random[16], true)
	p.addText(rfc2865.NASIdentifier_Type, "dcrouter")
	request, err := p.sign(h.secret, random[:16], true)
	if err != nil {
		return err
	}
	_, err = exchange(ctx, l.addr, request, []time.Duration{valueOr(h.Timeout, 2*time.Second)}, func(reply datagram) error {
		return verifyReply(reply, request, h.secret, false)
	})
	return err
}
