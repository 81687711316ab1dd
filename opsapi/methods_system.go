package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Bounds of lists.
const (
	defaultLimit = 100
	maxLimit     = 1000
	maxSearch    = 256 // bytes
)

// limited returns how many elements a request asks for.
func limited(limit int) (int, error) {
	switch {
	case limit == 0:
		return defaultLimit, nil
	case limit < 0 || limit > maxLimit:
		return 0, &FieldError{Path: "limit", Msg: fmt.Sprintf("%d is not between 1 and %d", limit, maxLimit)}
	}
	return limit, nil
}

// shortSearch bounds the text that a request looks for: all that is searched is
// compared with it.
func shortSearch(text string) error {
	if len(text) > maxSearch {
		return &FieldError{Path: "search", Msg: fmt.Sprintf("longer than %d bytes", maxSearch)}
	}
	return nil
}

// pageRequest is what requests for lists have in common.
type pageRequest struct {
	Search string `json:"search,omitempty" doc:"text that an element must contain, at most 256 bytes"`
	Limit  int    `json:"limit,omitempty" doc:"100 by default, at most 1000"`
	After  string `json:"after,omitempty" doc:"next of the page before"`
}

func (p pageRequest) page() (Page, error) {
	limit, err := limited(p.Limit)
	return Page{Search: p.Search, Limit: limit, After: p.After}, errors.Join(err, shortSearch(p.Search))
}

// healthResponse is of getHealthStatus.
type healthResponse struct {
	Status        string      `json:"status" doc:"healthy or degraded"`
	Time          time.Time   `json:"time"`
	UptimeSeconds int64       `json:"uptimeSeconds"`
	Version       string      `json:"version,omitempty"`
	Components    []Component `json:"components"`
}

// summary is what of it is worth an event.
func (h *healthResponse) summary() string {
	var b strings.Builder
	for _, c := range h.Components {
		fmt.Fprintf(&b, "%s %t %s\n", c.Name, c.Ready, c.Detail)
	}
	return b.String()
}

// statisticsResponse is of getServerStatistics.
type statisticsResponse struct {
	Time          time.Time       `json:"time"`
	UptimeSeconds int64           `json:"uptimeSeconds"`
	Stats         json.RawMessage `json:"stats"`
}

// limitsResponse is of getLimits.
type limitsResponse struct {
	Limits []Limit `json:"limits"`
}

// logsRequest is of getLogs.
type logsRequest struct {
	Level       string    `json:"level,omitempty" doc:"the least level: debug, info, warn or error"`
	Limit       int       `json:"limit,omitempty" doc:"100 by default, at most 1000"`
	Component   string    `json:"component,omitempty"`
	Search      string    `json:"search,omitempty" doc:"text in the message or an attribute, at most 256 bytes"`
	Correlation string    `json:"correlation,omitempty" doc:"the id of a connection, message or request"`
	Since       time.Time `json:"since,omitempty"`
	Before      uint64    `json:"before,omitempty" doc:"seq of the first entry of the page before"`
}

// logsResponse is of getLogs.
type logsResponse struct {
	Entries []LogEntry `json:"entries" doc:"the newest that fit, the oldest of them first"`
	More    bool       `json:"more" doc:"whether there are older ones"`
}

// securityRequest is of getSecurityEvents.
type securityRequest struct {
	Limit  int       `json:"limit,omitempty" doc:"100 by default, at most 1000"`
	Since  time.Time `json:"since,omitempty"`
	Kind   string    `json:"kind,omitempty"`
	Search string    `json:"search,omitempty" doc:"at most 256 bytes"`
	Before uint64    `json:"before,omitempty" doc:"seq of the last event of the page before"`
}

// securityResponse is of getSecurityEvents.
type securityResponse struct {
	Events []SecurityEvent `json:"events" doc:"the newest first"`
	More   bool            `json:"more"`
}

// reputationRequest is of checkReputation.
type reputationRequest struct {
	Address string `json:"address" doc:"an IP address"`
}

// auditRequest is of getAuditLog.
type auditRequest struct {
	Limit  int    `json:"limit,omitempty" doc:"100 by default, at most 1000"`
	Before uint64 `json:"before,omitempty" doc:"seq of the last entry of the page before"`
	User   string `json:"user,omitempty"`
	Search string `json:"search,omitempty" doc:"at most 256 bytes"`
}

// auditResponse is of getAuditLog.
type auditResponse struct {
	Entries []AuditEntry `json:"entries" doc:"the newest first"`
	More    bool         `json:"more"`
}

func (s *Server) registerSystem() {
	m := &s.methods
	Handle(m, "getHealthStatus", RolePublic, s.health, Doc("Tells how the components are; details to those who have signed in."))
	Handle(m, "getServerStatistics", RoleViewer, s.getStatistics, Doc("Returns the counters of all components."))
	Handle(m, "getLimits", RoleViewer, s.getLimits, Doc("Lists the limits in force and how full they are."))
	Handle(m, "getLogs", RoleViewer, s.getLogs, Doc("Looks up the last log entries."))
	Handle(m, "getSecurityEvents", RoleViewer, s.getSecurityEvents, Doc("Lists what hinted at an attack or abuse."))
	Handle(m, "checkReputation", RoleViewer, s.checkReputation, Doc("Asks the reputation services about an address."))
	Handle(m, "getAuditLog", RoleAdmin, s.getAuditLog, Doc("Lists who changed what."), Unaudited())
}

