package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// authority is the certification authority, and our account there.
type authority struct {
	cfg       *Config
	shelf     *shelf
	transport *http.Transport

	mu      sync.Mutex
	account *acme.Account // nil: not known yet
}

// Bounds on what an authority may make us wait for and read.
const (
	requestTimeout = 30 * time.Second
	quickTimeout   = 10 * time.Second // where everything else waits
	maxResponse    = 1 << 20
	maxResponses   = 64 << 20 // in one attempt: acmez keeps all chains that it is pointed to
	maxRetryAfter  = 7 * 24 * time.Hour
)

func newAuthority(cfg *Config, s *shelf, roots *x509.CertPool) *authority {
	return &authority{cfg: cfg, shelf: s, transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:   quickTimeout,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
	}}
}

func (a *authority) close() { a.transport.CloseIdleConnections() }

// readRoots reads Config.CARootPath.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, &conf.FieldError{Path: "caRootPath", Msg: "cannot read the roots: " + err.Error(), Err: err}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &conf.FieldError{Path: "caRootPath", Msg: fmt.Sprintf("%s has no certificate in PEM form", path)}
	}
	return pool, nil
}

// client is a conversation with the authority.
type client struct {
	acme.Client
	replies replies
}

func (a *authority) client() *client {
	c := new(client)
	c.replies = replies{directory: a.cfg.Directory, next: a.transport}
	c.Directory, c.PollTimeout, c.UserAgent = a.cfg.Directory, a.cfg.Timeout, "dcrouter"
	c.HTTPClient = &http.Client{Timeout: requestTimeout, Transport: &c.replies}
	return c
}

// replies bounds the authority's replies and sees when it wants to be left in
// peace.
type replies struct {
	directory string
	next      http.RoundTripper

	mu      sync.Mutex
	renewal string        // where it suggests times of renewal, "" if not known
	pause   time.Duration // that the last reply asks for, if it was an error

	read atomic.Int64 // bytes
}

func (r *replies) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	renewal := r.renewal != "" && strings.HasPrefix(req.URL.String(), r.renewal+"/")
	r.mu.Unlock()
	cancel := context.CancelFunc(func() {})
	if renewal || req.URL.String() == r.directory { // of which acmez has one lock for the process
		var ctx context.Context
		ctx, cancel = context.WithTimeout(req.Context(), quickTimeout)
		req = req.WithContext(ctx)
	}
	resp, err := r.next.RoundTrip(req)
	if renewal && (err != nil || resp.StatusCode != http.StatusOK) {
		if err == nil {
			resp.Body.Close()
		}
		cancel()
		return noSuggestion(req), nil
	}
	if err != nil {
		cancel()
		return nil, err
	}
	r.mu.Lock()
	r.pause = 0
	if resp.StatusCode >= 400 {
		r.pause = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	r.mu.Unlock()
	resp.Body = &boundedBody{io.LimitReader(resp.Body, maxResponse), resp.Body, cancel, &r.read}
	return resp, nil
}

// noSuggestion stands for an authority that has none about a renewal. Left to
// itself acmez asks three times with pauses of seconds, while the certificate
// waits.
func noSuggestion(req *http.Request) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, Request: req, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(`{"suggestedWindow":{"start":"1970-01-01T00:00:00Z","end":"1970-01-02T00:00:00Z"}}`)),
	}
}

// suggested returns what the authority itself has suggested.
func suggested(info acme.RenewalInfo) acme.RenewalInfo {
	if info.SuggestedWindow.End.Year() <= 1970 {
		return acme.RenewalInfo{}
	}
	return info
}

// open learns what the authority offers.
func (c *client) open(ctx context.Context) (acme.Directory, error) {
	dir, err := c.GetDirectory(ctx)
	c.replies.mu.Lock()
	c.replies.renewal = dir.RenewalInfo
	c.replies.mu.Unlock()
	return dir, err
}

// asked returns how long the authority wants to be left in peace.
func (r *replies) asked() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pause
}

