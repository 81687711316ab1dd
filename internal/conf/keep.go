package conf

import (
	"fmt"
	"reflect"
)

// KeepSecrets gives every [Secret] in what v points to that is [Redacted] the
// value of the secret at the same place in prev, which is of the same type or
// a pointer to it. It lets a client that was shown only *** send a
// configuration back.
//
// The same place means: the same field, the same map key, and in lists the
// element with the same identity, which is what its fields tagged conf:"key"
// hold. Elements without such fields, or with nothing in them, go by index.
// Outside of lists, a struct whose identity has changed has no counterpart: a
// password must not follow a host name to another host. A secret without a
// counterpart is a [FieldError].
func KeepSecrets(v, prev any) error {
	to, from := reflect.ValueOf(v), reflect.ValueOf(prev)
	if to.Kind() != reflect.Pointer || to.IsNil() {
		return &FieldError{Msg: fmt.Sprintf("cannot keep secrets in %T", v)}
	}
	to = to.Elem()
	for from.Kind() == reflect.Pointer && from.Type() != to.Type() {
		from = from.Elem()
	}
	if from.IsValid() && from.Type() != to.Type() {
		return &FieldError{Msg: fmt.Sprintf("cannot keep secrets of %T in %T", prev, v)}
	}
	k := &keeper{schema: schema{}, holds: map[reflect.Type]bool{}}
	k.value(to, from, nil)
	return k.problems.err()
}

type keeper struct {
	schema   schema
	holds    map[reflect.Type]bool // what schema.holdsSecret said
	problems errorList
}

func (k *keeper) relevant(t reflect.Type) bool {
	known, ok := k.holds[t]
	if !ok {
		known = k.schema.holdsSecret(t)
		k.holds[t] = known
	}
	return known
}

// value walks to, which is addressable. From is invalid where prev has no
// counterpart.
func (k *keeper) value(to, from reflect.Value, at *path) {
	switch {
	case !k.relevant(to.Type()):
	case isSecret(to.Type()):
		k.secret(to, from, at)
	case to.Kind() == reflect.Pointer:
		if to.IsNil() {
			return
		}
		if from.IsValid() {
			from = from.Elem()
		}
		k.value(to.Elem(), from, at)
	case to.Kind() == reflect.Struct:
		if from.IsValid() && k.identity(to) != k.identity(from) {
			from = reflect.Value{}
		}
		for _, f := range k.schema.fields(to.Type()) {
			inner := reflect.Value{}
			if from.IsValid() {
				inner = from.FieldByIndex(f.index)
			}
			k.value(to.FieldByIndex(f.index), inner, at.field(f.name))
		}
	case to.Kind() == reflect.Slice:
		k.list(to, from, at)
	case to.Kind() == reflect.Map:
		k.table(to, from, at)
	}
}

func (k *keeper) secret(to, from reflect.Value, at *path) {
	if to.String() != Redacted {
		return
	}
	if !from.IsValid() || from.String() == "" || from.String() == Redacted {
		k.problems.add(at.String(), Redacted+" stands for a secret that is not known here: give its value")
		return
	}
	to.SetString(from.String())
}

func (k *keeper) list(to, from reflect.Value, at *path) {
	known := map[string]reflect.Value{}
	if from.IsValid() {
		for i := range from.Len() {
			id := k.identity(from.Index(i))
			if _, taken := known[id]; id != "" && !taken {
				known[id] = from.Index(i)
			}
		}
	}
	for i := range to.Len() {
		counterpart := reflect.Value{}
		if id := k.identity(to.Index(i)); id != "" {
			counterpart = known[id]
		} else if from.IsValid() && i < from.Len() && k.identity(from.Index(i)) == "" {
			counterpart = from.Index(i)
		}
		k.value(to.Index(i), counterpart, at.element(i))
	}
}

// identity joins the fields tagged conf:"key". It is "" if there are none or
// they are empty.
func (k *keeper) identity(v reflect.Value) string {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return ""
	}
	id := ""
	for _, f := range k.schema.fields(v.Type()) {
		if inner := v.FieldByIndex(f.index); f.key && !inner.IsZero() {
			id += fmt.Sprintf("%s=%q ", f.name, fmt.Sprint(inner.Interface()))
		}
	}
	return id
}

func (k *keeper) table(to, from reflect.Value, at *path) {
	for _, key := range to.MapKeys() {
		// Values of maps cannot be set in place.
		value := reflect.New(to.Type().Elem()).Elem()
		value.Set(to.MapIndex(key))
		counterpart := reflect.Value{}
		if from.IsValid() && from.Len() > 0 {
			counterpart = from.MapIndex(key)
		}
		k.value(value, counterpart, at.key(key.String()))
		to.SetMapIndex(key, value)
	}
}
