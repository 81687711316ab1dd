package radius

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// Policy is which devices get in, and into which VLAN: the part of a [Config]
// that may change while the Server runs.
type Policy struct {
	MACAuth        *MACAuth   `json:"macAuth"`
	VLANAssignment []VLANRule `json:"vlanAssignment"`
}

// Format prints the policy as JSON with secrets replaced by ***, whatever the
// verb.
func (p Policy) Format(f fmt.State, _ rune) { conf.Format(f, p) }

// MarshalJSON writes the policy in its documented form, with secrets replaced
// by ***.
func (p Policy) MarshalJSON() ([]byte, error) { return conf.Encode(p, false) }

// UnmarshalJSON reads the documented form strictly, as [Config] does.
func (p *Policy) UnmarshalJSON(data []byte) error { return conf.Decode(data, p) }

// Validate returns all mistakes at once, each a [*FieldError].
func (p *Policy) Validate() error {
	check := conf.NewChecker()
	p.validate(check)
	return check.Err()
}

func (p *Policy) validate(check *conf.Checker) {
	if p.MACAuth != nil {
		p.MACAuth.validate(check.Field("macAuth"))
	}
	validateRules(check.Field("vlanAssignment"), p.VLANAssignment)
}

func (p *Policy) clone() Policy {
	c := Policy{VLANAssignment: slices.Clone(p.VLANAssignment)}
	if p.MACAuth != nil {
		m := *p.MACAuth
		m.AllowedMACs = slices.Clone(m.AllowedMACs)
		if m.Enabled != nil {
			m.Enabled = new(*m.Enabled)
		}
		c.MACAuth = &m
	}
	return c
}

// macTable finds the pattern that matches an address. It has a map for all
// lengths of patterns, so a search takes as many probes as there are lengths,
// 13 at most, whatever the number of patterns.
type macTable struct {
	lengths []int // of patterns in digits
	index   map[macKey]int
}

type macKey struct {
	length int
	bits   uint64 // that many digits
}

func (t *macTable) add(p macPattern, index int) {
	if t.index == nil {
		t.index = make(map[macKey]int)
	}
	var bits uint64
	for i := range len(p.digits) {
		bits = bits<<4 | uint64(hexDigit(p.digits[i]))
	}
	key := macKey{len(p.digits), bits}
	if _, ok := t.index[key]; !ok {
		t.index[key] = index
	}
	if !slices.Contains(t.lengths, key.length) {
		t.lengths = append(t.lengths, key.length)
	}
}

// find returns the least index of those whose pattern matches.
func (t *macTable) find(mac macAddress) (index int, ok bool) {
	for _, n := range t.lengths {
		if i, found := t.index[macKey{n, uint64(mac) >> (4 * (12 - n))}]; found && (!ok || i < index) {
			index, ok = i, true
		}
	}
	return index, ok
}

// rules is a Policy that is ready for use. It does not change.
type rules struct {
	policy   Policy
	enabled  bool // there is something to decide by
	macAuth  bool
	password string
	allowed  macTable
	vlans    macTable
	fallback *VLANRule // for any device
}

// compile takes a valid Policy.
func compile(p Policy) *rules {
	r := &rules{policy: p}
	m := p.MACAuth
	r.macAuth = m != nil && pointedOr(m.Enabled, true)
	r.enabled = r.macAuth || len(p.VLANAssignment) > 0
	if r.macAuth {
		r.password = m.Password.Reveal()
		for _, s := range m.AllowedMACs {
			if pattern, ok := parseMACPattern(s); ok {
				r.allowed.add(pattern, 0)
			}
		}
	}
	for i := range p.VLANAssignment {
		rule := &p.VLANAssignment[i]
		if rule.Match.Default {
			r.fallback = rule
		} else if pattern, ok := parseMACPattern(rule.Match.MAC); ok {
			r.vlans.add(pattern, i)
		}
	}
	return r
}

// decide says what a device gets.
func (r *rules) decide(mac macAddress) Decision {
	if i, ok := r.vlans.find(mac); ok {
		return r.policy.VLANAssignment[i].decision()
	}
	if r.fallback != nil {
		return r.fallback.decision()
	}
	if !r.macAuth {
		return Decision{}
	}
	m := r.policy.MACAuth
	if _, ok := r.allowed.find(mac); ok {
		return Decision{Accept: true, VLAN: m.DefaultVLAN}
	}
	return Decision{Accept: m.GuestVLAN != 0, VLAN: m.GuestVLAN}
}

func (r *VLANRule) decision() Decision {
	return Decision{Accept: true, VLAN: r.VLAN, VLANName: r.VLANName,
		SessionTimeout: r.SessionTimeout, Reauthenticate: r.Reauthenticate, FilterID: r.FilterID}
}

// Policy returns a copy of what holds now.
func (s *Server) Policy() Policy { p := s.rules.Load().policy; return p.clone() }

// UpdatePolicy replaces the policy in one step, and stores it, if there is
// storage, before it holds. On any error everything stays as it was; mistakes
// come all at once, each a [*FieldError].
//
// A stored policy holds at later starts too, in place of that of the Config,
// until the Config has another than it had at the time.
//
// Devices that are in the network stay where they are until they are asked
// about again; see [Server.Disconnect].
func (s *Server) UpdatePolicy(ctx context.Context, p Policy) error {
	return s.editPolicy(ctx, func(Policy) (Policy, error) { return p.clone(), nil })
}

