package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/opsapi/internal/jsondiff"
)

// Bounds of the time to confirm a change in.
const (
	minConfirm = 5    // seconds
	maxConfirm = 3600 // seconds
)

// changeRequest is what requests for changes have in common.
type changeRequest struct {
	IfMatch              string `json:"ifMatch,omitempty" doc:"the hash that the configuration must have, so that nobody else's change is lost"`
	ConfirmWithinSeconds int    `json:"confirmWithinSeconds,omitempty" doc:"5 to 3600: the change takes itself back unless it is confirmed by then"`
	Comment              string `json:"comment,omitempty" doc:"why, for the history"`
}

// change checks the request.
func (r changeRequest) change(ctx context.Context) (change, error) {
	c := callerFrom(ctx)
	ch := change{author: c.name(), comment: r.Comment, ifMatch: r.IfMatch, confirmWithin: time.Duration(r.ConfirmWithinSeconds) * time.Second}
	if ch.ifMatch == "" {
		ch.ifMatch = c.ifMatch
	}
	if n := r.ConfirmWithinSeconds; n != 0 && (n < minConfirm || n > maxConfirm) {
		return ch, &FieldError{Path: "confirmWithinSeconds", Msg: fmt.Sprintf("%d is not between %d and %d", n, minConfirm, maxConfirm)}
	}
	return ch, shortComment(r.Comment)
}

// pendingChange is a change that waits to be confirmed.
type pendingChange struct {
	Version   int       `json:"version"`
	ConfirmBy time.Time `json:"confirmBy"`
	Previous  int       `json:"previous" doc:"the version that comes back"`
}

// configurationResponse is of getConfiguration.
type configurationResponse struct {
	Configuration json.RawMessage `json:"configuration" doc:"with *** for secrets"`
	Version       int             `json:"version"`
	Hash          string          `json:"hash"`
	Author        string          `json:"author"`
	Time          time.Time       `json:"time"`
	Comment       string          `json:"comment,omitempty"`
	Pending       *pendingChange  `json:"pending,omitempty"`
}

func (r configurationResponse) etag() string { return r.Hash }

// validateResponse says what is wrong and what would change.
type validateResponse struct {
	Valid    bool              `json:"valid"`
	Problems []fieldProblem    `json:"problems"`
	Changes  []jsondiff.Change `json:"changes"`
}

// versionInfo is a version in the history.
type versionInfo struct {
	Version int       `json:"version"`
	Hash    string    `json:"hash"`
	Author  string    `json:"author"`
	Time    time.Time `json:"time"`
	Comment string    `json:"comment,omitempty"`
	State   string    `json:"state" doc:"current, pending, past or reverted"`
}

// historyResponse is of getConfigurationHistory.
type historyResponse struct {
	Versions []versionInfo `json:"versions" doc:"the newest first"`
	More     bool          `json:"more"`
}

// diffResponse is of getConfigurationDiff.
type diffResponse struct {
	From    int               `json:"from"`
	To      int               `json:"to"`
	Changes []jsondiff.Change `json:"changes"`
}

type (
	versionRequest struct {
		Version int `json:"version"`
	}
	optionalVersionRequest struct {
		Version int `json:"version,omitempty" doc:"the one in force by default"`
	}
	documentRequest struct {
		Configuration json.RawMessage `json:"configuration"`
	}
	updateRequest struct {
		Configuration json.RawMessage `json:"configuration" doc:"all of it; *** keeps a secret"`
		changeRequest
	}
	rollbackRequest struct {
		Version int `json:"version"`
		changeRequest
	}
	historyRequest struct {
		Limit  int `json:"limit,omitempty" doc:"100 by default, at most 1000"`
		Before int `json:"before,omitempty" doc:"the last version of the page before"`
	}
	diffRequest struct {
		From int `json:"from,omitempty" doc:"the one before to by default"`
		To   int `json:"to,omitempty" doc:"the one in force by default"`
	}
)

func (s *Server) registerConfiguration() {
	m := &s.methods
	Handle(m, "getConfiguration", RoleViewer, s.getConfiguration, Doc("Returns the configuration in force, or that of an earlier version."))
	// Not for operators: whether a secret in it is the one in force shows in the answer.
	Handle(m, "validateConfiguration", RoleAdmin, s.validateConfiguration, Doc("Says what is wrong with a configuration, and what it would change."), Unaudited())
	Handle(m, "updateConfiguration", RoleAdmin, s.updateConfiguration, Doc("Puts a configuration into force, or says what is wrong with it and changes nothing."))
	Handle(m, "confirmConfiguration", RoleOperator, s.confirmConfiguration, Doc("Makes a change stay that waits to be confirmed."))
	Handle(m, "revertConfiguration", RoleOperator, s.revertConfiguration, Doc("Takes a change back that waits to be confirmed."))
	Handle(m, "rollbackConfiguration", RoleAdmin, s.rollbackConfiguration, Doc("Puts an earlier version into force again, as a new version."))
	Handle(m, "getConfigurationHistory", RoleViewer, s.getHistory, Doc("Lists the versions of the configuration."))
	Handle(m, "getConfigurationDiff", RoleViewer, s.getDiff, Doc("Compares two versions."))
}

// history returns that of the configuration, if there is one.
func (s *Server) history() (*history, error) {
	if h := s.running().history; h != nil {
		return h, nil
	}
	return nil, notConfigured("the configuration is")
}

func (h *history) pendingChange() *pendingChange {
	if !h.v.head.pending() {
		return nil
	}
	return &pendingChange{h.v.head.Current, h.v.head.ConfirmBy, h.v.head.Confirmed}
}

