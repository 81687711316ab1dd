package conf

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// ScalarUnmarshaler is implemented, on the pointer, by types with a short form
// beside the object. UnmarshalScalar is given a string, a float64 or a bool.
type ScalarUnmarshaler interface {
	UnmarshalScalar(v any) error
}

// ScalarMarshaler is the way back, implemented on the value. MarshalScalar
// returns a string, an int, a float64 or a bool, and whether the value has a
// short form.
type ScalarMarshaler interface {
	MarshalScalar() (any, bool)
}

// field is one field of a struct, as JSON sees it.
type field struct {
	name  string
	index []int // for reflect.Value.FieldByIndex
	words []word
	key   bool
	alias string // another name that it may be read by, or ""
}

// word is a string that stands for a number.
type word struct {
	text  string
	value int64
}

// schema remembers the fields of the struct types met during one call.
type schema map[reflect.Type][]field

func (s schema) fields(t reflect.Type) []field {
	if fields, ok := s[t]; ok {
		return fields
	}
	fields := structFields(t)
	s[t] = fields
	return fields
}

func structFields(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct {
			for _, inner := range structFields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = addField(fields, inner)
			}
			continue
		}
		if !f.IsExported() || tag == "-" || !supported(f.Type) {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		one := field{name: tag, index: []int{i}}
		one.readTag(f.Tag.Get("conf"))
		fields = addField(fields, one)
	}
	return fields
}

// addField lets the outer of two fields with one name win, as Go does.
func addField(fields []field, f field) []field {
	for i, have := range fields {
		if have.name == f.name {
			if len(f.index) < len(have.index) {
				fields[i] = f
			}
			return fields
		}
	}
	return append(fields, f)
}

func (f *field) readTag(tag string) {
	for part := range strings.SplitSeq(tag, ",") {
		text, number, isWord := strings.Cut(part, "=")
		if part == "key" {
			f.key = true
		}
		if text == "alias" {
			f.alias = number
		}
		if value, err := strconv.ParseInt(number, 10, 64); isWord && err == nil {
			f.words = append(f.words, word{text, value})
		}
	}
}

// supported tells types that JSON can hold.
func supported(t reflect.Type) bool {
	if isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Struct, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Pointer, reflect.Slice:
		return supported(t.Elem())
	case reflect.Map:
		return t.Key().Kind() == reflect.String && supported(t.Elem())
	}
	return false
}

func isSecret(t reflect.Type) bool   { return t == reflect.TypeFor[Secret]() }
func isDuration(t reflect.Type) bool { return t == reflect.TypeFor[time.Duration]() }

func isText(t reflect.Type) bool {
	return t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isScalar(t reflect.Type) bool {
	return t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[ScalarUnmarshaler]())
}

// holdsSecret tells types with a Secret anywhere inside.
func (s schema) holdsSecret(t reflect.Type) bool {
	return s.findSecret(t, map[reflect.Type]bool{})
}

func (s schema) findSecret(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return s.findSecret(t.Elem(), seen)
	case reflect.Struct:
		for _, f := range s.fields(t) {
			if s.findSecret(t.FieldByIndex(f.index).Type, seen) {
				return true
			}
		}
	}
	return isSecret(t)
}
