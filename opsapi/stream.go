package opsapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/ring"
)

// Times and bounds of a stream of events.
const (
	keepAlive    = 15 * time.Second
	writePatient = 15 * time.Second // for a reader that takes nothing
	streamBatch  = 256              // events of a topic that are written at once

	maxUserStreams = maxStreams / 4
)

// feed is a topic as a stream reads it: from a ring, item by item.
type feed struct {
	topic string
	after uint64 // number of the last event that was read
	last  func() uint64
	watch func(chan<- struct{}) (stop func())
	// read returns what came after the event n.
	read func(n uint64) (list []numbered, lost, last uint64, err error)
}

// numbered is an event with its number.
type numbered struct {
	n    uint64
	data json.RawMessage
}

// feedOf makes the feed of a ring. take makes of an item what is written, or
// leaves it out.
func feedOf[T any](topic string, r *ring.Ring[T], take func(T) (v any, ok bool)) *feed {
	return &feed{topic: topic, last: r.Last, watch: r.Watch, read: func(n uint64) ([]numbered, uint64, uint64, error) {
		items, lost, last := r.After(n, streamBatch)
		var list []numbered
		for i, item := range items {
			v, ok := take(item)
			if !ok {
				continue
			}
			data, written := v.(json.RawMessage)
			if !written {
				var err error
				if data, err = marshal(v); err != nil {
					return nil, 0, 0, err
				}
			}
			list = append(list, numbered{last - uint64(len(items)-1-i), data})
		}
		return list, lost, last, nil
	}}
}

// stream is one reader of events.
type stream struct {
	boot  string
	feeds []*feed
	all   bool   // he follows the topics that come up, too
	known uint64 // number of the last one that has come up
	wake  chan struct{}
	stops []func() // end what wakes him
	out   bytes.Buffer
}

func (st *stream) add(f *feed) {
	st.feeds = append(st.feeds, f)
	st.stops = append(st.stops, f.watch(st.wake))
}

func (st *stream) close() {
	for _, stop := range st.stops {
		stop()
	}
}

// openStream makes the stream that a request asks for.
func (s *Server) openStream(r *http.Request, c *caller) (*stream, error) {
	query := r.URL.Query()
	topics := slices.DeleteFunc(strings.Split(query.Get("topics"), ","), func(t string) bool { return t == "" })
	st := &stream{boot: s.boot, wake: make(chan struct{}, 1)}
	if len(topics) == 0 {
		st.all, st.known = true, s.events.added.Last()
		topics = append(s.events.names(), topicSecurity)
	}
	slices.Sort(topics)
	filter := logFilter{component: query.Get("component"), search: query.Get("search"), correlation: query.Get("correlation")}
	var err error
	filter.level, err = parseLevel(query.Get("level"))
	if err := errors.Join(err, shortSearch(filter.search)); err != nil {
		return nil, err
	}
	var feeds []*feed
	for _, topic := range slices.Compact(topics) {
		f, err := s.feed(topic, c, &filter)
		if err != nil {
			return nil, err
		}
		f.after = f.last()
		if text := query.Get(topic + "After"); text != "" {
			if f.after, err = strconv.ParseUint(text, 10, 64); err != nil {
				return nil, &FieldError{Path: topic + "After", Msg: fmt.Sprintf("%q is no number of an event", text)}
			}
		}
		feeds = append(feeds, f)
	}
	for _, f := range feeds {
		st.add(f)
	}
	if st.all {
		st.stops = append(st.stops, s.events.added.Watch(st.wake))
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		st.resume(id)
	}
	return st, nil
}

func (s *Server) feed(topic string, c *caller, filter *logFilter) (*feed, error) {
	switch topic {
	case topicLog:
		if s.opts.logs == nil {
			return nil, notConfigured("the log is")
		}
		return feedOf(topic, s.opts.logs.ring, func(r logRecord) (any, bool) { return filter.take(r) }), nil
	case topicSecurity:
		return feedOf(topic, s.events.security, func(e SecurityEvent) (any, bool) { return e, true }), nil
	case topicAudit:
		if c.identity.Role < RoleAdmin {
			e := errorf(CodeForbidden, "the audit log takes the role %s", RoleAdmin)
			e.Data = map[string]any{"role": RoleAdmin}
			return nil, e
		}
	}
	r := s.events.topic(topic)
	if r == nil {
		return nil, &FieldError{Path: "topics", Msg: fmt.Sprintf("there is no %q, but %s, %s and %s", topic, strings.Join(s.events.names(), ", "), topicLog, topicSecurity)}
	}
	return feedOf(topic, r, func(data json.RawMessage) (any, bool) { return data, true }), nil
}

// grow adds the topics that have come up, from their first event on.
func (s *Server) grow(st *stream, c *caller) {
	if !st.all {
		return
	}
	var names []string
	names, _, st.known = s.events.added.After(st.known, maxTopics)
	for _, topic := range names {
		if st.has(topic) {
			continue
		}
		if f, err := s.feed(topic, c, nil); err == nil { // it is there, and for everybody
			st.add(f)
		}
	}
}

// id says how far the reader is in each topic.
func (st *stream) id() string {
	var b strings.Builder
	b.WriteString(st.boot)
	for _, f := range st.feeds {
		fmt.Fprintf(&b, "-%s.%d", f.topic, f.after)
	}
	return b.String()
}

