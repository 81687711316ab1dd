package opsapi

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// routesResponse is of getRoutes.
type routesResponse struct {
	Routes  json.RawMessage `json:"routes" doc:"as in the configuration, with *** for secrets"`
	Version int             `json:"version"`
	Hash    string          `json:"hash"`
	Pending *pendingChange  `json:"pending,omitempty"`
}

func (r routesResponse) etag() string { return r.Hash }

type (
	routesRequest struct {
		Routes json.RawMessage `json:"routes"`
	}
	updateRoutesRequest struct {
		Routes json.RawMessage `json:"routes" doc:"all of them; *** keeps a secret"`
		changeRequest
	}
)

func (s *Server) registerRoutes() {
	m := &s.methods
	Handle(m, "getRoutes", RoleViewer, s.getRoutes, Doc("Returns the routes in force."))
	Handle(m, "validateRoutes", RoleOperator, s.validateRoutes, Doc("Says what is wrong with routes, and what they would change. Paths of problems begin with routes."), Unaudited())
	Handle(m, "updateRoutes", RoleOperator, s.updateRoutes, Doc("Puts routes into force, all of them or none. They are a part of the configuration: this makes a version of it."))
}

// routesHistory is history where it is known where the routes are.
func (s *Server) routesHistory() (*history, error) {
	h := s.running().history
	if h == nil || len(s.opts.routesAt) == 0 {
		return nil, notConfigured("routes are")
	}
	return h, nil
}

func (s *Server) getRoutes(ctx context.Context, _ struct{}) (routesResponse, error) {
	h, err := s.routesHistory()
	if err != nil {
		return routesResponse{}, err
	}
	current, err := h.get(ctx, 0)
	if err != nil {
		return routesResponse{}, err
	}
	routes := current.Configuration
	for _, name := range s.opts.routesAt {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(routes, &object); err != nil {
			return routesResponse{}, err
		}
		if routes = object[name]; isNothing(routes) {
			break
		}
	}
	if isNothing(routes) {
		routes = json.RawMessage("[]")
	}
	return routesResponse{routes, current.Version, current.Hash, current.Pending}, nil
}

func (s *Server) validateRoutes(ctx context.Context, req routesRequest) (validateResponse, error) {
	h, err := s.routesHistory()
	if err != nil {
		return validateResponse{}, err
	}
	response, err := h.validate(ctx, s.withRoutes(h, req.Routes))
	for i, c := range response.Changes {
		response.Changes[i].Path = s.routesPath(c.Path)
	}
	return response, err
}

func (s *Server) updateRoutes(ctx context.Context, req updateRoutesRequest) (Applied, error) {
	h, err := s.routesHistory()
	if err != nil {
		return Applied{}, err
	}
	ch, err := req.change(ctx)
	if err != nil {
		return Applied{}, err
	}
	ch.build = s.withRoutes(h, req.Routes)
	applied, err := h.applyFor(ctx, ch)
	for i, c := range applied.Changes {
		applied.Changes[i].Path = s.routesPath(c.Path)
	}
	return applied, s.routesErrors(err) // which applying it may bring, too
}

// withRoutes makes the configuration in force with other routes.
func (s *Server) withRoutes(h *history, routes json.RawMessage) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, current json.RawMessage) (json.RawMessage, error) {
		if isNothing(routes) {
			return nil, &FieldError{Path: "routes", Msg: "missing"}
		}
		shown, err := h.source.Redact(current)
		if err != nil {
			return nil, err
		}
		doc, err := put(shown, s.opts.routesAt, routes)
		if err != nil {
			return nil, err
		}
		parsed, err := h.source.Parse(ctx, doc, current)
		return parsed, s.routesErrors(err)
	}
}

// put returns the document with value at the path.
func put(doc json.RawMessage, path []string, value json.RawMessage) (json.RawMessage, error) {
	if len(path) == 0 {
		return value, nil
	}
	object := map[string]json.RawMessage{}
	if len(doc) > 0 {
		if err := json.Unmarshal(doc, &object); err != nil {
			return nil, err
		}
	}
	if object == nil { // of null
		object = map[string]json.RawMessage{}
	}
	inner, err := put(object[path[0]], path[1:], value)
	if err != nil {
		return nil, err
	}
	object[path[0]] = inner
	return marshal(object)
}

// routesErrors gives problems with routes the paths that whoever sent only
// routes knows.
func (s *Server) routesErrors(err error) error {
	if !isInvalid(err) {
		return err
	}
	var list []error
	for _, e := range conf.Fields(err) {
		list = append(list, &FieldError{Path: s.routesPath(e.Path), Msg: e.Msg, Err: e.Err})
	}
	return errors.Join(list...)
}

func (s *Server) routesPath(path string) string {
	rest, ok := strings.CutPrefix(path, strings.Join(s.opts.routesAt, "."))
	if ok && (rest == "" || rest[0] == '[' || rest[0] == '.') {
		return "routes" + rest
	}
	return path
}
