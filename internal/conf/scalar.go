package conf

import (
	"encoding"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"
	"time"
)

// mismatch reports that tok begins a value of the wrong type, and skips it.
func (d *decoder) mismatch(tok json.Token, v reflect.Value, p place, want string) {
	d.errorf(p.at, "want %s, got %s", want, describe(tok, d.schema.holdsSecret(v.Type())))
	d.skip(tok)
}

// describe names a value. The values of secrets are not shown, and neither is
// what stands where an object with a secret inside should: it may be the
// secret.
func describe(tok json.Token, hide bool) string {
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '[' {
			return "a list"
		}
		return "an object"
	case bool:
		return strconv.FormatBool(tok)
	case string:
		if hide {
			return "a string"
		}
		return "the string " + shortQuote(tok)
	case json.Number:
		if hide || len(tok) > maxShown {
			return "a number"
		}
		return "the number " + tok.String()
	}
	return "null"
}

func (d *decoder) scalar(tok json.Token, v reflect.Value, p place) {
	value := any(tok)
	if n, ok := tok.(json.Number); ok {
		f, err := n.Float64()
		if err != nil {
			d.errorf(p.at, "%s is out of range", describe(tok, d.schema.holdsSecret(v.Type())))
			return
		}
		value = f
	}
	if err := v.Addr().Interface().(ScalarUnmarshaler).UnmarshalScalar(value); err != nil {
		d.errorf(p.at, "%s", err)
	}
}

func (d *decoder) text(tok json.Token, v reflect.Value, p place) {
	s, ok := tok.(string)
	if !ok {
		d.mismatch(tok, v, p, "a string")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		d.errorf(p.at, "%s", err)
	}
}

func (d *decoder) str(tok json.Token, v reflect.Value, p place) {
	s, ok := tok.(string)
	if !ok {
		d.mismatch(tok, v, p, "a string")
		return
	}
	v.SetString(s)
}

func (d *decoder) boolean(tok json.Token, v reflect.Value, p place) {
	b, ok := tok.(bool)
	if !ok {
		d.mismatch(tok, v, p, "true or false")
		return
	}
	v.SetBool(b)
}

func (d *decoder) float(tok json.Token, v reflect.Value, p place) {
	n, ok := tok.(json.Number)
	if !ok {
		d.mismatch(tok, v, p, "a number")
		return
	}
	f, err := strconv.ParseFloat(n.String(), v.Type().Bits())
	if err != nil {
		d.errorf(p.at, "%s is out of range", describe(tok, false))
		return
	}
	v.SetFloat(f)
}

const wantDuration = `a duration such as "10s", or a number of milliseconds`

func (d *decoder) duration(tok json.Token, v reflect.Value, p place) {
	switch tok := tok.(type) {
	case string:
		if long, err := time.ParseDuration(tok); err == nil {
			v.SetInt(int64(long))
			return
		}
	case json.Number:
		const limit = math.MaxInt64 / int64(time.Millisecond)
		if ms, err := strconv.ParseInt(tok.String(), 10, 64); err == nil && -limit <= ms && ms <= limit {
			v.SetInt(ms * int64(time.Millisecond))
			return
		}
	}
	d.mismatch(tok, v, p, wantDuration)
}

func (d *decoder) integer(tok json.Token, v reflect.Value, p place) {
	want := "a number"
	for _, w := range p.words {
		if tok == w.text {
			v.SetInt(w.value)
			return
		}
		want += " or " + strconv.Quote(w.text)
	}
	n, ok := tok.(json.Number)
	if !ok {
		d.mismatch(tok, v, p, want)
		return
	}
	for _, w := range p.words {
		if n.String() == strconv.FormatInt(w.value, 10) { // how Go has it is no business of files
			d.mismatch(tok, v, p, want)
			return
		}
	}
	err := setInteger(v, n.String())
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.errorf(p.at, "%s is out of range", describe(tok, false))
	case err != nil:
		d.mismatch(tok, v, p, "a whole number")
	}
}

func setInteger(v reflect.Value, s string) error {
	bits := v.Type().Bits()
	if v.CanInt() {
		i, err := strconv.ParseInt(s, 10, bits)
		if err == nil {
			v.SetInt(i)
		}
		return err
	}
	u, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		// ParseUint calls a minus sign bad syntax; here it is out of range.
		if _, negative := strconv.ParseInt(s, 10, 64); negative == nil {
			return strconv.ErrRange
		}
		return err
	}
	v.SetUint(u)
	return nil
}
