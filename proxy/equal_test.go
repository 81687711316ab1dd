package proxy

import (
	"fmt"
	"net/http"
	"reflect"
	"testing"
)

// A field that equal forgets would keep its old value in service after an
// update that changes nothing else.
func TestEqualLooksAtEveryField(t *testing.T) {
	full := func() *Route { return fill(reflect.TypeFor[*Route](), 0).Interface().(*Route) }
	functions := func(r *Route) {
		r.Action.Handler, r.Action.SocketHandler = nil, nil
		for i := range r.Action.Targets {
			r.Action.Targets[i].PortFunc = nil
		}
	}
	a, b := full(), full()
	if a.equal(b) {
		t.Error("functions are taken for equal")
	}
	functions(a)
	functions(b)
	if !a.equal(b) || !a.equal(cloneRoute(a)) {
		t.Fatal("equal routes differ")
	}
	changed := 0
	var walk func(path string, at func(*Route) reflect.Value)
	walk = func(path string, at func(*Route) reflect.Value) {
		v := at(a)
		switch v.Kind() {
		case reflect.Pointer:
			walk(path, func(r *Route) reflect.Value { return at(r).Elem() })
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, func(r *Route) reflect.Value { return at(r).Field(i) })
			}
		case reflect.Slice:
			walk(path+"[0]", func(r *Route) reflect.Value { return at(r).Index(0) })
		case reflect.Func, reflect.Interface:
		default:
			changed++
			other := full()
			functions(other)
			to := at(other)
			to.Set(fill(v.Type(), 1))
			if a.equal(other) {
				t.Errorf("%s: equal though it differs", path)
			}
		}
	}
	walk("Route", func(r *Route) reflect.Value { return reflect.ValueOf(r).Elem() })
	if changed < 40 {
		t.Errorf("only %d fields looked at", changed)
	}
}

// fill makes a value with something in every field. The seed makes another.
func fill(of reflect.Type, seed int) reflect.Value {
	v := reflect.New(of).Elem()
	switch of.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(of.Elem()))
		v.Elem().Set(fill(of.Elem(), seed))
	case reflect.Struct:
		for i := range of.NumField() {
			v.Field(i).Set(fill(of.Field(i).Type, seed))
		}
	case reflect.Slice:
		v.Set(reflect.Append(v, fill(of.Elem(), seed)))
	case reflect.Map:
		v.Set(reflect.MakeMap(of))
		v.SetMapIndex(fill(of.Key(), seed), fill(of.Elem(), seed))
	case reflect.String:
		v.SetString(fmt.Sprint("text", seed))
	case reflect.Bool:
		v.SetBool(seed == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(seed + 1))
	case reflect.Float64:
		v.SetFloat(float64(seed + 1))
	case reflect.Func:
		v.Set(reflect.MakeFunc(of, func([]reflect.Value) []reflect.Value { return []reflect.Value{reflect.Zero(of.Out(0))} }))
	case reflect.Interface:
		if of == reflect.TypeFor[http.Handler]() {
			v.Set(reflect.ValueOf(http.NotFoundHandler()))
		} else {
			v.Set(reflect.ValueOf(SocketHandlerFunc(nil)))
		}
	default:
		panic(of)
	}
	return v
}
