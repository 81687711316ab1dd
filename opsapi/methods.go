package opsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Methods are what the API can do: each a TypedRequest method, a POST below
// /api/v1/, and a part of the OpenAPI document. See [Handle].
type Methods struct {
	byName map[string]*method
	errs   []error // found while methods were registered
}

// method is one of Methods.
type method struct {
	name              string
	role              Role // the least that may call it
	doc               string
	audited           bool
	request, response reflect.Type
	call              func(ctx context.Context, request json.RawMessage) (any, error)
}

// MethodOption says more about a method.
type MethodOption func(*method)

// Doc describes a method, in the OpenAPI document.
func Doc(text string) MethodOption { return func(m *method) { m.doc = text } }

// Unaudited keeps calls of a method out of the audit log. Without it all calls
// of methods that ask for more than RoleViewer go there.
func Unaudited() MethodOption { return func(m *method) { m.audited = false } }

// Handle registers a method. Req is a struct that the request is read into,
// strictly: by its json tags, as configurations are, fields of type
// [json.RawMessage] as they are. A tag doc describes a field. If it has a method
// Validate() error, that is called. Resp is anything that encoding/json writes.
// What fn may learn about the caller is in [IdentityFrom]; what its errors become
// is told at [Error].
//
// Register methods before Start, which reports those that are wrong.
func Handle[Req, Resp any](m *Methods, name string, role Role, fn func(ctx context.Context, req Req) (Resp, error), opts ...MethodOption) {
	one := &method{
		name: name, role: role, audited: role > RoleViewer,
		request: reflect.TypeFor[Req](), response: reflect.TypeFor[Resp](),
		call: func(ctx context.Context, request json.RawMessage) (any, error) {
			var req Req
			if err := decodeRequest(request, &req); err != nil {
				return nil, err
			}
			if v, ok := any(&req).(interface{ Validate() error }); ok {
				if err := v.Validate(); err != nil {
					return nil, err
				}
			}
			return fn(ctx, req)
		},
	}
	for _, o := range opts {
		o(one)
	}
	m.add(one)
}

func (m *Methods) add(one *method) {
	switch {
	case !validName(one.name):
		m.errs = append(m.errs, fmt.Errorf("opsapi: %q is no name of a method: letters, digits and _", one.name))
	case m.byName[one.name] != nil:
		m.errs = append(m.errs, fmt.Errorf("opsapi: the method %s is registered twice", one.name))
	case one.request.Kind() != reflect.Struct:
		m.errs = append(m.errs, fmt.Errorf("opsapi: the request of %s is no struct", one.name))
	default:
		if m.byName == nil {
			m.byName = map[string]*method{}
		}
		m.byName[one.name] = one
	}
}

// validName keeps names of methods and topics to what needs no escaping.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// list returns the methods by name.
func (m *Methods) list() []*method {
	var list []*method
	for _, one := range m.byName {
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b *method) int { return strings.Compare(a.name, b.name) })
	return list
}
