package dmarcrpt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/storage"
)

// Config of a [Reporter]. In each field that says nothing else, the zero value
// means the default.
type Config struct {
	// Hostname is the domain name of who reports. Required.
	Hostname string
	// Organization is its name; default Hostname.
	Organization string
	// Email is whom to write to about reports, and where they are from.
	// Required; of a domain that we sign mail for.
	Email string
	// Contact is more on whom to contact, such as the address of a web page;
	// default none.
	Contact string
	// MinMessages is how many messages of a day are worth a report; default 10.
	// Below it there are mostly forgeries of a few, and the reports about the
	// reports of others. 1 reports everything.
	MinMessages int
	// Spread is the time after the end of a day within which its reports go
	// out; default 4h, at most 20h.
	Spread time.Duration

	// Resolver asks DNS whether other organizations want reports; by default
	// that of the system.
	Resolver lookup.Resolver
	// Send takes a report over. An error means that it is tried again, each
	// hour for a day. Required.
	Send func(ctx context.Context, r Report) error

	// MaxDomains bounds the policy domains that are held; default 10,000.
	MaxDomains int
	// MaxRows bounds the rows of a domain; default 2,000.
	MaxRows int
	// MaxBytes bounds what all rows take, roughly; default 32 MiB. One domain
	// may have a sixteenth of it.
	MaxBytes int

	// Store keeps what was counted. Nil means that it is forgotten with the
	// Reporter.
	Store *storage.Store
	// SaveEvery is how often changes are stored; default 5m.
	SaveEvery time.Duration
	// Log is told about reports that could not be sent, and when storing fails.
	// Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

func (c Config) check() error {
	var errs []error
	if _, err := lookup.Domain(c.Hostname); err != nil {
		errs = append(errs, fmt.Errorf("the hostname: %w", err))
	}
	if a, err := addr.Parse(c.Email); err != nil || a.Domain == "" || a.IsLiteral() || !a.IsASCII() {
		errs = append(errs, fmt.Errorf("the email %q is not an address to send from", c.Email))
	}
	if c.Send == nil {
		errs = append(errs, errors.New("there is no Send"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	def := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	c.Hostname, _ = lookup.Domain(c.Hostname)
	if c.Organization == "" {
		c.Organization = c.Hostname
	}
	def(&c.MinMessages, 10)
	def(&c.MaxDomains, 10_000)
	def(&c.MaxRows, 2_000)
	def(&c.MaxBytes, 32<<20)
	if c.Spread <= 0 {
		c.Spread = 4 * time.Hour
	}
	c.Spread = min(c.Spread, 20*time.Hour)
	if c.SaveEvery <= 0 {
		c.SaveEvery = 5 * time.Minute
	}
	if c.Resolver == nil {
		c.Resolver = &net.Resolver{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
