package email

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// routesKey is where the routes of UpdateRoutes are stored. All are in one value
// so that they change at once.
const routesKey = "email/routes.json"

// storedRoutes is the value at routesKey.
type storedRoutes struct {
	conf.Origin                 // the Config's routes that were in force before
	Routes      json.RawMessage `json:"routes"`
}

// routeList gives routes the form of a configuration.
type routeList struct {
	Routes []Route `json:"routes"`
}

// Routes returns a copy of the routes in force.
func (s *Server) Routes() []Route { return cloneRoutes(s.routes.Load().given) }

// UpdateRoutes replaces all routes, or on an error none. Messages whose sender
// has been taken (MAIL) go by the routes that were in force then; the next ones
// go by the new ones. What waits in the queue goes by the route of the same name,
// if new mail like it might leave by that, else by one that takes it now, or stays
// until there is one ([QueuedMessage.Stuck]). With a storage they outlast a restart, until New is given
// other routes than it was given before. Secrets that are *** keep their value.
func (s *Server) UpdateRoutes(ctx context.Context, routes []Route) error {
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	list := routeList{cloneRoutes(routes)}
	if err := conf.KeepSecrets(&list, routeList{s.routes.Load().given}); err != nil {
		return err
	}
	check := conf.NewChecker()
	check.Add(list.validate())
	s.opts.validatePlaces(check.Field("routes"), list.Routes, s.cfg.DataPath)
	checkRouteFiles(check.Field("routes"), list.Routes)
	if err := check.Err(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.opts.store != nil {
		text, err := conf.Encode(list, true)
		if err != nil {
			return err
		}
		value, err := json.Marshal(storedRoutes{conf.Origin{Given: s.configured}, text})
		if err != nil {
			return err
		}
		if err := s.opts.store.Put(ctx, routesKey, value); err != nil {
			return fmt.Errorf("email: the routes could not be stored: %w", err)
		}
	}
	s.routes.Store(compileRoutes(list.Routes, s.forwards()))
	if r := s.current(); r != nil {
		r.queue.retryAll() // what had no route may have one now
	}
	return nil
}

func (l *routeList) validate() error {
	check := conf.NewChecker()
	validateRoutes(check.Field("routes"), l.Routes)
	return check.Err()
}

// Restore puts the routes into force that are stored, as Start does, but sooner: for
// hosts that change them before anybody is served. It does nothing without
// [WithStorage].
func (s *Server) Restore(ctx context.Context) error { return s.loadRoutes(ctx) }

// loadRoutes puts the stored routes into force, if they follow those of Config.
func (s *Server) loadRoutes(ctx context.Context) error {
	if s.opts.store == nil {
		return nil
	}
	s.routesMu.Lock()
	defer s.routesMu.Unlock()
	value, err := s.opts.store.Get(ctx, routesKey)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	var stored storedRoutes
	var list routeList
	if err == nil {
		err = json.Unmarshal(value, &stored)
	}
	if err == nil && !conf.IsFrom[routeList](stored.Origin, s.configured) {
		s.log.Info("the configured routes are new, so the stored ones are not used")
		return nil
	}
	if err == nil {
		err = conf.Decode(stored.Routes, &list)
	}
	if err == nil {
		err = list.validate()
	}
	if err != nil {
		return fmt.Errorf("email: the stored routes (%s) cannot be used: %w", routesKey, err)
	}
	s.routes.Store(compileRoutes(list.Routes, s.forwards()))
	return nil
}

// cloneRoutes copies routes so that the host may change its own.
func cloneRoutes(routes []Route) []Route {
	list := slices.Clone(routes)
	for i := range list {
		list[i] = list[i].clone()
	}
	return list
}

func (r Route) clone() Route {
	r.Enabled = clonePtr(r.Enabled)
	m := &r.Match
	m.Recipients, m.Senders, m.ClientIP = slices.Clone(m.Recipients), slices.Clone(m.Senders), slices.Clone(m.ClientIP)
	m.Headers = maps.Clone(m.Headers)
	m.Authenticated, m.HasAttachments = clonePtr(m.Authenticated), clonePtr(m.HasAttachments)
	a := &r.Action
	if a.Forward = clonePtr(a.Forward); a.Forward != nil {
		a.Forward.Auth = clonePtr(a.Forward.Auth)
		a.Forward.AddHeaders = maps.Clone(a.Forward.AddHeaders)
	}
	if a.Process = clonePtr(a.Process); a.Process != nil {
		a.Process.DKIM = clonePtr(a.Process.DKIM)
	}
	a.Deliver, a.Reject = clonePtr(a.Deliver), clonePtr(a.Reject)
	return r
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
