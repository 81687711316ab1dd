package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// contentSecurityPolicy allows pages what the dashboard does and nothing else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'self'; require-trusted-types-for 'script'"

// Handler returns the whole API, for a host that has an HTTP server of its own.
// It serves between Start and Stop.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /typedrequest", s.typedRequest)
	mux.HandleFunc("POST /api/v1/{method}", s.rest)
	mux.HandleFunc("GET /api/v1/events", s.streamEvents)
	mux.HandleFunc("GET /api/v1/openapi.json", s.describe)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /", s.asset)

	guarded := http.NewCrossOriginProtection()
	guarded.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeRESTError(w, http.StatusForbidden, errorf(CodeForbidden, "a page of another origin may not do this"))
	}))
	handler := guarded.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !s.running().serving() {
			h.Set("Retry-After", "1")
			http.Error(w, "not running", http.StatusServiceUnavailable)
			return
		}
		if from := parseAddr(r.RemoteAddr); !s.trusts(from) {
			s.running().crowd.note(r, from)
		}
		handler.ServeHTTP(w, r)
	})
}

// room bounds the bodies that are read at once: anybody may send one, and take
// his time.
type room struct{ small, large *places }

func newRoom() room {
	return room{small: newPlaces(maxSmall, maxSmall/4), large: newPlaces(maxLarge, maxLarge/2)}
}

// take reports whether there was room for one more.
func take(tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}:
		return true
	default:
		return false
	}
}

func release(tokens chan struct{}) { <-tokens }

// readBody reads a request's body; done makes room for the next. Strangers have
// room of their own, so that they cannot use up that of others, nor can one of
// them, or one user, use up all of it. Whoever sends his token in the body is one of
// them until it is read.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (body []byte, done func(), err error) {
	c := s.identify(w, r, "")
	in, who := s.running().strangers, holder(c.address)
	if c.identity != nil {
		in, who = s.running().bodies, c.name()
	}
	done = func() {}
	busy := &RetryError{After: s.busyTime, Reason: "too many requests are being read"}
	if !in.small.take(who) {
		s.running().crowd.full(holder(c.address))
		return nil, done, busy
	}
	defer in.small.release(who)
	limited := http.MaxBytesReader(w, r.Body, maxBody)
	body, err = io.ReadAll(io.LimitReader(limited, smallBody))
	if err != nil || len(body) < smallBody {
		return body, done, err
	}
	if !in.large.take(who) {
		s.running().crowd.full(holder(c.address))
		return nil, done, busy
	}
	done = func() { in.large.release(who) }
	rest, err := io.ReadAll(limited)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		err = errorf(CodeTooLarge, "the request is larger than %d bytes", maxBody)
	}
	return append(body, rest...), done, err
}

// invoke calls a method for a client: it finds out who asks, and whether he may.
func (s *Server) invoke(ctx context.Context, c *caller, name string, request json.RawMessage) (any, error) {
	m := s.methods.byName[name]
	if m == nil {
		return nil, unknownMethod()
	}
	if m.role > RolePublic && c.identity == nil {
		if c.failedAuth {
			return nil, errorf(CodeUnauthenticated, "the token is invalid or has expired: sign in again")
		}
		return nil, errorf(CodeUnauthenticated, "sign in first")
	}
	if m.role > RolePublic && c.identity.Role < m.role {
		e := errorf(CodeForbidden, "%s takes the role %s, and %q is %s", name, m.role, c.identity.UserID, c.identity.Role)
		e.Data = map[string]any{"role": m.role}
		s.reportOwn(SecurityEvent{Kind: "forbidden", Address: c.address, Subject: c.identity.UserID, Message: e.Text})
		return nil, e
	}
	r := s.running()
	if !take(r.slots) {
		r.refused.Add(1)
		return nil, &RetryError{After: s.busyTime, Reason: "too many requests are under way"}
	}
	defer release(r.slots)
	defer r.writes.begin(name)()
	response, err := m.call(context.WithValue(ctx, callerKey{}, c), request)
	var retry *RetryError
	if m.audited && !errors.As(err, &retry) {
		s.record(ctx, c, name, err)
	}
	return response, err
}

