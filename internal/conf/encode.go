package conf

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Encode writes v as canonical JSON: compact, fields in the order of the
// struct, maps sorted by key, empty fields left out. Secrets are [Redacted]
// unless reveal is set. [Decode] reads it back to the same value.
func Encode(v any, reveal bool) ([]byte, error) {
	value := reflect.ValueOf(v)
	if !value.IsValid() || !supported(value.Type()) {
		return nil, &FieldError{Msg: fmt.Sprintf("cannot encode %T", v)}
	}
	e := &encoder{schema: schema{}, reveal: reveal}
	e.value(value, place{})
	if err := e.problems.err(); err != nil {
		return nil, err
	}
	return e.out.Bytes(), nil
}

type encoder struct {
	out      bytes.Buffer
	schema   schema
	problems errorList
	reveal   bool
}

func (e *encoder) value(v reflect.Value, p place) {
	t := v.Type()
	switch {
	case p.depth > maxDepth:
		e.problems.add(p.at.String(), "nested too deeply")
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			e.out.WriteString("null")
			return
		}
		e.value(v.Elem(), place{p.at, p.words, p.depth + 1})
	case isSecret(t):
		e.secret(Secret(v.String()))
	case e.short(v, p):
	case isText(t):
		e.text(v, p)
	case isDuration(t):
		e.scalar(time.Duration(v.Int()).String(), p)
	default:
		e.kind(v, p)
	}
}

func (e *encoder) kind(v reflect.Value, p place) {
	switch v.Kind() {
	case reflect.Struct:
		e.object(v, p)
	case reflect.Slice:
		e.list(v, p)
	case reflect.Map:
		e.table(v, p)
	case reflect.String:
		e.scalar(v.String(), p)
	case reflect.Bool:
		e.scalar(v.Bool(), p)
	case reflect.Float32:
		e.scalar(float32(v.Float()), p)
	case reflect.Float64:
		e.scalar(v.Float(), p)
	default:
		e.integer(v, p)
	}
}

func (e *encoder) secret(s Secret) {
	if e.reveal {
		e.scalar(s.Reveal(), place{})
		return
	}
	e.scalar(s.String(), place{})
}

// short writes the short form of a value that has one.
func (e *encoder) short(v reflect.Value, p place) bool {
	if m, ok := v.Interface().(ScalarMarshaler); ok {
		if scalar, ok := m.MarshalScalar(); ok {
			e.scalar(scalar, p)
			return true
		}
	}
	return false
}

func (e *encoder) text(v reflect.Value, p place) {
	m, ok := v.Interface().(encoding.TextMarshaler)
	if !ok {
		e.problems.add(p.at.String(), fmt.Sprintf("%s has no MarshalText", v.Type()))
		return
	}
	b, err := m.MarshalText()
	if err != nil {
		e.problems.add(p.at.String(), err.Error())
		return
	}
	e.scalar(string(b), p)
}

func (e *encoder) integer(v reflect.Value, p place) {
	if v.CanUint() {
		e.scalar(v.Uint(), p)
		return
	}
	for _, w := range p.words {
		if v.Int() == w.value {
			e.scalar(w.text, p)
			return
		}
	}
	e.scalar(v.Int(), p)
}

// scalar writes a string, number or boolean. Unlike json.Marshal it leaves
// < > & as they are: people read these files.
func (e *encoder) scalar(v any, p place) {
	enc := json.NewEncoder(&e.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // NaN and infinities
		e.problems.add(p.at.String(), err.Error())
		return
	}
	e.out.Truncate(e.out.Len() - 1) // Encode ends with a newline
}

func (e *encoder) object(v reflect.Value, p place) {
	e.out.WriteByte('{')
	first := true
	for _, f := range e.schema.fields(v.Type()) {
		inner := v.FieldByIndex(f.index)
		if e.empty(inner) {
			continue
		}
		e.name(f.name, &first)
		e.value(inner, p.inner(p.at.field(f.name), f.words))
	}
	e.out.WriteByte('}')
}

func (e *encoder) name(name string, first *bool) {
	if !*first {
		e.out.WriteByte(',')
	}
	*first = false
	e.scalar(name, place{})
	e.out.WriteByte(':')
}

func (e *encoder) list(v reflect.Value, p place) {
	e.out.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			e.out.WriteByte(',')
		}
		e.value(v.Index(i), p.inner(p.at.element(i), p.words))
	}
	e.out.WriteByte(']')
}

func (e *encoder) table(v reflect.Value, p place) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	e.out.WriteByte('{')
	first := true
	for _, k := range keys {
		e.name(k.String(), &first)
		e.value(v.MapIndex(k), p.inner(p.at.key(k.String()), p.words))
	}
	e.out.WriteByte('}')
}

// empty tells values that a field need not be written for: zero ones, and
// lists, maps and structs with nothing in them that JSON would show.
func (e *encoder) empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Float32, reflect.Float64:
		return v.Float() == 0
	}
	if v.IsZero() {
		return true
	}
	if v.Kind() != reflect.Struct || isText(v.Type()) {
		return false
	}
	if m, ok := v.Interface().(ScalarMarshaler); ok {
		if _, short := m.MarshalScalar(); short {
			return false
		}
	}
	for _, f := range e.schema.fields(v.Type()) {
		if !e.empty(v.FieldByIndex(f.index)) {
			return false
		}
	}
	return true
}

// Format is what types with secrets inside implement fmt.Formatter by. Package
// fmt passes over the Formatter of a [Secret] where it finds a verb wrong for a
// value around it, as in printing a pointer with %s.
func Format(w io.Writer, v any) {
	data, err := Encode(v, false)
	if err != nil {
		data = []byte("%!(" + err.Error() + ")")
	}
	w.Write(data)
}
