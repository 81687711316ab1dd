package opsapi

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// object is a JSON object that is being made.
type object = map[string]any

// openAPI writes the OpenAPI 3.1 document of all methods.
func (m *Methods) openAPI(version string) ([]byte, error) {
	g := &schemaWriter{named: object{}, types: map[string]reflect.Type{}}
	paths := object{}
	for _, one := range m.list() {
		operation := object{
			"operationId": one.name,
			"tags":        []string{one.role.String()},
			"description": strings.TrimSpace(fmt.Sprintf("%s\n\nLeast role: %s.", one.doc, one.role)),
			"requestBody": object{"content": object{"application/json": object{"schema": g.schema(one.request)}}},
			"responses": object{
				"200":     object{"description": "The answer.", "content": object{"application/json": object{"schema": g.schema(one.response)}}},
				"default": object{"$ref": "#/components/responses/error"},
			},
		}
		if one.role == RolePublic {
			operation["security"] = []object{}
		}
		paths["/api/v1/"+one.name] = object{"post": operation}
	}
	if version == "" {
		version = "unknown"
	}
	return marshal(object{
		"openapi": "3.1.0",
		"info": object{"title": "dcrouter operations API", "version": version,
			"description": "Each method is also one of the TypedRequest protocol, at POST /typedrequest. Events are at GET /api/v1/events."},
		"paths":    paths,
		"security": []object{{"bearer": []string{}}, {"cookie": []string{}}, {"localCookie": []string{}}},
		"components": object{
			"schemas": g.named,
			"securitySchemes": object{
				"bearer": object{"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
				"cookie": object{"type": "apiKey", "in": "cookie", "name": cookieName},
				"localCookie": object{"type": "apiKey", "in": "cookie", "name": localCookieName,
					"description": "on the machine itself without TLS"},
			},
			"responses": object{"error": object{
				"description": "What went wrong; data.code says it for programs. " + http.StatusText(http.StatusServiceUnavailable) + " asks to try again.",
				"content": object{"application/json": object{"schema": object{
					"type": "object", "required": []string{"error"},
					"properties": object{"error": object{
						"type": "object", "required": []string{"text", "data"},
						"properties": object{"text": object{"type": "string"}, "data": object{"type": "object", "properties": object{"code": object{"type": "string"}}}},
					}},
				}}},
			}},
		},
	})
}

// schemaWriter makes JSON Schemas of Go types. Structs with a name become
// components.
type schemaWriter struct {
	named object
	types map[string]reflect.Type // what the components are of
}

func (g *schemaWriter) schema(t reflect.Type) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return g.schema(t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[conf.Secret]():
		return object{"type": "string", "format": "password"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	case t.Implements(reflect.TypeFor[json.Marshaler]()):
		return object{}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": g.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": g.schema(t.Elem())}
	case reflect.Struct:
		return g.structure(t)
	}
	return object{}
}

func (g *schemaWriter) structure(t reflect.Type) object {
	name := strings.ToUpper(t.Name()[:min(1, len(t.Name()))]) + t.Name()[min(1, len(t.Name())):]
	if strings.ContainsAny(name, "[]") { // of a generic type
		name = ""
	}
	if name == "" {
		return g.fields(t)
	}
	for g.types[name] != nil && g.types[name] != t {
		name += "_"
	}
	if g.types[name] == nil {
		g.types[name] = t // before its fields, among which it may be again
		g.named[name] = g.fields(t)
	}
	return object{"$ref": "#/components/schemas/" + name}
}

func (g *schemaWriter) fields(t reflect.Type) object {
	properties := object{}
	var required []string
	g.addFields(t, properties, &required)
	s := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (g *schemaWriter) addFields(t reflect.Type, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			g.addFields(f.Type, properties, required)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		field := g.schema(f.Type)
		if doc := f.Tag.Get("doc"); doc != "" {
			field["description"] = doc
		}
		properties[name] = field
		if !strings.Contains(options, "omit") && f.Tag.Get("optional") == "" {
			*required = append(*required, name)
		}
	}
}
