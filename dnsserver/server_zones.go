package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// ErrNoZone is the cause of errors about a zone that the server does not have,
// and about records that are in none of its zones.
var ErrNoZone = errors.New("no zone of this server has the name")

// ErrNotLoaded is the cause of errors about zones before Start, and about those
// that have expired because their primary server cannot be reached.
var ErrNotLoaded = errors.New("the zone is not loaded")

// Update makes changes of records. They are kept in the storage and visible to
// the next query when Update returns. Each zone has all of its changes or none:
// what would break a zone is refused whole, with a [*ZoneError]. Records in none
// of the zones are an error, of which [ErrNoZone] is the cause.
func (s *Server) Update(ctx context.Context, tx *Tx) error { return s.contents.update(ctx, tx) }

// Derive is [Server.Update] for records that the caller can find out again: they
// are not kept, so that the zone goes on to follow its file and the configuration
// in what they say about the same names. They are gone after a restart, and after
// [Server.Reload] of their zone; see [WithZoneChanged].
func (s *Server) Derive(ctx context.Context, tx *Tx) error { return s.contents.derive(ctx, tx) }

// UseStorage is [WithStorage] for hosts that have no storage yet when they make
// the Server. It holds from the next Start on.
func (s *Server) UseStorage(store *storage.Store) {
	s.start.Lock()
	defer s.start.Unlock()
	s.opts.store = store
}

// ZoneInfo is what a zone is like.
type ZoneInfo struct {
	// Name is the domain at its top, with final dot.
	Name string `json:"name"`
	// Serial is the serial number of the version that is served.
	Serial uint32 `json:"serial"`
	// Loaded is false if the zone is not served, because it has expired or has not
	// come yet.
	Loaded bool `json:"loaded"`
	// Names is how many names the zone has, those between others included.
	Names int `json:"names"`
}

// Zones lists the zones, by name. Before Start there are none.
func (s *Server) Zones() []ZoneInfo {
	var list []ZoneInfo
	for _, z := range s.contents.sorted() {
		list = append(list, z.info())
	}
	return list
}

func (z *servedZone) info() ZoneInfo {
	info := ZoneInfo{Name: nameText(z.name)}
	if now := z.ref.current.Load(); now != nil {
		info.Serial, info.Loaded, info.Names = now.serial(), true, now.nodes.size
	}
	return info
}

// Check reads the zone files, as Start would, and returns all mistakes in them.
func (s *Server) Check() error {
	list := zonesOf(&s.cfg)
	byZone, defaults := recordsByZone(s.cfg.Records, list), recordsByZone(s.cfg.DefaultRecords, list)
	var errs []error
	for i := range list {
		cfg := &list[i]
		_, err := readBase(cfg, byZone[canonical(cfg.Name)], defaults[canonical(cfg.Name)], s.cfg.NameServers, s.contents.now())
		if err != nil && i < len(s.cfg.Zones) {
			err = conf.Prefix(fmt.Sprintf("zones[%d]", i), err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Records iterates over the records of a zone as they are at the time of the
// call, in canonical order but for ALIAS records, which come first, and with
// what signing has added.
func (s *Server) Records(zone string) (iter.Seq[Record], error) {
	z, err := s.version(zone)
	if err != nil {
		return nil, err
	}
	return func(yield func(Record) bool) {
		for r := range z.contents() {
			if !yield(r.public()) {
				return
			}
		}
	}, nil
}

// Export writes a zone as a zone file (RFC 1035 section 5), with what signing
// has added.
func (s *Server) Export(w io.Writer, zone string) error {
	z, err := s.version(zone)
	if err != nil {
		return err
	}
	return writeZone(w, z, z.contents())
}

// version returns the present version of the zone of this name.
func (s *Server) version(name string) (*zone, error) {
	served, err := s.served(name)
	if err != nil {
		return nil, err
	}
	z := served.ref.current.Load()
	if z == nil {
		return nil, fmt.Errorf("%s: %w", nameText(served.name), ErrNotLoaded)
	}
	return z, nil
}

// Reload reads the zone files again. What is different in them becomes part of
// the zones as one change each; what was changed while the zone was served
// stays so. On an error the zones concerned stay as they are.
func (s *Server) Reload(ctx context.Context) error {
	return s.contents.reload(ctx, &s.cfg)
}
