package opsapi

import (
	"context"

	"github.com/dcrouter/dcrouter/internal/conf"
)

type (
	zonesResponse struct {
		Zones []Zone `json:"zones"`
	}
	recordsRequest struct {
		Zone string `json:"zone"`
		pageRequest
	}
	recordsResponse struct {
		Records []Record `json:"records"`
		Next    string   `json:"next,omitempty"`
	}
	recordChangesRequest struct {
		Set    []Record `json:"set,omitempty" doc:"in place of all of the same name and type"`
		Add    []Record `json:"add,omitempty"`
		Remove []Record `json:"remove,omitempty" doc:"without a value all of the type, without a type all of the name"`
	}
	certificatesResponse struct {
		Certificates []Certificate `json:"certificates"`
	}
	nameRequest struct {
		Name string `json:"name"`
	}
	radiusSessionsResponse struct {
		Sessions []RADIUSSession `json:"sessions"`
		Next     string          `json:"next,omitempty"`
	}
	radiusClientsResponse struct {
		Clients []RADIUSClient `json:"clients"`
	}
	keyRequest struct {
		Key string `json:"key" doc:"of a session, as getRadiusSessions has it"`
	}
)

// Validate wants a zone.
func (r *recordsRequest) Validate() error { return required([2]string{"zone", r.Zone}) }

// Validate wants a name.
func (r *nameRequest) Validate() error { return required([2]string{"name", r.Name}) }

// Validate wants a key.
func (r *keyRequest) Validate() error { return required([2]string{"key", r.Key}) }

// Validate wants records that are whole.
func (r *recordChangesRequest) Validate() error {
	check := conf.NewChecker()
	if len(r.Set)+len(r.Add)+len(r.Remove) == 0 {
		check.Errorf("nothing to change")
	}
	whole := func(list string, records []Record) {
		for i, one := range records {
			at := check.Field(list).Index(i)
			at.Field("name").Required(one.Name)
			if list != "remove" {
				at.Field("type").Required(one.Type)
				at.Field("value").Required(one.Value)
			}
			at.Field("ttl").NotNegative(one.TTL)
		}
	}
	whole("set", r.Set)
	whole("add", r.Add)
	whole("remove", r.Remove)
	return check.Err()
}

func (s *Server) registerNetwork() {
	m := &s.methods
	Handle(m, "getDnsZones", RoleViewer, s.getZones, Doc("Lists the zones of the DNS server."))
	Handle(m, "getDnsRecords", RoleViewer, s.getRecords, Doc("Lists the records of a zone."))
	Handle(m, "updateDnsRecords", RoleOperator, s.updateRecords, Doc("Changes records, all as asked or none."))
	Handle(m, "getCertificates", RoleViewer, s.getCertificates, Doc("Lists certificates."))
	Handle(m, "renewCertificate", RoleOperator, s.renewCertificate, Doc("Has a new certificate obtained now."))
	Handle(m, "getRadiusSessions", RoleViewer, s.getRADIUSSessions, Doc("Lists the sessions that are open."))
	Handle(m, "getRadiusClients", RoleViewer, s.getRADIUSClients, Doc("Lists network access servers."))
	Handle(m, "disconnectRadiusSession", RoleOperator, s.disconnectRADIUS, Doc("Ends a session."))
}

func (s *Server) getZones(ctx context.Context, _ struct{}) (zonesResponse, error) {
	if s.opts.dns == nil {
		return zonesResponse{}, notConfigured("a DNS server is")
	}
	list, err := s.opts.dns.Zones(ctx)
	return zonesResponse{orEmpty(list)}, err
}

func (s *Server) getRecords(ctx context.Context, req recordsRequest) (recordsResponse, error) {
	if s.opts.dns == nil {
		return recordsResponse{}, notConfigured("a DNS server is")
	}
	p, err := req.page()
	if err != nil {
		return recordsResponse{}, err
	}
	list, next, err := s.opts.dns.Records(ctx, req.Zone, p)
	return recordsResponse{orEmpty(list), next}, err
}

func (s *Server) updateRecords(ctx context.Context, req recordChangesRequest) (nothing, error) {
	if s.opts.dns == nil {
		return nothing{}, notConfigured("a DNS server is")
	}
	callerFrom(ctx).note("set %d, add %d, remove %d records", len(req.Set), len(req.Add), len(req.Remove))
	for _, list := range [][]Record{req.Set, req.Add, req.Remove} {
		if len(list) > 0 {
			callerFrom(ctx).note("first %q", list[0].Name)
			break
		}
	}
	return nothing{}, s.opts.dns.UpdateRecords(ctx, RecordChanges(req))
}

func (s *Server) getCertificates(ctx context.Context, _ struct{}) (certificatesResponse, error) {
	if s.opts.certificates == nil {
		return certificatesResponse{}, notConfigured("certificates are")
	}
	list, err := s.opts.certificates.Certificates(ctx)
	return certificatesResponse{orEmpty(list)}, err
}

func (s *Server) renewCertificate(ctx context.Context, req nameRequest) (nothing, error) {
	if s.opts.certificates == nil {
		return nothing{}, notConfigured("certificates are")
	}
	callerFrom(ctx).note("%q", req.Name)
	return nothing{}, s.opts.certificates.Renew(ctx, req.Name)
}

func (s *Server) getRADIUSSessions(ctx context.Context, req pageRequest) (radiusSessionsResponse, error) {
	if s.opts.radius == nil {
		return radiusSessionsResponse{}, notConfigured("a RADIUS server is")
	}
	p, err := req.page()
	if err != nil {
		return radiusSessionsResponse{}, err
	}
	list, next, err := s.opts.radius.Sessions(ctx, p)
	return radiusSessionsResponse{orEmpty(list), next}, err
}

func (s *Server) getRADIUSClients(ctx context.Context, _ struct{}) (radiusClientsResponse, error) {
	if s.opts.radius == nil {
		return radiusClientsResponse{}, notConfigured("a RADIUS server is")
	}
	list, err := s.opts.radius.Clients(ctx)
	return radiusClientsResponse{orEmpty(list)}, err
}

func (s *Server) disconnectRADIUS(ctx context.Context, req keyRequest) (nothing, error) {
	if s.opts.radius == nil {
		return nothing{}, notConfigured("a RADIUS server is")
	}
	callerFrom(ctx).note("%q", req.Key)
	return nothing{}, s.opts.radius.Disconnect(ctx, req.Key)
}