// resume goes on where a stream before has ended. What is from another process
// has other numbers: then all is lost.
func (st *stream) resume(id string) {
	boot, rest, _ := strings.Cut(id, "-")
	if boot != st.boot {
		st.lost(nil)
		return
	}
	for part := range strings.SplitSeq(rest, "-") {
		topic, number, _ := strings.Cut(part, ".")
		n, err := strconv.ParseUint(number, 10, 64)
		for _, f := range st.feeds {
			if f.topic == topic && err == nil && n <= f.last() {
				f.after = n
			}
		}
	}
}

// lost tells the reader what he missed, by topic: how many, 0 for unknown.
func (st *stream) lost(missed map[string]uint64) {
	if missed == nil {
		missed = map[string]uint64{}
		for _, f := range st.feeds {
			missed[f.topic] = 0
		}
	}
	data, err := marshal(map[string]any{"topics": missed})
	if err != nil { // unreachable: names and numbers
		return
	}
	st.event("lost", data)
}

func (st *stream) event(name string, data []byte) {
	fmt.Fprintf(&st.out, "id: %s\nevent: %s\ndata: %s\n\n", st.id(), name, data)
}

// collect puts what has come into out. It returns whether there may be more.
func (st *stream) collect() (more bool, err error) {
	lists, ends := make([][]numbered, len(st.feeds)), make([]uint64, len(st.feeds))
	missed := map[string]uint64{}
	for i, f := range st.feeds {
		var lost uint64
		if lists[i], lost, ends[i], err = f.read(f.after); err != nil {
			return false, err
		}
		more = more || ends[i] >= f.after+streamBatch
		if f.after += lost; lost > 0 && f.topic != topicStats && f.topic != topicHealth {
			missed[f.topic] = lost
		}
	}
	if len(missed) > 0 {
		st.lost(missed)
	}
	for i, f := range st.feeds {
		for _, one := range lists[i] {
			f.after = one.n
			st.event(f.topic, one.data)
		}
		f.after = ends[i]
	}
	return more, nil
}

// streamEvents serves events as they come (Server-Sent Events, in the HTML
// standard).
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	// A page of another origin could not read a stream, but hold many open.
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		writeRESTError(w, http.StatusForbidden, errorf(CodeForbidden, "a page of another origin may not do this"))
		return
	}
	run := s.running()
	c := s.identify(w, r, "")
	if c.identity == nil {
		writeRESTError(w, http.StatusUnauthorized, errorf(CodeUnauthenticated, "sign in first"))
		return
	}
	own := run.gate.accounts[c.identity.UserID].streams
	if !take(own) {
		tooManyStreams(w)
		return
	}
	defer release(own)
	if !take(run.streams) {
		tooManyStreams(w)
		return
	}
	defer release(run.streams)
	st, err := s.openStream(r, c)
	if err != nil {
		e := clientError(err)
		writeRESTError(w, e.status(), e)
		return
	}
	defer st.close()
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Time{}); err != nil { // that of the server is for a request's body
		s.log.Debug("a stream has no read deadline to lift", "err", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	st.out.WriteString("retry: 2000\n\n")
	if health, err := marshal(s.healthStatus(r.Context(), run, true)); err == nil && st.has(topicHealth) {
		st.event(topicHealth, health)
	}
	s.follow(r.Context(), run, c, st, func() error {
		if err := control.SetWriteDeadline(time.Now().Add(writePatient)); err != nil {
			return err
		}
		if _, err := st.out.WriteTo(w); err != nil {
			return err
		}
		st.out.Reset()
		return control.Flush()
	})
}

func tooManyStreams(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "10")
	writeRESTError(w, http.StatusServiceUnavailable, &Error{Code: "busy", Text: "too many streams are open", Data: map[string]any{"waitForMs": 10_000}})
}

func (st *stream) has(topic string) bool {
	return slices.ContainsFunc(st.feeds, func(f *feed) bool { return f.topic == topic })
}

// follow writes events until the reader goes, his session ends, or the Server
// stops.
func (s *Server) follow(ctx context.Context, run *run, c *caller, st *stream, write func() error) {
	own := c.session
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	expiry := time.NewTimer(own.Expires.Sub(s.now()))
	defer expiry.Stop()
	always := make(chan struct{})
	close(always)
	bye := func(reason string) {
		fmt.Fprintf(&st.out, "event: bye\ndata: {\"reason\":%q}\n\n", reason)
		write() // the stream ends in any case
	}
	for {
		s.grow(st, c)
		more, err := st.collect()
		if err != nil {
			s.log.Error("an event cannot be written", "err", err)
			return
		}
		if st.out.Len() > 0 {
			if err := write(); err != nil {
				return
			}
		}
		ready := st.wake
		if more { // and who has signed out gets nothing of it
			ready = always
		}
		select {
		case <-own.ended:
			bye("signed out")
			return
		case <-run.ctx.Done():
			bye("stopping")
			return
		default:
		}
		select {
		case <-ready:
		case <-alive.C:
			st.out.WriteString(": keep-alive\n\n")
		case <-own.ended:
			bye("signed out")
			return
		case <-expiry.C:
			bye("expired")
			return
		case <-run.ctx.Done():
			bye("stopping")
			return
		case <-ctx.Done():
			return
		}
	}
}
