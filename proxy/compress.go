package proxy

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// Values of [Compression.Algorithms].
const (
	Zstd = "zstd"
	Gzip = "gzip"
)

const eventStream = "text/event-stream"

// compression is a compiled Compression.
type compression struct {
	algorithms []string
	types      []glob.Pattern
	events     bool // event streams are asked for by name
	minSize    int
	level      int
	encoders   *encoders
}

func newCompression(cfg *Compression, lend *encoders) (*compression, error) {
	c := &compression{
		algorithms: slices.Clone(cfg.Algorithms),
		minSize:    defaultTo(cfg.MinSize, 1024),
		level:      defaultTo(cfg.Level, 3),
		encoders:   lend,
	}
	if len(c.algorithms) == 0 {
		c.algorithms = []string{Zstd, Gzip}
	}
	types := cfg.Types
	if len(types) == 0 {
		types = []string{"text/*", "application/json", "application/*+json", "application/javascript",
			"application/xml", "application/*+xml", "image/svg+xml", "application/wasm"}
	}
	for _, text := range types {
		pattern, err := glob.Parse(strings.ToLower(text))
		if err != nil {
			return nil, err
		}
		c.types = append(c.types, pattern)
		c.events = c.events || strings.EqualFold(text, eventStream)
	}
	return c, nil
}

// wants reports whether contents of a type are to be compressed.
func (c *compression) wants(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	switch {
	case kind == "", strings.HasPrefix(kind, "application/grpc"): // that compresses by itself
		return false
	case kind == eventStream:
		return c.events
	}
	return slices.ContainsFunc(c.types, func(p glob.Pattern) bool { return p.Match(kind) })
}

// choose returns the coding that a client likes best, "" if that is none. Of
// equals the first in the configuration wins.
func (c *compression) choose(accept []string) string {
	best, most := "", 0.0
	for _, name := range c.algorithms {
		q, named := quality(accept, name)
		if !named && name == Gzip {
			q, named = quality(accept, "x-gzip") // RFC 9110 section 8.4.1.3
		}
		if !named {
			q, _ = quality(accept, "*")
		}
		if q > most {
			best, most = name, q
		}
	}
	if plain, _ := quality(accept, "identity"); plain > most {
		return ""
	}
	return best
}

// quality reads from Accept-Encoding (RFC 9110 section 12.5.3) how much a
// client likes a coding, from 0 to 1. What is malformed is not liked.
func quality(accept []string, coding string) (q float64, named bool) {
	for _, value := range accept {
		for item := range strings.SplitSeq(value, ",") {
			name, params, _ := strings.Cut(item, ";")
			if !strings.EqualFold(strings.TrimSpace(name), coding) {
				continue
			}
			for param := range strings.SplitSeq(params, ";") {
				key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
				if strings.EqualFold(key, "q") {
					if q, err := strconv.ParseFloat(value, 64); err == nil && q > 0 && q <= 1 {
						return q, true
					}
					return 0, true
				}
			}
			return 1, true
		}
	}
	return 0, false
}

// compressWriter compresses a response if that is asked for, allowed and
// worthwhile. Until that can be told it keeps back the head, and of a body whose
// length is not declared the first few bytes.
type compressWriter struct {
	to  *responseWriter
	cfg *compression
	req *http.Request

	status  int    // that the handler has set, 0: none yet
	length  int64  // that it has declared, -1: none
	start   []byte // of the body, until it is decided
	small   bool   // there is no more of it
	decided bool

	enc     encoder // nil unless it compresses
	coding  string
	written int64
	drop    bool // it would compress, but was asked for the head alone
}

func (c *compression) wrap(to *responseWriter, req *http.Request) *compressWriter {
	w := &compressWriter{to: to, cfg: c, req: req, length: -1}
	edit := to.edit
	to.edit = func(h http.Header) {
		edit(h) // the route's edits first: they may change what decides
		w.decide(h)
	}
	return w
}

// Header returns the header of the response.
func (w *compressWriter) Header() http.Header { return w.to.Header() }

// Unwrap gives http.ResponseController the rest of the connection's abilities.
func (w *compressWriter) Unwrap() http.ResponseWriter { return w.to }

// Hijack is for handlers that look for http.Hijacker themselves.
func (w *compressWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.to.Hijack() }

// WriteHeader notes the status. It sends the head if there is nothing to decide.
func (w *compressWriter) WriteHeader(status int) {
	if w.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		w.to.WriteHeader(status) // one too many, or informational
		return
	}
	w.status = status
	if n, err := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64); err == nil {
		w.length = n
	}
	if !hasWholeBody(status) {
		w.to.WriteHeader(status)
	}
}

func hasWholeBody(status int) bool {
	switch status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusPartialContent, http.StatusNotModified:
		return false
	}
	return status >= 200
}

// Write sends a part of the body, or keeps it until it is clear how to.
func (w *compressWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.decided && w.length < 0 && len(w.start)+len(b) < w.cfg.minSize {
		w.start = append(w.start, b...)
		return len(b), nil
	}
	if err := w.begin(b); err != nil {
		return 0, err
	}
	return w.send(b)
}

