package opsapi

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dcrouter/dcrouter/opsapi/internal/ring"
)

// What a [LogBuffer] holds.
const (
	logEntries       = 4096
	maxLogAttributes = 32
	maxLogText       = 1024 // bytes of a message or a value
)

// LogEntry is a line of the log.
type LogEntry struct {
	// Seq counts the entries, from 1.
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Level   string    `json:"level" doc:"DEBUG, INFO, WARN or ERROR"`
	Message string    `json:"message"`
	// Component is the attribute of this name, Correlation what ties together the
	// lines about one connection or message: correlation_id, conn_id, msg_id or
	// request_id.
	Component   string `json:"component,omitempty"`
	Correlation string `json:"correlation,omitempty"`
	// Attributes are all, groups with dots between.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// LogBuffer is a [slog.Handler] that keeps the last 4,096 entries, of any level
// that the next handler wants, and hands on to that:
//
//	logs := opsapi.NewLogBuffer(slog.NewTextHandler(os.Stderr, nil))
//	log := slog.New(logs)
//
// Give the logger to all that should show in the log, and the buffer to
// [WithLogs].
type LogBuffer struct {
	ring   *ring.Ring[logRecord]
	next   slog.Handler
	prefix string // of open groups, with a dot at its end
	bound  []attribute
}

// logRecord is an entry as it is held: written out only when somebody looks, for
// most are never looked at.
type logRecord struct {
	seq     uint64
	time    time.Time
	level   slog.Level
	message string
	attrs   []attribute
}

// attribute is one whose value is plain: a string, a number, a time.
type attribute struct {
	key   string
	value slog.Value
}

// NewLogBuffer makes a LogBuffer in front of next, which may be nil: then it
// keeps entries of level info and above.
func NewLogBuffer(next slog.Handler) *LogBuffer {
	return &LogBuffer{ring: ring.New[logRecord](logEntries), next: next}
}

// Enabled reports whether the next handler wants the level.
func (b *LogBuffer) Enabled(ctx context.Context, level slog.Level) bool {
	if b.next == nil {
		return level >= slog.LevelInfo
	}
	return b.next.Enabled(ctx, level)
}

// Handle keeps the record and hands it on.
func (b *LogBuffer) Handle(ctx context.Context, r slog.Record) error {
	attrs := make([]attribute, len(b.bound), len(b.bound)+r.NumAttrs())
	copy(attrs, b.bound)
	r.Attrs(func(a slog.Attr) bool {
		attrs = appendAttr(attrs, b.prefix, a)
		return true
	})
	one := logRecord{time: r.Time, level: r.Level, message: cut(r.Message), attrs: attrs}
	b.ring.Put(func(n uint64) logRecord { one.seq = n; return one })
	if b.next == nil {
		return nil
	}
	return b.next.Handle(ctx, r)
}

// WithAttrs returns a handler on the same buffer that has the attributes in
// each entry.
func (b *LogBuffer) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *b
	c.bound = slices.Clone(b.bound)
	for _, a := range attrs {
		c.bound = appendAttr(c.bound, b.prefix, a)
	}
	if b.next != nil {
		c.next = b.next.WithAttrs(attrs)
	}
	return &c
}

// WithGroup returns a handler on the same buffer that puts the name in front of
// those of later attributes.
func (b *LogBuffer) WithGroup(name string) slog.Handler {
	if name == "" {
		return b
	}
	c := *b
	c.prefix = b.prefix + name + "."
	if b.next != nil {
		c.next = b.next.WithGroup(name)
	}
	return &c
}

// appendAttr adds an attribute. Types that hide secrets do so by LogValue,
// String or Format, all of which are asked, and at once: they may change.
func appendAttr(list []attribute, prefix string, a slog.Attr) []attribute {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			list = appendAttr(list, prefix, inner)
		}
		return list
	}
	if a.Key == "" || len(list) >= maxLogAttributes {
		return list
	}
	switch v.Kind() {
	case slog.KindString:
		if len(v.String()) > maxLogText {
			v = slog.StringValue(cut(v.String()))
		}
	case slog.KindAny:
		v = slog.StringValue(cut(fmt.Sprint(v.Any())))
	}
	return append(list, attribute{prefix + a.Key, v})
}

// entry writes a record out.
func (r *logRecord) entry() LogEntry {
	e := LogEntry{Seq: r.seq, Time: r.time.UTC(), Level: r.level.String(), Message: strings.ToValidUTF8(r.message, "\uFFFD")}
	if len(r.attrs) > 0 {
		e.Attributes = make(map[string]string, len(r.attrs))
	}
	for _, a := range r.attrs {
		text := ""
		if a.value.Kind() == slog.KindTime {
			text = a.value.Time().UTC().Format(time.RFC3339Nano)
		} else {
			text = strings.ToValidUTF8(a.value.String(), "\uFFFD")
		}
		e.Attributes[a.key] = text
		if a.key == "component" {
			e.Component = text
		}
	}
	for _, key := range []string{"correlation_id", "conn_id", "msg_id", "request_id"} {
		if v := e.Attributes[key]; v != "" && e.Correlation == "" {
			e.Correlation = v
		}
	}
	return e
}

// cut cuts text that is too long.
func cut(text string) string {
	if len(text) <= maxLogText {
		return text
	}
	n := maxLogText
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// bounded cuts text that is too long, and replaces what is no UTF-8.
func bounded(text string) string { return strings.ToValidUTF8(cut(text), "\uFFFD") }

// logFilter picks entries.
type logFilter struct {
	level                          slog.Level
	component, search, correlation string
	since                          time.Time
}

// parseLevel reads the name of a level; "" means all.
func parseLevel(name string) (slog.Level, error) {
	var level slog.Level
	if name == "" {
		return slog.LevelDebug - 4, nil
	}
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return 0, &FieldError{Path: "level", Msg: fmt.Sprintf("%q is not debug, info, warn or error", name)}
	}
	return level, nil
}

// take writes a record out if the filter lets it pass.
func (f *logFilter) take(r logRecord) (LogEntry, bool) {
	if r.level < f.level || r.time.Before(f.since) {
		return LogEntry{}, false
	}
	e := r.entry()
	if f.component != "" && e.Component != f.component || f.correlation != "" && !e.hasValue(f.correlation) {
		return e, false
	}
	return e, f.search == "" || e.contains(f.search)
}

// hasValue finds entries about an id under whatever name it is in them.
func (e *LogEntry) hasValue(value string) bool {
	for _, v := range e.Attributes {
		if v == value {
			return true
		}
	}
	return false
}

// contains looks for text in the message and the attributes, case aside.
func (e *LogEntry) contains(text string) bool {
	if containsFold(e.Message, text) {
		return true
	}
	for _, v := range e.Attributes {
		if containsFold(v, text) {
			return true
		}
	}
	return false
}

func containsFold(s, text string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(text))
}