// components asks the host how they are.
func (s *Server) components(ctx context.Context) []Component {
	if s.opts.health == nil {
		return []Component{}
	}
	list := s.opts.health(ctx)
	if list == nil {
		list = []Component{}
	}
	return list
}

func (s *Server) healthStatus(ctx context.Context, r *run, details bool) healthResponse {
	now := s.now()
	h := healthResponse{Status: "healthy", Time: now.UTC(), UptimeSeconds: int64(now.Sub(r.started).Seconds()), Components: slices.Clone(s.components(ctx))}
	if details {
		h.Version = s.opts.version
	}
	for i := range h.Components {
		if !h.Components[i].Ready {
			h.Status = "degraded"
		}
		if !details {
			h.Components[i].Detail, h.Components[i].Addresses = "", nil
		}
	}
	return h
}

func (s *Server) health(ctx context.Context, _ struct{}) (healthResponse, error) {
	return s.healthStatus(ctx, s.running(), callerFrom(ctx).identity != nil), nil
}

func (s *Server) statistics(r *run) statisticsResponse {
	now := s.now()
	response := statisticsResponse{Time: now.UTC(), UptimeSeconds: int64(now.Sub(r.started).Seconds()), Stats: json.RawMessage("{}")}
	if s.opts.stats != nil {
		data, err := marshal(s.opts.stats())
		if err != nil {
			s.log.Error("the counters cannot be written", "err", err)
			return response
		}
		response.Stats = data
	}
	return response
}

func (s *Server) getStatistics(context.Context, struct{}) (statisticsResponse, error) {
	if s.opts.stats == nil {
		return statisticsResponse{}, notConfigured("statistics are")
	}
	return s.statistics(s.running()), nil
}

func (s *Server) getLimits(context.Context, struct{}) (limitsResponse, error) {
	if s.opts.limits == nil {
		return limitsResponse{}, notConfigured("limits are")
	}
	return limitsResponse{orEmpty(s.opts.limits())}, nil
}

func (s *Server) getLogs(_ context.Context, req logsRequest) (logsResponse, error) {
	if s.opts.logs == nil {
		return logsResponse{}, notConfigured("the log is")
	}
	limit, err := limited(req.Limit)
	if err := errors.Join(err, shortSearch(req.Search)); err != nil {
		return logsResponse{}, err
	}
	filter := logFilter{component: req.Component, search: req.Search, correlation: req.Correlation, since: req.Since}
	if filter.level, err = parseLevel(req.Level); err != nil {
		return logsResponse{}, err
	}
	response := logsResponse{Entries: []LogEntry{}}
	s.opts.logs.ring.Newest(req.Before, func(r logRecord) bool {
		e, ok := filter.take(r)
		if !ok {
			return true
		}
		if len(response.Entries) == limit {
			response.More = true
			return false
		}
		response.Entries = append(response.Entries, e)
		return true
	})
	slices.Reverse(response.Entries)
	return response, nil
}

func (s *Server) getSecurityEvents(_ context.Context, req securityRequest) (securityResponse, error) {
	limit, err := limited(req.Limit)
	if err := errors.Join(err, shortSearch(req.Search)); err != nil {
		return securityResponse{}, err
	}
	response := securityResponse{Events: []SecurityEvent{}}
	s.events.security.Newest(req.Before, func(e SecurityEvent) bool {
		text := strings.Join([]string{e.Kind, e.Component, e.Address.String(), e.Subject, e.Message, e.Correlation}, "\n")
		if e.Time.Before(req.Since) || req.Kind != "" && e.Kind != req.Kind || !containsFold(text, req.Search) {
			return true
		}
		if len(response.Events) == limit {
			response.More = true
			return false
		}
		response.Events = append(response.Events, e)
		return true
	})
	return response, nil
}

func (s *Server) checkReputation(ctx context.Context, req reputationRequest) (Reputation, error) {
	addr, err := netip.ParseAddr(req.Address)
	switch {
	case s.opts.reputation == nil:
		return Reputation{}, notConfigured("reputation services are")
	case err != nil || addr.Zone() != "":
		return Reputation{}, &FieldError{Path: "address", Msg: fmt.Sprintf("%q is not an IP address", req.Address)}
	}
	response, err := s.opts.reputation.CheckReputation(ctx, addr.Unmap().String())
	response.Listings = orEmpty(response.Listings)
	return response, err
}

func (s *Server) getAuditLog(ctx context.Context, req auditRequest) (auditResponse, error) {
	limit, err := limited(req.Limit)
	if err := errors.Join(err, shortSearch(req.Search)); err != nil {
		return auditResponse{}, err
	}
	response := auditResponse{Entries: []AuditEntry{}}
	err = s.running().audit.newest(ctx, req.Before, func(e AuditEntry) bool {
		text := strings.Join([]string{e.User, e.Address.String(), e.Method, e.Outcome, e.Detail}, "\n")
		if req.User != "" && e.User != req.User || !containsFold(text, req.Search) {
			return true
		}
		if len(response.Entries) == limit {
			response.More = true
			return false
		}
		response.Entries = append(response.Entries, e)
		return true
	})
	return response, err
}

// orEmpty makes lists in answers lists, also where there is nothing in them.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
