package certs

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// request is what to order.
type request struct {
	name string
	// old is the certificate that is to be replaced, or nil.
	old *keyPair
	// solve returns how to prove that the name is ours.
	solve func() (solver, error)
	// registered is told of the account before anything is proven.
	registered func(ctx context.Context, account string, identities []string)
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
	pair      *keyPair
	challenge string // "" if it was proven before
	renewal   acme.RenewalInfo
}

// savedOrder is an order that is about to be finalized, and the key of the
// certificate that comes of it: whatever happens, it can be fetched later.
type savedOrder struct {
	Location string `json:"location"`
	Account  string `json:"account"`
	Key      string `json:"key"` // PEM
}

// savedOrderTTL is longer than authorities keep orders.
const savedOrderTTL = 7 * 24 * time.Hour

// issue obtains a certificate: by an order from an earlier attempt, or else by
// a new one (RFC 8555 section 7.4). The caller holds the lease of the name.
func (a *authority) issue(ctx context.Context, c *client, r request) (issued, error) {
	for again := false; ; again = true {
		account, err := a.myAccount(ctx, c)
		if err != nil {
			return issued{}, err
		}
		got, err := a.issueAs(ctx, c, account, r)
		if problem(err, acme.ProblemTypeAccountDoesNotExist) && !again {
			if err := a.forgetAccount(ctx, account.Location); err != nil {
				return issued{}, err
			}
			continue
		}
		return got, err
	}
}

func (a *authority) issueAs(ctx context.Context, c *client, account acme.Account, r request) (issued, error) {
	dir, err := c.open(ctx)
	if err != nil {
		return issued{}, err
	}
	if got, err := a.resume(ctx, c, account, r.name); got.pair != nil || err != nil {
		return got, err
	}
	s, err := r.solve()
	if err != nil {
		return issued{}, err
	}
	if r.registered != nil && dir.Meta != nil {
		r.registered(ctx, account.Location, dir.Meta.CAAIdentities)
	}
	order, err := a.newOrder(ctx, c, account, r)
	if err != nil {
		return issued{}, fmt.Errorf("ordering: %w", err)
	}
	challenge, err := prove(ctx, c, account, order, s)
	if err != nil {
		return issued{}, err
	}
	key, err := generateKey(a.cfg.KeyType)
	if err != nil {
		return issued{}, err
	}
	keyText, err := encodeKey(key)
	if err != nil {
		return issued{}, err
	}
	if err := a.shelf.save(ctx, a.shelf.orderKey(r.name), savedOrder{order.Location, account.Location, string(keyText)}, savedOrderTTL); err != nil {
		return issued{}, err
	}
	got, err := finish(ctx, c, account, order, key, r.name)
	got.challenge = challenge
	return got, err
}

// resume takes up an order from an earlier attempt. Without one, or if nothing
// can come of it any more, it returns nothing.
func (a *authority) resume(ctx context.Context, c *client, account acme.Account, name string) (issued, error) {
	var saved savedOrder
	found, err := a.shelf.load(ctx, a.shelf.orderKey(name), &saved)
	if !found || err != nil {
		return issued{}, err
	}
	drop := func() (issued, error) { return issued{}, a.shelf.store.Delete(ctx, a.shelf.orderKey(name)) }
	key, err := decodeKey([]byte(saved.Key))
	if err != nil || saved.Account != account.Location {
		return drop()
	}
	order, err := c.GetOrder(ctx, account, acme.Order{Location: saved.Location})
	for err == nil && order.Status == acme.StatusProcessing {
		if err := pause(ctx, time.Second); err != nil {
			return issued{}, err
		}
		order, err = c.GetOrder(ctx, account, order)
	}
	if p := (acme.Problem{}); errors.As(err, &p) && p.Status/100 == 4 && p.Type != acme.ProblemTypeRateLimited {
		return drop() // it does not know the order
	}
	if err != nil {
		return issued{}, err
	}
	if order.Status != acme.StatusValid && order.Status != acme.StatusReady {
		return drop()
	}
	order.Location = saved.Location
	got, err := finish(ctx, c, account, order, key, name)
	if err != nil || !time.Now().Before(renewalTime(got.pair, acme.RenewalInfo{})) {
		return drop() // it is from long ago
	}
	return got, nil
}

// newOrder names the certificate that it replaces (RFC 9773 section 5), which
// an authority may count less than other orders.
func (a *authority) newOrder(ctx context.Context, c *client, account acme.Account, r request) (acme.Order, error) {
	order := acme.Order{Profile: a.cfg.Profile, Identifiers: []acme.Identifier{{Type: "dns", Value: r.name}}}
	if r.old != nil && len(r.old.leaf().AuthorityKeyId) > 0 {
		id, err := acme.ARIUniqueIdentifier(r.old.leaf())
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

// prove answers a challenge of each authorization that is not valid yet, and
// returns its type.
func prove(ctx context.Context, c *client, account acme.Account, order acme.Order, s solver) (string, error) {
	kind := ""
	for _, url := range order.Authorizations {
		authz, err := c.GetAuthorization(ctx, account, url)
		if err != nil {
			return "", fmt.Errorf("what to prove: %w", err)
		}
		if authz.Status == acme.StatusValid {
			continue
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
		if err := answer(ctx, c, account, authz, authz.Challenges[i], s); err != nil {
			return "", fmt.Errorf("%s: %w", kind, err)
		}
	}
	return kind, nil
}

func answer(ctx context.Context, c *client, account acme.Account, authz acme.Authorization, ch acme.Challenge, s solver) (err error) {
	defer func() {
		// Whatever became of it, also if the time is up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
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
func finish(ctx context.Context, c *client, account acme.Account, order acme.Order, key crypto.Signer, name string) (issued, error) {
	if order.Status != acme.StatusValid {
		csr, err := signingRequest(name, key)
		if err != nil {
			return issued{}, err
		}
		if order, err = c.FinalizeOrder(ctx, account, order, csr); err != nil {
			return issued{}, fmt.Errorf("finalizing the order: %w", err)
		}
	}
	chains, err := c.GetCertificateChain(ctx, account, order.Certificate)
	if err != nil {
		return issued{}, fmt.Errorf("fetching the certificate: %w", err)
	}
	got := issued{}
	if got.pair, err = newKeyPair(chains[0].ChainPEM, key); err != nil {
		return issued{}, fmt.Errorf("what the authority has sent: %w", err)
	}
	if !got.pair.covers(name) {
		return issued{}, errors.New("what the authority has sent is not for this name")
	}
	if info := chains[0].RenewalInfo; info != nil {
		got.renewal = suggested(*info)
	}
	return got, nil
}

func signingRequest(name string, key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
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