// record adds to the audit log.
func (s *Server) record(ctx context.Context, c *caller, method string, err error) {
	e := AuditEntry{Time: s.now().UTC(), User: c.name(), Address: c.address, Method: method, Outcome: outcomeOK, Detail: c.detail}
	if c.identity != nil {
		e.Role = c.identity.Role.String()
	}
	if err != nil {
		e.Outcome = outcomeError
		e.Detail = strings.TrimPrefix(e.Detail+": "+bounded(clientError(err).Text), ": ")
	}
	r := s.running()
	ctx, cancel := lasting(ctx, r.over, drainTime/2)
	defer cancel()
	added, err := r.audit.add(ctx, e)
	if err != nil {
		s.log.Error("the audit log cannot be written", "err", err, "user", e.User, "method", method, "outcome", e.Outcome, "detail", e.Detail)
		return
	}
	s.publishOwn(topicAudit, added)
}

// rest serves a method as plain JSON.
func (s *Server) rest(w http.ResponseWriter, r *http.Request) {
	body, done, err := s.readBody(w, r)
	defer done()
	var response any
	if err == nil {
		response, err = s.invoke(r.Context(), s.identify(w, r, tokenIn(body)), r.PathValue("method"), body)
	}
	if err == nil {
		if tagged, ok := response.(interface{ etag() string }); ok {
			w.Header().Set("ETag", strconv.Quote(tagged.etag()))
		}
		var data json.RawMessage
		if data, err = marshal(response); err == nil {
			writeJSON(w, http.StatusOK, data)
			return
		}
	}
	var retry *RetryError
	if errors.As(err, &retry) {
		w.Header().Set("Retry-After", strconv.Itoa(int((retry.After+time.Second-1)/time.Second)))
		e := &Error{Code: "busy", Text: retry.Reason, Data: map[string]any{"waitForMs": retry.After.Milliseconds()}}
		writeRESTError(w, http.StatusServiceUnavailable, e)
		return
	}
	e := clientError(err)
	if at, err := time.Parse(time.RFC3339, asText(e.Data["retryAt"])); err == nil {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(at.Sub(s.now()).Seconds()))))
	}
	writeRESTError(w, e.status(), e)
}

func asText(v any) string {
	s, _ := v.(string)
	return s
}

// wireError is how both forms of the API write an error.
type wireError struct {
	Text string         `json:"text"`
	Data map[string]any `json:"data"`
}

func writeRESTError(w http.ResponseWriter, status int, e *Error) {
	data, err := marshal(map[string]wireError{"error": {e.Text, e.data()}})
	if err != nil { // a host's Data that is no JSON
		data = []byte(`{"error":{"text":"the error cannot be shown","data":{}}}`)
	}
	writeJSON(w, status, data)
}

func writeJSON(w http.ResponseWriter, status int, data []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	w.Write(data) // whoever went away does not read it
}

// describe serves the OpenAPI document.
func (s *Server) describe(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.running().openAPI)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, []byte(`{"status":"ok"}`))
}

// readyz says whether all components are ready.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Ready      bool            `json:"ready"`
		Components map[string]bool `json:"components"`
	}{true, map[string]bool{}}
	for _, c := range s.components(r.Context()) {
		answer.Components[c.Name] = c.Ready
		answer.Ready = answer.Ready && c.Ready
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	data, err := marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, status, data)
}

// metrics serves the host's metrics to programs on this machine, to who has the
// token, and to who has signed in.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if s.opts.metrics == nil {
		http.NotFound(w, r)
		return
	}
	if !s.maySeeMetrics(w, r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "metrics are for programs on this machine, or with the token", http.StatusUnauthorized)
		return
	}
	s.opts.metrics.ServeHTTP(w, r)
}