func (s *Server) getConfiguration(ctx context.Context, req optionalVersionRequest) (configurationResponse, error) {
	h, err := s.history()
	if err != nil {
		return configurationResponse{}, err
	}
	return h.get(ctx, req.Version)
}

// get returns a version as clients see it, 0 being the one in force.
func (h *history) get(ctx context.Context, version int) (configurationResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	doc, r, err := h.sync(ctx)
	if err != nil {
		return configurationResponse{}, err
	}
	if version != 0 {
		if doc, err = h.v.document(ctx, version); err != nil {
			return configurationResponse{}, err
		}
		r, _ = h.v.find(version)
	}
	shown, err := h.source.Redact(doc)
	return configurationResponse{shown, r.Version, r.Hash, r.Author, r.Time, r.Comment, h.pendingChange()}, err
}

func (s *Server) validateConfiguration(ctx context.Context, req documentRequest) (validateResponse, error) {
	h, err := s.history()
	if err != nil {
		return validateResponse{}, err
	}
	return h.validate(ctx, func(ctx context.Context, current json.RawMessage) (json.RawMessage, error) {
		return h.parse(ctx, req.Configuration, current)
	})
}

// parse reads what a client sent.
func (h *history) parse(ctx context.Context, doc, current json.RawMessage) (json.RawMessage, error) {
	if isNothing(doc) {
		return nil, &FieldError{Path: "configuration", Msg: "missing"}
	}
	return h.source.Parse(ctx, doc, current)
}

func (h *history) validate(ctx context.Context, build func(context.Context, json.RawMessage) (json.RawMessage, error)) (validateResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	current, _, err := h.sync(ctx)
	if err != nil {
		return validateResponse{}, err
	}
	doc, err := build(ctx, current)
	if isInvalid(err) {
		return validateResponse{Problems: problemsOf(err), Changes: []jsondiff.Change{}}, nil
	}
	if err != nil {
		return validateResponse{}, err
	}
	changes, err := h.diff(current, doc)
	return validateResponse{Valid: true, Problems: []fieldProblem{}, Changes: changes}, err
}

func (s *Server) updateConfiguration(ctx context.Context, req updateRequest) (Applied, error) {
	h, err := s.history()
	if err != nil {
		return Applied{}, err
	}
	ch, err := req.change(ctx)
	if err != nil {
		return Applied{}, err
	}
	ch.build = func(ctx context.Context, current json.RawMessage) (json.RawMessage, error) {
		return h.parse(ctx, req.Configuration, current)
	}
	return h.applyFor(ctx, ch)
}

// applyFor is apply that leaves a note for the audit log.
func (h *history) applyFor(ctx context.Context, ch change) (Applied, error) {
	applied, err := h.apply(ctx, ch)
	if err == nil {
		callerFrom(ctx).note("version %d, %d changes", applied.Version, len(applied.Changes))
	}
	return applied, err
}

func (s *Server) confirmConfiguration(ctx context.Context, req versionRequest) (Applied, error) {
	h, err := s.history()
	if err != nil {
		return Applied{}, err
	}
	callerFrom(ctx).note("version %d", req.Version)
	return h.confirm(ctx, req.Version)
}

func (s *Server) revertConfiguration(ctx context.Context, req versionRequest) (Applied, error) {
	h, err := s.history()
	if err != nil {
		return Applied{}, err
	}
	callerFrom(ctx).note("version %d", req.Version)
	return h.revert(ctx, req.Version)
}

func (s *Server) rollbackConfiguration(ctx context.Context, req rollbackRequest) (Applied, error) {
	h, err := s.history()
	if err != nil {
		return Applied{}, err
	}
	ch, err := req.change(ctx)
	if err != nil {
		return Applied{}, err
	}
	if ch.comment == "" {
		ch.comment = fmt.Sprintf("back to version %d", req.Version)
	}
	ch.build = func(ctx context.Context, current json.RawMessage) (json.RawMessage, error) {
		doc, err := h.v.document(ctx, req.Version)
		if err != nil {
			return nil, err
		}
		return h.source.Parse(ctx, doc, current) // what was valid once need not be now
	}
	return h.applyFor(ctx, ch)
}

func (s *Server) getHistory(ctx context.Context, req historyRequest) (historyResponse, error) {
	h, err := s.history()
	if err != nil {
		return historyResponse{}, err
	}
	limit, err := limited(req.Limit)
	if err != nil {
		return historyResponse{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, _, err := h.sync(ctx); err != nil {
		return historyResponse{}, err
	}
	response := historyResponse{Versions: []versionInfo{}}
	for i := len(h.v.list) - 1; i >= 0; i-- {
		r := &h.v.list[i]
		if req.Before > 0 && r.Version >= req.Before {
			continue
		}
		if len(response.Versions) == limit {
			response.More = true
			break
		}
		response.Versions = append(response.Versions, versionInfo{r.Version, r.Hash, r.Author, r.Time, r.Comment, h.v.state(r)})
	}
	return response, nil
}

func (s *Server) getDiff(ctx context.Context, req diffRequest) (diffResponse, error) {
	h, err := s.history()
	if err != nil {
		return diffResponse{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, _, err := h.sync(ctx); err != nil {
		return diffResponse{}, err
	}
	response := diffResponse{From: req.From, To: req.To, Changes: []jsondiff.Change{}}
	if response.To == 0 {
		response.To = h.v.head.Current
	}
	for _, r := range h.v.list {
		if req.From == 0 && r.Version < response.To {
			response.From = r.Version
		}
	}
	if response.From == 0 { // the first version
		response.From = response.To
	}
	from, errFrom := h.v.document(ctx, response.From)
	to, errTo := h.v.document(ctx, response.To)
	if err := errors.Join(errFrom, errTo); err != nil {
		return response, err
	}
	response.Changes, err = h.diff(from, to)
	return response, err
}