// AllowMACs adds addresses and prefixes to [MACAuth.AllowedMACs]; those that
// are there already do no harm. Apart from that it is as UpdatePolicy.
func (s *Server) AllowMACs(ctx context.Context, macs ...string) error {
	return s.editPolicy(ctx, func(p Policy) (Policy, error) {
		if p.MACAuth == nil {
			p.MACAuth = &MACAuth{}
		}
		p.MACAuth.AllowedMACs = append(without(p.MACAuth.AllowedMACs, macs), macs...)
		return p, nil
	})
}

// RemoveMACs takes addresses and prefixes out of [MACAuth.AllowedMACs], however
// they are written there. A prefix does not take out the addresses below it.
func (s *Server) RemoveMACs(ctx context.Context, macs ...string) error {
	check := conf.NewChecker()
	for i, mac := range macs {
		checkMAC(check.Index(i), mac)
	}
	if err := check.Err(); err != nil {
		return err
	}
	return s.editPolicy(ctx, func(p Policy) (Policy, error) {
		if p.MACAuth != nil {
			p.MACAuth.AllowedMACs = without(p.MACAuth.AllowedMACs, macs)
		}
		return p, nil
	})
}

// without returns list without those that mean the same as one of gone.
func without(list, gone []string) []string {
	patterns := make(map[macPattern]bool, len(gone))
	for _, s := range gone {
		if p, ok := parseMACPattern(s); ok {
			patterns[p] = true
		}
	}
	return slices.DeleteFunc(list, func(s string) bool {
		p, _ := parseMACPattern(s)
		return patterns[p]
	})
}

// policyKey is where the policy is stored.
const policyKey = "radius/policy.json"

// storedPolicy is how it is stored: as text, so that its secrets are in it.
type storedPolicy struct {
	conf.Origin                 // the Config's policy that was in force before
	Policy      json.RawMessage `json:"policy"`
}

func (s *Server) editPolicy(ctx context.Context, edit func(Policy) (Policy, error)) error {
	s.policyMu.Lock()
	defer s.policyMu.Unlock()
	p, err := edit(s.Policy())
	if err != nil {
		return err
	}
	if p.MACAuth != nil {
		// What was shown as *** comes back so.
		if err := conf.KeepSecrets(&p, s.rules.Load().policy); err != nil {
			return err
		}
	}
	if err := p.Validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.opts.store != nil {
		text, err := conf.Encode(p, true)
		if err != nil {
			return err
		}
		value, err := json.Marshal(storedPolicy{conf.Origin{Given: s.configured}, text})
		if err != nil {
			return err
		}
		if err := s.opts.store.Put(ctx, policyKey, value); err != nil {
			return fmt.Errorf("radius: the policy could not be stored: %w", err)
		}
	}
	s.rules.Store(compile(p))
	s.failures.forget()
	return nil
}

// Restore puts the policy into force that is stored, as Start does, but sooner: for
// hosts that change it before anybody is served. It does nothing without
// [WithStorage].
func (s *Server) Restore(ctx context.Context) error { return s.loadPolicy(ctx) }

// loadPolicy takes up what was stored, if it is of this Config.
func (s *Server) loadPolicy(ctx context.Context) error {
	s.policyMu.Lock()
	defer s.policyMu.Unlock()
	if s.opts.store == nil {
		return nil
	}
	value, err := s.opts.store.Get(ctx, policyKey)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	var stored storedPolicy
	var p Policy
	if err == nil {
		err = json.Unmarshal(value, &stored)
	}
	if err == nil && !conf.IsFrom[Policy](stored.Origin, s.configured) {
		s.log.Info("the configured policy is new, so the stored one is not used")
		return nil
	}
	if err == nil {
		err = conf.Decode(stored.Policy, &p)
	}
	if err == nil {
		err = p.Validate()
	}
	if err != nil {
		return fmt.Errorf("radius: the stored policy (%s) cannot be used: %w", policyKey, err)
	}
	s.rules.Store(compile(p))
	return nil
}

// passwordFits reports whether a request for a device has a password that will
// do: the one that is set, or else what switches send without being told. A MAC
// address is no secret, so any is as good; but one that is no text at all means
// that the shared secrets differ.
func (r *rules) passwordFits(req *Request, mac macAddress) bool {
	if r.password != "" {
		return req.CheckPassword(r.password)
	}
	switch req.Method {
	case NoPassword:
		return true
	case PAP:
		return isText(req.cred.password)
	case CHAP, EAPMD5:
		if req.CheckPassword(req.UserName) || req.CheckPassword("") {
			return true
		}
		// User-Name and password may be set to different notations.
		for _, sep := range []string{"", ":", "-"} {
			s := mac.format(sep, 2)
			if req.CheckPassword(s) || req.CheckPassword(strings.ToUpper(s)) {
				return true
			}
		}
		for _, s := range []string{mac.format(".", 4), mac.format("-", 4), mac.format("-", 6), mac.format(":", 4)} {
			if req.CheckPassword(s) || req.CheckPassword(strings.ToUpper(s)) {
				return true
			}
		}
	case MSCHAPv2:
		return req.CheckPassword(req.UserName)
	}
	return false
}
