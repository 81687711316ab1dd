package conf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// maxDepth bounds how deeply objects and lists nest.
const maxDepth = 64

// Decode reads the JSON document data into what v points to. It reports all
// problems at once, in the order of the document, as joined [FieldError]s, and
// fills what it can. Fields that data does not mention keep their values, but
// nothing that v shares with another value by pointer, list or map is changed.
//
// Data that is no JSON at all is one problem, with line and column.
func Decode(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() || !supported(target.Type()) {
		return &FieldError{Msg: fmt.Sprintf("cannot decode into %T", v)}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if err := checkSyntax(data); err != nil {
		return err
	}
	d := &decoder{tokens: json.NewDecoder(bytes.NewReader(data)), schema: schema{}}
	d.tokens.UseNumber()
	d.next(target.Elem(), place{})
	return d.problems.err()
}

// checkSyntax makes sure that data is one JSON value and nothing more, so that
// the decoder need not expect anything else.
func checkSyntax(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return &FieldError{Msg: "line 1, column 1: empty, want a JSON document"}
	}
	if !utf8.Valid(data) {
		return syntaxError(data, invalidUTF8(data), "invalid UTF-8")
	}
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		at := int(syntax.Offset)
		if at > 0 && at <= len(data) && syntax.Error() != "unexpected end of JSON input" {
			at-- // the offset counts the offending byte
		}
		return syntaxError(data, at, syntax.Error())
	}
	if err != nil {
		return &FieldError{Msg: err.Error()}
	}
	return nil
}

func syntaxError(data []byte, offset int, msg string) error {
	before := data[:min(max(offset, 0), len(data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return &FieldError{Msg: fmt.Sprintf("line %d, column %d: %s", line, column, msg)}
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// decoder reads tokens straight into values. It builds no tree: what it
// allocates is what the document fills.
type decoder struct {
	tokens   *json.Decoder
	schema   schema
	problems errorList
	stopped  bool
}

// place is where the decoder is and what it knows of the field there.
type place struct {
	at    *path
	words []word
	depth int
}

func (p place) inner(at *path, words []word) place {
	return place{at: at, words: words, depth: p.depth + 1}
}

func (d *decoder) errorf(at *path, format string, args ...any) {
	if !d.problems.add(at.String(), fmt.Sprintf(format, args...)) {
		d.stopped = true
	}
}

func (d *decoder) token() json.Token {
	tok, err := d.tokens.Token()
	if err != nil { // the syntax was checked, so this is a bug
		d.problems.add("", err.Error())
		d.stopped = true
	}
	return tok
}

func (d *decoder) more() bool { return !d.stopped && d.tokens.More() }

// skip passes over the rest of the value that tok begins.
func (d *decoder) skip(tok json.Token) {
	open := 0
	for {
		switch tok {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
		if open == 0 || d.stopped {
			return
		}
		tok = d.token()
	}
}

// next reads the next value into v.
func (d *decoder) next(v reflect.Value, p place) {
	if tok := d.token(); !d.stopped {
		d.value(tok, v, p)
	}
}

// value reads the value that tok begins into v.
func (d *decoder) value(tok json.Token, v reflect.Value, p place) {
	t := v.Type()
	_, compound := tok.(json.Delim)
	switch {
	case p.depth > maxDepth:
		d.errorf(p.at, "nested too deeply")
		d.skip(tok)
	case tok == nil:
		v.SetZero()
	case t.Kind() == reflect.Pointer:
		fresh := reflect.New(t.Elem())
		d.value(tok, fresh.Elem(), place{p.at, p.words, p.depth + 1})
		v.Set(fresh)
	case isScalar(t) && !compound:
		d.scalar(tok, v, p)
	case isText(t):
		d.text(tok, v, p)
	case isDuration(t):
		d.duration(tok, v, p)
	default:
		d.kind(tok, v, p)
	}
}

func (d *decoder) kind(tok json.Token, v reflect.Value, p place) {
	switch v.Kind() {
	case reflect.Struct:
		d.object(tok, v, p)
	case reflect.Slice:
		d.list(tok, v, p)
	case reflect.Map:
		d.table(tok, v, p)
	case reflect.String:
		d.str(tok, v, p)
	case reflect.Bool:
		d.boolean(tok, v, p)
	case reflect.Float32, reflect.Float64:
		d.float(tok, v, p)
	default:
		d.integer(tok, v, p)
	}
}

func (d *decoder) object(tok json.Token, v reflect.Value, p place) {
	if tok != json.Delim('{') {
		d.mismatch(tok, v, p, "an object")
		return
	}
	fields := d.schema.fields(v.Type())
	read := "" // the last field with two names
	d.members(p.at.field, func(name string, at *path) {
		for _, f := range fields {
			if f.name == name || f.alias != "" && f.alias == name {
				if f.alias != "" && read == f.name {
					d.errorf(at, "given twice: %s and %s are one", f.name, f.alias)
					d.skip(d.token())
					return
				}
				if f.alias != "" {
					read = f.name
				}
				d.next(v.FieldByIndex(f.index), p.inner(at, f.words))
				return
			}
		}
		d.unknown(name, fields, at)
		d.skip(d.token())
	})
}

func (d *decoder) unknown(name string, fields []field, at *path) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	if near := Nearest(name, names); near != "" {
		d.errorf(at, "unknown field, did you mean %q?", near)
		return
	}
	d.errorf(at, "unknown field")
}

// members calls read for each name of the object that has just begun. Step
// makes the path to a name. Read must take the value.
func (d *decoder) members(step func(name string) *path, read func(name string, at *path)) {
	seen := map[string]bool{}
	for d.more() {
		name, _ := d.token().(string)
		if seen[name] {
			d.errorf(step(name), "given twice")
			d.skip(d.token())
			continue
		}
		seen[name] = true
		read(name, step(name))
	}
	d.end()
}

func (d *decoder) list(tok json.Token, v reflect.Value, p place) {
	t := v.Type()
	if tok != json.Delim('[') {
		d.bare(tok, v, p)
		return
	}
	list := reflect.Zero(t)
	for i := 0; d.more(); i++ {
		element := reflect.New(t.Elem()).Elem()
		d.next(element, p.inner(p.at.element(i), p.words))
		list = reflect.Append(list, element)
	}
	d.end()
	v.Set(list)
}

// bare reads a value that stands where a list could.
func (d *decoder) bare(tok json.Token, v reflect.Value, p place) {
	of := v.Type().Elem()
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() == reflect.Struct && !isScalar(of) && !isText(of) && tok != json.Delim('{') {
		d.mismatch(tok, v, p, "a list")
		return
	}
	list := reflect.MakeSlice(v.Type(), 1, 1)
	at := p.at
	if tok == json.Delim('{') {
		at = at.element(0) // as whoever checks the fields of the element will say
	}
	d.value(tok, list.Index(0), p.inner(at, p.words))
	v.Set(list)
}

func (d *decoder) table(tok json.Token, v reflect.Value, p place) {
	if tok != json.Delim('{') {
		d.mismatch(tok, v, p, "an object")
		return
	}
	t := v.Type()
	table := reflect.MakeMap(t)
	d.members(p.at.key, func(name string, at *path) {
		value := reflect.New(t.Elem()).Elem()
		d.next(value, p.inner(at, p.words))
		table.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), value)
	})
	if table.Len() == 0 {
		table = reflect.Zero(t)
	}
	v.Set(table)
}

// end takes the token that closes an object or a list.
func (d *decoder) end() {
	if !d.stopped {
		d.token()
	}
}
