package certs

import (
	"context"
	"fmt"
	"strings"
)

// publishCAA makes a CAA record that allows only this account to have
// certificates for a name and those below (RFC 8659, RFC 8657 section 3), where
// the zone is ours and says nothing about it yet. What the operator has written
// stays. That it cannot be done is no reason not to obtain a certificate.
func (m *Manager) publishCAA(ctx context.Context, s *shelf, name, account string, identities []string) {
	name = strings.TrimPrefix(name, "*.")
	if !m.cfg.PublishCAA || m.opts.dns == nil || len(identities) == 0 || !m.opts.dns.Authoritative(name) {
		return
	}
	m.caa.Lock()
	defer m.caa.Unlock()
	value := fmt.Sprintf(`0 issue "%s; accounturi=%s"`, identities[0], account)
	if strings.Count(value, `"`) != 2 || strings.ContainsAny(value, "\\\r\n") {
		return // not a name and a URL
	}
	if err := m.putCAA(ctx, s, name, value); err != nil {
		m.log.Warn("cannot publish a CAA record", "name", name, "err", errorText(err))
	}
}

func (m *Manager) putCAA(ctx context.Context, s *shelf, name, value string) error {
	at, have, err := m.opts.dns.CAA(name)
	if err != nil {
		return err
	}
	mine := ""
	if _, err := s.load(ctx, s.caaKey(name), &mine); err != nil {
		return err
	}
	switch {
	case len(have) == 0 && at == "":
		return nil // a record would take from it what it has by a wildcard
	case len(have) == 0:
	case at == name && len(have) == 1 && have[0] == mine && mine != value: // of an account that we have no more
		if err := m.opts.dns.Remove(ctx, Record{name, "CAA", mine}); err != nil {
			return err
		}
	default:
		return nil
	}
	if err := s.save(ctx, s.caaKey(name), value, 0); err != nil {
		return err
	}
	return m.opts.dns.Add(ctx, Record{name, "CAA", value})
}

// withdrawOldCAA takes away the records of an earlier process that nobody wants
// now. Of names that come at handshakes nobody knows that.
func (m *Manager) withdrawOldCAA(ctx context.Context, s *shelf) {
	if m.opts.dns == nil || m.opts.onDemand != nil && m.cfg.PublishCAA {
		return
	}
	for key, err := range s.store.List(ctx, caaKeys) {
		if err != nil {
			if ctx.Err() == nil {
				m.log.Warn("cannot look for old CAA records", "err", errorText(err))
			}
			return
		}
		m.withdrawCAA(ctx, s, strings.TrimPrefix(key, caaKeys))
	}
}

// withdrawCAA takes our CAA record of a name away that is not managed any more,
// lest it keep others from having certificates.
func (m *Manager) withdrawCAA(ctx context.Context, s *shelf, name string) {
	name = strings.TrimPrefix(name, "*.")
	m.caa.Lock()
	defer m.caa.Unlock()
	names := *m.names.Load()
	wanted := names[name] != nil || names["*."+name] != nil
	if wanted && m.cfg.PublishCAA || m.opts.dns == nil || !m.opts.dns.Authoritative(name) {
		return
	}
	mine := ""
	found, err := s.load(ctx, s.caaKey(name), &mine)
	if err == nil && found {
		if err = m.opts.dns.Remove(ctx, Record{name, "CAA", mine}); err == nil {
			err = s.store.Delete(ctx, s.caaKey(name))
		}
	}
	if err != nil && ctx.Err() == nil {
		m.log.Warn("cannot take a CAA record away", "name", name, "err", errorText(err))
	}
}
