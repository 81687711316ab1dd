package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// request is what to order, and what came of it.
type request struct {
	// client speaks with the authority.
	client *client
	// old is the certificate that is to be replaced, or nil.
	old *keyPair
	// solve returns how to prove that the name is ours.
	solve func() (solver, error)
	// registered is told of the account before anything is proven.
	registered func(ctx context.Context, account string, identities []string)

	// challenge is by which the name was proven to be ours, "" if it was before.
	challenge string
	// renewal is what the authority suggests.
	renewal acme.RenewalInfo
	// err is why there is no certificate, if it is the order that failed.
	err error
}

// solver answers one type of challenge.
type solver interface {
	kind() string
	// present puts the answer where the authority will look, and returns when it
	// can be asked to.
	present(ctx context.Context, c acme.Challenge) error
	// cleanUp takes just that answer away.
	cleanUp(ctx context.Context, c acme.Challenge) error
}

// issued is what an order has brought.
type issued struct {
	chain     []byte // PEM
	challenge string // "" if it was proven before
	renewal   acme.RenewalInfo
	metadata  acme.Certificate // without the chain
}

// issue obtains a certificate by an order (RFC 8555 section 7.4). The caller
// holds the lease of the name.
func (a *authority) issue(ctx context.Context, r *request, csr *x509.CertificateRequest) (issued, error) {
	for again := false; ; again = true {
		account, err := a.myAccount(ctx, r.client)
		if err != nil {
			return issued{}, err
		}
		got, err := a.issueAs(ctx, account, r, csr)
		if problem(err, acme.ProblemTypeAccountDoesNotExist) && !again {
			if err := a.forgetAccount(ctx, account.Location); err != nil {
				return issued{}, err
			}
			continue
		}
		return got, err
	}
}

func (a *authority) issueAs(ctx context.Context, account acme.Account, r *request, csr *x509.CertificateRequest) (issued, error) {
	c := r.client
	dir, err := c.open(ctx)
	if err != nil {
		return issued{}, err
	}
	s, err := r.solve()
	if err != nil {
		return issued{}, err
	}
	if r.registered != nil && dir.Meta != nil {
		r.registered(ctx, account.Location, dir.Meta.CAAIdentities)
	}
	order, err := a.newOrder(ctx, c, account, csr.DNSNames[0], r.old)
	if err != nil {
		return issued{}, fmt.Errorf("ordering: %w", err)
	}
	challenge, err := prove(ctx, c, account, order, csr.DNSNames[0], s)
	if err != nil {
		return issued{}, err
	}
	got, err := finish(ctx, c, account, order, csr)
	got.challenge = challenge
	return got, err
}

// newOrder names the certificate that it replaces (RFC 9773 section 5), which
// an authority may count less than other orders.
func (a *authority) newOrder(ctx context.Context, c *client, account acme.Account, name string, old *keyPair) (acme.Order, error) {
	order := acme.Order{Profile: a.cfg.Profile, Identifiers: []acme.Identifier{{Type: "dns", Value: name}}}
	if old != nil && len(old.leaf().AuthorityKeyId) > 0 {
		id, err := acme.ARIUniqueIdentifier(old.leaf())
		if err == nil {
			replacing := order
			replacing.Replaces = id
			made, err := c.NewOrder(ctx, account, replacing)
			// Somebody has replaced it, or it is of another authority or account.
			if !problem(err, acme.ProblemTypeAlreadyReplaced, acme.ProblemTypeMalformed, acme.ProblemTypeUnauthorized) {
				return made, err
			}
		}
	}
	return c.NewOrder(ctx, account, order)
}

// prove answers a challenge of each authorization for a name that is not valid
// yet, and returns its type.
func prove(ctx context.Context, c *client, account acme.Account, order acme.Order, name string, s solver) (string, error) {
	kind := ""
	for _, url := range order.Authorizations {
		authz, err := c.GetAuthorization(ctx, account, url)
		if err != nil {
			return "", fmt.Errorf("what to prove: %w", err)
		}
		if authz.Status == acme.StatusValid {
			continue
		}
		// What comes next is put into zones and answers, so it must be about nothing else.
		if id := authz.Identifier; id.Type != "dns" || !strings.EqualFold(id.Value, strings.TrimPrefix(name, "*.")) {
			return "", fmt.Errorf("the authority wants a proof for %.300q instead", id.Value)
		}
		kind = s.kind()
		i := slices.IndexFunc(authz.Challenges, func(ch acme.Challenge) bool { return ch.Type == kind })
		if i < 0 {
			var offered []string
			for _, ch := range authz.Challenges {
				offered = append(offered, ch.Type)
			}
			return "", fmt.Errorf("the authority does not accept %s for it, only %s", kind, strings.Join(offered, ", "))
		}
		if !isToken(authz.Challenges[i].Token) {
			return "", fmt.Errorf("the authority has sent a token for %s that is none", kind)
		}
		if err := answer(ctx, c, account, authz, authz.Challenges[i], s); err != nil {
			return "", fmt.Errorf("%s: %w", kind, err)
		}
	}
	return kind, nil
}

func answer(ctx context.Context, c *client, account acme.Account, authz acme.Authorization, ch acme.Challenge, s solver) (err error) {
	defer func() {
		// Whatever became of it, also if the time is up. Stop waits for it.
		limit := requestTimeout
		if errors.Is(ctx.Err(), context.Canceled) {
			limit = releaseTimeout
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		if clean := s.cleanUp(ctx, ch); clean != nil {
			err = errors.Join(err, fmt.Errorf("taking the answer away again: %w", clean))
		}
		if err != nil && ctx.Err() == nil {
			// What is left pending counts against limits of the authority.
			_, _ = c.DeactivateAuthorization(ctx, account, authz.Location)
		}
	}()
	if err := s.present(ctx, ch); err != nil {
		return err
	}
	if _, err := c.InitiateChallenge(ctx, account, ch); err != nil {
		return err
	}
	_, err = c.PollAuthorization(ctx, account, authz)
	return err
}

// finish turns an order in which all is proven into a certificate.
func finish(ctx context.Context, c *client, account acme.Account, order acme.Order, csr *x509.CertificateRequest) (issued, error) {
	order, err := c.FinalizeOrder(ctx, account, order, csr.Raw)
	if err != nil {
		return issued{}, fmt.Errorf("finalizing the order: %w", err)
	}
	chains, err := c.GetCertificateChain(ctx, account, order.Certificate)
	if err != nil {
		return issued{}, fmt.Errorf("fetching the certificate: %w", err)
	}
	got := issued{metadata: chains[0]}
	got.metadata.ChainPEM = nil
	if info := chains[0].RenewalInfo; info != nil {
		got.renewal = suggested(*info)
	}
	got.chain, err = checkChain(chains[0].ChainPEM, csr)
	return got, err
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
