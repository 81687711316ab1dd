package dnsserver

import (
	"context"
	"fmt"

	"github.com/miekg/dns"
)

// Keys lists the keys with which a zone is signed; none if it is not signed here.
func (s *Server) Keys(zone string) ([]KeyInfo, error) {
	signer, err := s.signer(zone)
	if err != nil || signer == nil {
		return nil, err
	}
	return signer.Keys(), nil
}

// DS returns the DS records that the zone above should have, as in a zone file.
func (s *Server) DS(zone string) ([]string, error) {
	signer, err := s.signer(zone)
	if err != nil || signer == nil {
		return nil, err
	}
	return signer.DS(), nil
}

// RollKSK begins to replace the key that signs the keys of a zone. The zone
// gets the new one beside the old one. When all can know it ([KeyInfo].State is
// "ready", which the log tells too), the zone has CDS and CDNSKEY records for it
// (RFC 7344), and [Server.DS] returns the record that the zone above is to have.
// When that has it, [Server.ConfirmDS] is to be called, unless [WithParentDS]
// finds it out.
func (s *Server) RollKSK(ctx context.Context, zone string) error {
	return s.withSigner(zone, func(signer *signer) error { return signer.RollKSK(ctx) })
}

// ConfirmDS says that all servers of the zone above have the DS record of the
// key with this tag, and no other of this zone. The key before it is removed
// when nobody can remember its DS record.
func (s *Server) ConfirmDS(ctx context.Context, zone string, tag uint16) error {
	return s.withSigner(zone, func(signer *signer) error { return signer.ConfirmDS(ctx, tag) })
}

// WithdrawDS publishes CDS and CDNSKEY records that ask the zone above to remove
// its DS records (RFC 8078 section 4), as before signing is turned off, or takes
// that back.
func (s *Server) WithdrawDS(ctx context.Context, zone string, withdraw bool) error {
	return s.withSigner(zone, func(signer *signer) error { return signer.WithdrawDS(ctx, withdraw) })
}

func (s *Server) withSigner(zone string, do func(*signer) error) error {
	z, err := s.served(zone)
	if err == nil && z.signer == nil {
		err = fmt.Errorf("zone %s is not signed by this server", zone)
	}
	if err == nil {
		err = do(z.signer)
	}
	if err == nil {
		z.look()
	}
	return err
}

// signer returns what signs a zone, or nil.
func (s *Server) signer(zone string) (*signer, error) {
	z, err := s.served(zone)
	if err != nil {
		return nil, err
	}
	return z.signer, nil
}

// served returns the zone of this name.
func (s *Server) served(name string) (*servedZone, error) {
	wire, err := wireName(name)
	if err != nil {
		return nil, fmt.Errorf("%.60q is %w", name, err)
	}
	z := s.contents.get(wire)
	if z == nil {
		s.contents.mu.Lock()
		defer s.contents.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", nameText(wire), s.contents.absence())
	}
	return z, nil
}

// WithParentDS sets how to find out which DS records the zone above has for a
// zone: their data, as in a zone file ("12345 13 2 49FD46E6..."). It is asked now
// and then while a new key waits for its DS record there, and should ask a
// resolver that the host trusts. Without it [Server.ConfirmDS] has to be called.
func WithParentDS(ask func(ctx context.Context, zone string) ([]string, error)) Option {
	return func(o *options) { o.parentDS = ask }
}

// packDS reads DS records as [WithParentDS] has them.
func packDS(ctx context.Context, ask func(context.Context, string) ([]string, error), zone string) ([]string, error) {
	texts, err := ask(ctx, zone)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, text := range texts {
		rr, err := dns.NewRR(". 0 IN DS " + text)
		if err != nil || rr == nil {
			return nil, fmt.Errorf("%.80q is not the data of a DS record", text)
		}
		r, err := packRecord(rr)
		if err != nil {
			return nil, err
		}
		list = append(list, r.data)
	}
	return list, nil
}
