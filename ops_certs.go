package dcrouter

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/opsapi"
)

// opsCertificates are the certificates that the Router obtains or makes, for the
// operations API.
type opsCertificates struct{ router *Router }

// has reports whether there are any.
func (c opsCertificates) has() bool {
	return c.router.certs != nil || c.router.local != nil || c.router.mailCert != nil
}

// expiringSoon is how long before its end a certificate should have been
// renewed.
const expiringSoon = 7 * 24 * time.Hour

func (c opsCertificates) Certificates(context.Context) ([]opsapi.Certificate, error) {
	list, err := c.made()
	if err != nil || c.router.certs == nil {
		return list, err
	}
	now := time.Now()
	for _, s := range c.router.certs.States() {
		one := opsapi.Certificate{Name: s.Name, Source: "acme", State: "valid", Issuer: s.Issuer, NotBefore: s.NotBefore, NotAfter: s.NotAfter,
			Challenge: s.Challenge, InProgress: s.InProgress, Failures: s.Failures, LastError: s.LastError, NextTry: s.NextTry}
		switch {
		case s.NotAfter.IsZero() && s.Failures > 0:
			one.State = "failing"
		case s.NotAfter.IsZero():
			one.State = "missing"
		case now.After(s.NotAfter):
			one.State = "expired"
		case s.NotAfter.Sub(now) < expiringSoon && s.Failures > 0:
			one.State = "expiring"
		}
		list = append(list, one)
	}
	return list, nil
}

// made lists what no authority elsewhere has signed.
func (c opsCertificates) made() ([]opsapi.Certificate, error) {
	var list []opsapi.Certificate
	add := func(name, source string, leaf *x509.Certificate) {
		list = append(list, opsapi.Certificate{Name: name, Source: source, State: "valid", Issuer: leaf.Issuer.CommonName, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter})
	}
	if l := c.router.local; l != nil {
		leaves, err := l.certificates()
		if err != nil {
			return nil, err
		}
		for name, leaf := range leaves {
			add(name, "local", leaf)
		}
		slices.SortFunc(list, func(a, b opsapi.Certificate) int { return strings.Compare(a.Name, b.Name) })
	}
	if m := c.router.mailCert; m != nil {
		if pair := m.pair.Load(); pair != nil {
			add(certs.CanonicalName(c.router.config.Email.Hostname), "self-signed", pair.Leaf())
		}
	}
	return list, nil
}

func (c opsCertificates) Renew(_ context.Context, name string) error {
	err := certs.ErrUnknownName
	if c.router.certs != nil {
		err = c.router.certs.Renew(name)
	}
	if !errors.Is(err, certs.ErrUnknownName) {
		if errors.Is(err, certs.ErrTooEarly) {
			return &FieldError{Path: "name", Msg: err.Error()}
		}
		return err
	}
	list, errMade := c.made()
	if errMade != nil {
		return errMade
	}
	if slices.ContainsFunc(list, func(one opsapi.Certificate) bool { return sameDomain(one.Name, name) }) {
		return &FieldError{Path: "name", Msg: fmt.Sprintf("the certificate for %q is made here, and replaced in time by itself", name)}
	}
	return fmt.Errorf("%w: %w", err, opsapi.ErrNotFound)
}
