package conf_test

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

func TestEncode(t *testing.T) {
	tests := []struct {
		name string
		v    any
		want string
	}{
		{"empty", sample{}, `{}`},
		{"pointer", &sample{Name: "a"}, `{"name":"a"}`},
		{"nil pointer", (*sample)(nil), `null`},
		{"zero behind a pointer", sample{On: new(bool), Port: new(int), CertPtr: &cert{}}, `{"on":false,"port":0,"certPtr":{}}`},
		{"order", sample{Untagged: 1, Name: "a", shared: shared{"c"}, Tiny: 2}, `{"name":"a","tiny":2,"common":"c","Untagged":1}`},
		{"empty list, map and struct", sample{Ranges: []span{}, Headers: map[string]string{}, Inner: inner{Sizes: []int{}, Skip: func() {}}}, `{}`},
		{"hidden", sample{Hidden: "h", Func: func() {}, Iface: 5, private: "p"}, `{}`},
		{"sorted map", sample{Headers: map[string]string{"b": "", "a": "<&>"}}, `{"headers":{"a":"<&>","b":""}}`},
		{"duration", sample{Wait: 90 * time.Second, Waits: []time.Duration{0}}, `{"wait":"1m30s","waits":["0s"]}`},
		{"words", sample{Keep: -1}, `{"keep":"preserve"}`},
		{"short forms", sample{Ranges: []span{{0, 0}, {1, 2}}, Cert: cert{Auto: true}}, `{"ranges":[0,{"from":1,"to":2}],"cert":"auto"}`},
		{"elements", sample{UserPtrs: []*user{nil, {}}, Grid: [][]string{nil, {""}}}, `{"userPtrs":[null,{}],"grid":[[],[""]]}`},
		{"secrets", sample{Password: "p", Tokens: map[string]conf.Secret{"a": "b", "c": ""}}, `{"password":"***","tokens":{"a":"***","c":""}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := conf.Encode(test.v, false)
			if err != nil || string(got) != test.want {
				t.Errorf("got %s, %v\nwant %s", got, err, test.want)
			}
		})
	}
}

func TestEncodeReveal(t *testing.T) {
	v := sample{Password: "p", Users: []user{{Name: "n", Password: "q"}}}
	got, err := conf.Encode(v, true)
	if want := `{"password":"p","users":[{"name":"n","password":"q"}]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestOuterFieldWins(t *testing.T) {
	type Base struct {
		A int `json:"a"`
		B int `json:"b"`
	}
	type last struct {
		A string `json:"a"`
		Base
	}
	type first struct {
		Base
		A string `json:"a"`
	}
	for _, v := range []any{last{A: "outer", Base: Base{1, 2}}, first{A: "outer", Base: Base{1, 2}}} {
		if got, err := conf.Encode(v, true); err != nil || string(got) != `{"a":"outer","b":2}` {
			t.Errorf("%T: %s, %v", v, got, err)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	loop := &inner{}
	loop.Next = loop
	for name, v := range map[string]any{
		"nil": nil, "func": func() {}, "NaN": sample{Ratio: math.NaN()}, "infinite": sample{Small: float32(math.Inf(1))},
		"endless": sample{Inner: *loop},
	} {
		if b, err := conf.Encode(v, true); err == nil {
			t.Errorf("%s became %s", name, b)
		}
	}
}

func TestNewInt(t *testing.T) { // the documented way to give port 0
	var back sample
	b, err := conf.Encode(sample{Port: new(5353)}, true)
	if err == nil {
		err = conf.Decode(b, &back)
	}
	if err != nil || back.Port == nil || *back.Port != 5353 {
		t.Errorf("%s, %v", b, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[`, `{"name":"a","on":true,"tiny":-1,"count":2,"port":0,"keep":"preserve","ratio":1e3,"small":0.1}`,
		`{"wait":"1h","waits":[1,"2ms"],"addr":"::1","addrs":["10.0.0.0/8"],"password":"s","tokens":{"a":"***"}}`,
		`{"ranges":[1,{"from":2,"to":3}],"cert":"auto","certPtr":{},"users":{"name":"u","password":"p","port":1}}`,
		`{"grid":["a",["b"],[]],"lists":{"a":1,"b":[]},"inner":{"sizes":5,"next":{"next":null}},"deep":{"a":{"b":{}}}}`,
		`{"userPtrs":[null,{}],"common":"c","Untagged":1,"headers":{"":"\ud800"}}`, "\ufeff{\"ratio\":-0}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second sample
		if err := conf.Decode(data, &first); err != nil {
			if len(conf.Fields(err)) == 0 {
				t.Fatal("an error without fields")
			}
			return
		}
		encoded, err := conf.Encode(first, true)
		if err != nil {
			t.Fatalf("decoded but not encoded: %v", err)
		}
		if err := conf.Decode(encoded, &second); err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%s: got %+v, want %+v", encoded, second, first)
		}
		again, err := conf.Encode(second, true)
		if err != nil || string(again) != string(encoded) {
			t.Fatalf("%s became %s, %v", encoded, again, err)
		}
		redacted, err := conf.Encode(first, false)
		if err != nil {
			t.Fatal(err)
		}
		kept := sample{}
		if err := conf.Decode(redacted, &kept); err != nil {
			t.Fatalf("%s: %v", redacted, err)
		}
		// Secrets that are literally *** and lists with one identity twice
		// cannot come back.
		_ = conf.KeepSecrets(&kept, first)
	})
}
