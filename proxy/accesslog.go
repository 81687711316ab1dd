package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// accessLog writes a record of each request and stream, or of a sample of
// them. Nil writes none.
type accessLog struct {
	log            *slog.Logger
	sample         float64
	errors         bool
	query, referer bool
	headers        []string // canonical names
	extra          logLimit // of errors that the sample leaves out
}

// extraErrorsPerSecond bounds the records of failures beside the sample. Who
// samples has much traffic, and when a target is down all of it fails.
const extraErrorsPerSecond = 100

// newAccessLog returns the log that the configuration asks for: with a logger
// of its own if the host has given one, or else to the Proxy's.
func newAccessLog(cfg *AccessLog, own, log *slog.Logger) *accessLog {
	switch {
	case cfg == nil && own == nil:
		return nil
	case cfg == nil:
		cfg = new(AccessLog)
	case cfg.Enabled != nil && !*cfg.Enabled:
		return nil
	}
	a := &accessLog{
		log:     own,
		sample:  defaultTo(cfg.Sample, 1),
		errors:  cfg.Errors == nil || *cfg.Errors,
		query:   cfg.Query,
		referer: cfg.Referer,
	}
	if a.log == nil {
		a.log = log
	}
	for _, name := range cfg.Headers {
		a.headers = append(a.headers, http.CanonicalHeaderKey(name))
	}
	return a
}

// accessRecord is what a front end knows about a request or stream in the end.
type accessRecord struct {
	began   time.Time
	conn    *conn
	route   *route     // nil: none took it
	target  *target    // the last that was tried, nil: none
	in, out uint64     // contents from and to the client
	refused *rejection // nil: it was not
	problem error      // why no target served it

	firstByte time.Duration // from sending it to the target until that answered, 0: it did not

	// Of a request. A stream has no method.
	method, protocol  string
	host, path, query string // as the client sent them
	header            fieldValues
	id                string
	status            int  // 0: no response was sent
	aborted           bool // it ended before the response did
}

// now is the time of a request's or stream's beginning. It is not looked at
// where no record is written.
func (a *accessLog) now() time.Time {
	if a == nil {
		return time.Time{}
	}
	return time.Now()
}

// since is the time from began, as now gave it.
func (a *accessLog) since(began time.Time) time.Duration {
	if a == nil {
		return 0
	}
	return time.Since(began)
}

// write writes the record, if it is to be written.
func (a *accessLog) write(rec *accessRecord) {
	if a == nil {
		return
	}
	skipped := uint64(0)
	if a.sample < 1 && rand.Float64() >= a.sample {
		if !a.errors || !rec.failed() {
			return
		}
		var ok bool
		if skipped, ok = a.extra.allow(time.Now(), extraErrorsPerSecond); !ok {
			return
		}
	}
	ctx := context.Background()
	if !a.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	message := "request"
	if rec.method == "" {
		message = "stream"
	}
	var room [32]slog.Attr // so that it stays on the stack
	attrs := a.attrs(room[:0], rec)
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("not_logged", skipped))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, message, attrs...)
}

// failed tells what is of interest whatever the sample.
func (rec *accessRecord) failed() bool {
	return rec.refused != nil || rec.problem != nil || rec.aborted || rec.status >= 500
}

// attrs lists what is known. What clients send is bounded; escaping it is the
// handler's business, as of all attributes.
func (a *accessLog) attrs(to []slog.Attr, rec *accessRecord) []slog.Attr {
	c := rec.conn
	text := func(key, value string, limit int) {
		if value != "" {
			to = append(to, slog.String(key, bounded(value, limit)))
		}
	}
	to = append(to, slog.String("conn_id", c.name()))
	text("request_id", rec.id, maxRequestID)
	to = append(to, slog.String("client", c.client.String()), slog.Int("port", c.port))
	if rec.route != nil {
		to = append(to, slog.String("route", rec.route.Name))
	}
	if rec.method != "" {
		text("method", rec.method, 32)
		scheme := "http"
		if c.tls != nil {
			scheme = "https"
		}
		to = append(to, slog.String("scheme", scheme))
		text("host", rec.host, 255)
		text("path", rec.path, 2048)
		if a.query {
			text("query", rec.query, 2048)
		}
		to = append(to, slog.String("protocol", rec.protocol), slog.Int("status", rec.status))
	}
	to = append(to, slog.Duration("duration", time.Since(rec.began)))
	if rec.method != "" || rec.route == nil || rec.route.Action.SocketHandler == nil { // it has the connection to itself
		to = append(to, slog.Uint64("bytes_in", rec.in), slog.Uint64("bytes_out", rec.out))
	}
	if rec.target != nil {
		to = append(to, slog.String("target", rec.target.name))
	}
	if rec.firstByte > 0 {
		to = append(to, slog.Duration("first_byte", rec.firstByte))
	}
	text("server_name", c.serverName, 255)
	if c.tls != nil {
		to = append(to, slog.String("tls", tls.VersionName(c.tls.Version)))
		text("alpn", c.tls.NegotiatedProtocol, 255)
	}
	if rec.header != nil {
		text("user_agent", field(rec.header, "User-Agent"), 512)
		if a.referer {
			referer := field(rec.header, "Referer")
			if !a.query {
				referer, _, _ = strings.Cut(referer, "?")
			}
			text("referer", referer, 1024)
		}
		if len(a.headers) > 0 {
			to = append(to, a.chosen(rec.header))
		}
	}
	if rec.refused != nil {
		to = append(to, slog.String("refused", rec.refused.name))
	}
	if rec.problem != nil {
		text("error", rec.problem.Error(), 512)
	}
	if rec.aborted {
		to = append(to, slog.Bool("aborted", true))
	}
	return to
}

// chosen are the headers that the configuration names. The group is left out
// by slog if it is empty.
func (a *accessLog) chosen(header fieldValues) slog.Attr {
	var found []slog.Attr
	for _, name := range a.headers {
		if value := field(header, name); value != "" {
			found = append(found, slog.String(name, bounded(value, 512)))
		}
	}
	return slog.Attr{Key: "headers", Value: slog.GroupValue(found...)}
}

// field is all values of a header.
func field(header fieldValues, name string) string {
	values := header.Values(name)
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values, ", ")
}

// bounded cuts off what is too long, and shows that it did.
func bounded(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "..."
}

// fill takes from an exchange what there is to say about it.
func (x *exchange) fill(rec *accessRecord) {
	rec.route, rec.target, rec.firstByte = x.route, x.session.target.Load(), x.firstByte
	rec.path, rec.query, rec.status = x.path, x.query, x.writer.status
	rec.in, rec.out = x.in.own.Load(), x.out.own.Load()
	rec.refused, rec.problem = x.refused, x.problem
}

// byteCount counts for the route, and for one request or stream of it.
type byteCount struct {
	route *atomic.Uint64
	own   atomic.Uint64
}

// Add counts n more bytes.
func (c *byteCount) Add(n uint64) {
	c.route.Add(n)
	c.own.Add(n)
}

func (a *AccessLog) validate(check *conf.Checker) {
	if !(a.Sample >= 0 && a.Sample <= 1) {
		check.Field("sample").Errorf("%v is not between 0 and 1", a.Sample)
	}
	for i, name := range a.Headers {
		at := check.Field("headers").Index(i)
		if !httpguts.ValidHeaderFieldName(name) {
			at.Errorf("%q is not a header name", name)
			continue
		}
		switch http.CanonicalHeaderKey(name) {
		case "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie":
			at.Errorf("%s holds secrets, which have no place in a log", name)
		}
	}
}
