package webhook

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// Endpoint is who is told.
type Endpoint struct {
	// URL is http or https.
	URL string
	// Secret signs, and so does PreviousSecret, if there is one: for the time in
	// which the receiver changes from one to the other. See [ParseSecret].
	Secret, PreviousSecret conf.Secret
	// Events are the types that are wanted; empty means all.
	Events []string
}

// Config of [New].
type Config struct {
	Endpoints []Endpoint
	// Store is where events that wait outlast a restart, if it is not nil. It stays
	// the caller's, and must be open until Close has returned.
	Store *storage.Store
	// Log defaults to none, Now to the system's clock.
	Log *slog.Logger
	Now func() time.Time
	// Transport makes the requests, by default one of the package's own.
	Transport http.RoundTripper
	// MaxQueue is how many events wait for each endpoint, 10,000 by default. Then
	// the oldest go.
	MaxQueue int
	// Concurrency is how many requests there are at a time for each endpoint, 4 by
	// default.
	Concurrency int
	// Timeout bounds a request, 15 s by default, and MaxAge is for how long an
	// event is tried, 24 hours by default.
	Timeout, MaxAge time.Duration
	// SaveAfter is how long an event waits before it is stored, 5 s by default.
	SaveAfter time.Duration
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&c.Timeout, 15*time.Second)
	set(&c.MaxAge, 24*time.Hour)
	set(&c.SaveAfter, 5*time.Second)
	if c.MaxQueue <= 0 {
		c.MaxQueue = 10_000
	}
	if c.Concurrency <= 0 {
		c.Concurrency = 4
	}
	if c.Transport == nil {
		c.Transport = newTransport(c.Timeout, c.Concurrency)
	}
}

const secretPrefix = "whsec_"

// ParseSecret returns the key that a secret stands for: "whsec_" and 24 to 64 bytes
// in base64.
func ParseSecret(s conf.Secret) ([]byte, error) {
	text, ok := strings.CutPrefix(s.Reveal(), secretPrefix)
	if ok {
		if key, err := base64.StdEncoding.DecodeString(text); err == nil && len(key) >= 24 && len(key) <= 64 {
			return key, nil
		}
	}
	return nil, errors.New(`is not "whsec_" and 24 to 64 random bytes in base64, as "openssl rand -base64 32" gives them`)
}

// NewSecret makes a secret.
func NewSecret() conf.Secret {
	key := make([]byte, 32)
	rand.Read(key) // it does not fail
	return conf.Secret(secretPrefix + base64.StdEncoding.EncodeToString(key))
}

// newEndpoint reports all mistakes.
func newEndpoint(c Endpoint, check *conf.Checker) *endpoint {
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		check.Field("url").Required("")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		check.Field("url").Errorf("is not an http or https URL") // it may have a password
	}
	e := &endpoint{url: c.URL, wanted: slices.Clone(c.Events), wake: make(chan struct{}, 1)}
	if u != nil {
		e.name = (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() // paths may be secret
	}
	hash := sha256.Sum256([]byte(c.URL))
	e.id = hex.EncodeToString(hash[:8])
	for _, secret := range []struct {
		name  string
		value conf.Secret
	}{{"secret", c.Secret}, {"previousSecret", c.PreviousSecret}} {
		if secret.name == "previousSecret" && secret.value == "" {
			continue
		}
		key, err := ParseSecret(secret.value)
		if err != nil {
			check.Field(secret.name).Errorf("%v", err)
		}
		e.keys = append(e.keys, key)
	}
	return e
}

func newTransport(timeout time.Duration, conns int) *http.Transport {
	dialer := &net.Dialer{Timeout: timeout}
	return &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: conns,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}
}

// closeIdle ends connections that wait for another request.
func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// drain reads the rest of an answer, within bounds, so that the connection can be
// used again.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 16<<10) // whatever it says
	body.Close()
}