// begin sends the head and what has been kept back. next is what comes then.
func (w *compressWriter) begin(next []byte) error {
	if w.decided {
		return nil
	}
	h := w.Header()
	if _, ok := h["Content-Type"]; !ok && len(w.start)+len(next) > 0 && h.Get("Content-Encoding") == "" {
		// As net/http would, which does not see the contents any more.
		sample := append(w.start, next[:min(len(next), 512)]...)
		h.Set("Content-Type", http.DetectContentType(sample))
	}
	w.to.WriteHeader(w.status)
	start := w.start
	if w.start = nil; len(start) == 0 {
		return nil
	}
	_, err := w.send(start)
	return err
}

func (w *compressWriter) send(b []byte) (int, error) {
	switch {
	case w.drop:
		return len(b), nil // net/http would count the bytes
	case w.enc == nil:
		return w.to.Write(b)
	case w.length >= 0 && w.written+int64(len(b)) > w.length:
		return 0, http.ErrContentLength // net/http does not know the length any more
	}
	w.written += int64(len(b))
	return w.enc.Write(b)
}

// Flush is for handlers that look for http.Flusher themselves.
func (w *compressWriter) Flush() { w.FlushError() }

// FlushError sends what has been written so far, in a form that the client can
// decompress at once.
func (w *compressWriter) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if err := w.begin(nil); err != nil {
		return err
	}
	if w.enc != nil {
		if err := w.enc.Flush(); err != nil {
			return err
		}
	}
	return w.to.FlushError()
}

var errShortBody = errors.New("the body is shorter than was declared")

// finish ends the response of a handler that has returned. After an error it
// must not look complete.
func (w *compressWriter) finish() error {
	if w.to.hijacked {
		return nil
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.small = w.length < 0
	if err := w.begin(nil); err != nil || w.enc == nil {
		return err
	}
	if w.length >= 0 && w.written != w.length {
		return errShortBody
	}
	return w.enc.Close()
}

// release gives the compressor back, also that of a response that was broken off.
func (w *compressWriter) release() {
	if w.enc != nil {
		w.cfg.encoders.put(w.coding, w.cfg.level, w.enc)
		w.enc = nil
	}
}

// decide is called when the head is about to be sent.
func (w *compressWriter) decide(h http.Header) {
	w.decided = true
	accept := w.req.Header["Accept-Encoding"]
	if w.status == http.StatusNotModified && w.cfg.choose(accept) != "" {
		weaken(h) // what the client has may have come compressed
		return
	}
	if !w.compressible(h) {
		return
	}
	if vary := h["Vary"]; !httpguts.HeaderValuesContainsToken(vary, "Accept-Encoding") && !httpguts.HeaderValuesContainsToken(vary, "*") {
		h.Add("Vary", "Accept-Encoding")
	}
	coding := w.cfg.choose(accept)
	if coding == "" || w.req.Header["Range"] != nil {
		return
	}
	if w.req.Method == http.MethodHead {
		w.drop = true // but the head is that of a GET
	} else if w.enc = w.cfg.encoders.get(coding, w.cfg.level, w.to); w.enc == nil {
		return
	}
	w.coding = coding
	h.Set("Content-Encoding", coding)
	h.Del("Content-Length")
	h.Del("Accept-Ranges")
	weaken(h)
}

// compressible reports whether the response would be compressed for a client
// that takes it so.
func (w *compressWriter) compressible(h http.Header) bool {
	switch {
	case !hasWholeBody(w.status), w.small, w.length >= 0 && w.length < int64(w.cfg.minSize):
		return false
	case h.Get("Content-Encoding") != "":
		return false
	case httpguts.HeaderValuesContainsToken(h["Cache-Control"], "no-transform"),
		httpguts.HeaderValuesContainsToken(w.req.Header["Cache-Control"], "no-transform"):
		return false
	}
	for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		if h[name] != nil {
			return false // it would not hold any more
		}
	}
	return w.cfg.wants(h.Get("Content-Type"))
}

// weaken makes an entity tag one of all forms of the same content, RFC 9110
// section 8.8.1.
func weaken(h http.Header) {
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
}

func (c *Compression) validate(check *conf.Checker) {
	for i, name := range c.Algorithms {
		if at := check.Field("algorithms").Index(i); slices.Contains(c.Algorithms[:i], name) {
			at.Errorf("%q is there already", name)
		} else {
			at.OneOf(name, Zstd, Gzip)
		}
	}
	for i, kind := range c.Types {
		if at := check.Field("types").Index(i); !strings.Contains(kind, "/") {
			at.Errorf("%q is not a media type, such as text/html or text/*", kind)
		} else if _, err := glob.Parse(kind); err != nil {
			at.Errorf("%v", err)
		}
	}
	check.Field("minSize").Range(c.MinSize, 0, 1<<20)
	check.Field("level").Range(c.Level, 0, maxLevel)
}
