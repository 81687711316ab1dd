package opsapi

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// decodeRequest reads a request into the struct that v points to, strictly; all
// mistakes come back at once, as FieldErrors. Fields of type json.RawMessage are
// taken as they are. The identity that a client may put into its request, since
// it can set no headers, is passed over.
func decodeRequest(request json.RawMessage, v any) error {
	rest := request
	if text := bytes.TrimSpace(request); isNothing(text) {
		rest = json.RawMessage("{}")
	} else if text[0] == '{' && json.Valid(text) {
		var err error
		if rest, err = takeRaw(text, rawFields(v)); err != nil {
			return err
		}
	}
	return conf.Decode(rest, v)
}

// isNothing reports whether a value is missing, or null.
func isNothing(value json.RawMessage) bool { return len(value) == 0 || string(value) == "null" }

// rawFields returns the fields of type json.RawMessage of the struct that v
// points to, by name.
func rawFields(v any) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		if f := s.Type().Field(i); f.IsExported() && f.Type == reflect.TypeFor[json.RawMessage]() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields[name] = s.Field(i)
		}
	}
	return fields
}

// takeRaw moves the named members of a valid object into fields, drops the
// identity, and returns an object of the others as they were, repeated ones
// included.
func takeRaw(object []byte, fields map[string]reflect.Value) (json.RawMessage, error) {
	out := []byte{'{'}
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.UseNumber()
	if _, err := dec.Token(); err != nil {
		return nil, &FieldError{Msg: err.Error()}
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, &FieldError{Msg: err.Error()}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, &FieldError{Msg: err.Error()}
		}
		key, _ := name.(string)
		if key == "identity" || key == "authInfo" {
			continue
		}
		if field, ok := fields[key]; ok {
			if !field.IsNil() {
				return nil, &FieldError{Path: key, Msg: "given twice"}
			}
			field.SetBytes(value)
			continue
		}
		quoted, err := json.Marshal(key)
		if err != nil {
			return nil, &FieldError{Msg: err.Error()}
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, quoted...), ':'), value...)
	}
	return append(out, '}'), nil
}

// tokenIn finds the token that a client may put into its request:
// identity.jwt, or authInfo.jwt.
func tokenIn(request json.RawMessage) string {
	type holder struct {
		JWT string `json:"jwt"`
	}
	var r struct {
		Identity holder `json:"identity"`
		AuthInfo holder `json:"authInfo"`
	}
	// What is wrong with the rest of the request is told when it is read.
	if err := json.Unmarshal(request, &r); err != nil {
		return ""
	}
	if r.Identity.JWT != "" {
		return r.Identity.JWT
	}
	return r.AuthInfo.JWT
}

// required adds a problem for each of the fields that is empty, for requests'
// Validate.
func required(fields ...[2]string) error {
	check := conf.NewChecker()
	for _, f := range fields {
		check.Field(f[0]).Required(f[1])
	}
	return check.Err()
}