// retryAfter reads the field of that name (RFC 9110 section 10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	d := time.Duration(0)
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

type boundedBody struct {
	io.Reader
	body   io.Closer
	cancel context.CancelFunc
	total  *atomic.Int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.total.Add(int64(n)) > maxResponses {
		err = errors.New("the authority sends too much")
	}
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.body.Close()
}

// savedAccount is an account as it is kept.
type savedAccount struct {
	Location string   `json:"location"`
	Contact  []string `json:"contact"`
	Key      string   `json:"key"` // PEM
}

// myAccount returns the account, which it makes if there is none yet.
func (a *authority) myAccount(ctx context.Context, c *client) (acme.Account, error) {
	a.mu.Lock()
	known := a.account
	a.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var account acme.Account
	err := a.shelf.alone(ctx, a.shelf.accountKey(), func(ctx context.Context) (err error) {
		account, err = a.loadOrRegister(ctx, c)
		return err
	})
	if err != nil {
		return acme.Account{}, fmt.Errorf("the account at the authority: %w", err)
	}
	a.mu.Lock()
	a.account = &account
	a.mu.Unlock()
	return account, nil
}

func (a *authority) loadOrRegister(ctx context.Context, c *client) (acme.Account, error) {
	account := acme.Account{Status: acme.StatusValid}
	if a.cfg.Email != "" {
		account.Contact = []string{"mailto:" + a.cfg.Email}
	}
	var saved savedAccount
	found, err := a.shelf.load(ctx, a.shelf.accountKey(), &saved)
	if err != nil {
		return account, err
	}
	if found {
		if account.PrivateKey, err = decodeKey([]byte(saved.Key)); err != nil {
			return account, err
		}
		account.Location = saved.Location
	} else {
		// The key is kept first: with it the authority finds the account again
		// that it has made for an attempt that did not come to its end.
		if account.PrivateKey, err = generateKey(P256); err != nil {
			return account, err
		}
		if err := a.saveAccount(ctx, account); err != nil {
			return account, err
		}
	}
	if account.Location != "" && slices.Equal(saved.Contact, account.Contact) {
		return account, nil
	}
	if _, err := c.open(ctx); err != nil {
		return account, err
	}
	request := acme.Account{Contact: account.Contact, Location: account.Location, PrivateKey: account.PrivateKey}
	if account.Location != "" {
		if _, err := c.UpdateAccount(ctx, request); err != nil {
			return account, err
		}
		return account, a.saveAccount(ctx, account)
	}
	request.TermsOfServiceAgreed = true
	if e := a.cfg.ExternalAccount; e != nil {
		if err := request.SetExternalAccountBinding(ctx, &c.Client, acme.EAB{KeyID: e.KeyID, MACKey: e.MACKey}); err != nil {
			return account, err
		}
	}
	made, err := c.NewAccount(ctx, request)
	if err != nil {
		return account, err
	}
	account.Location = made.Location
	return account, a.saveAccount(ctx, account)
}

func (a *authority) saveAccount(ctx context.Context, account acme.Account) error {
	key, err := encodeKey(account.PrivateKey)
	if err != nil {
		return err
	}
	return a.shelf.save(ctx, a.shelf.accountKey(), savedAccount{account.Location, account.Contact, string(key)}, 0)
}

// forgetAccount drops an account that the authority does not have any more,
// unless another is in its place already.
func (a *authority) forgetAccount(ctx context.Context, location string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.account == nil || a.account.Location != location {
		return nil
	}
	a.account = nil
	return a.shelf.alone(ctx, a.shelf.accountKey(), func(ctx context.Context) error {
		var saved savedAccount
		if found, err := a.shelf.load(ctx, a.shelf.accountKey(), &saved); err != nil || !found || saved.Location != location {
			return err
		}
		return a.shelf.store.Delete(ctx, a.shelf.accountKey())
	})
}

// problem reports whether an error is one of these that the authority names
// (RFC 8555 section 6.7).
func problem(err error, types ...string) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	for _, t := range types {
		if p.Type == t {
			return true
		}
	}
	return false
}
