package conf_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

func TestDecodeValues(t *testing.T) {
	tests := []struct {
		name, data string
		want       sample
	}{
		{"nothing", `{}`, sample{}},
		{"null", `null`, sample{}},
		{"byte order mark", "\ufeff{}", sample{}},
		{"plain", `{"name":"a","off":true,"tiny":-128,"count":65535,"ratio":1.5e3,"Untagged":4}`,
			sample{Name: "a", Off: true, Tiny: -128, Count: 65535, Ratio: 1500, Untagged: 4}},
		{"pointers", `{"on":false,"port":0}`, sample{On: new(bool), Port: new(int)}},
		{"nulls", `{"on":null,"name":null,"ranges":null,"headers":null,"cert":null,"wait":null}`, sample{}},
		{"empty list and map are absent", `{"ranges":[],"headers":{}}`, sample{}},
		{"word for a number", `{"keep":"preserve"}`, sample{Keep: -1}},
		{"second word", `{"keep":"none"}`, sample{Keep: -2}},
		{"number beside words", `{"keep":80}`, sample{Keep: 80}},
		{"duration", `{"wait":"1m30s"}`, sample{Wait: 90 * time.Second}},
		{"milliseconds", `{"wait":300000}`, sample{Wait: 5 * time.Minute}},
		{"durations", `{"waits":["1s",5]}`, sample{Waits: []time.Duration{time.Second, 5 * time.Millisecond}}},
		{"one duration", `{"waits":5}`, sample{Waits: []time.Duration{5 * time.Millisecond}}},
		{"text", `{"addr":"192.0.2.1","addrs":"10.0.0.0/8"}`,
			sample{Addr: netip.MustParseAddr("192.0.2.1"), Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
		{"secrets", `{"password":"p","tokens":{"a":"b"}}`, sample{Password: "p", Tokens: map[string]conf.Secret{"a": "b"}}},
		{"map", `{"headers":{"X-A":"1","":"2"}}`, sample{Headers: map[string]string{"X-A": "1", "": "2"}}},
		{"short form", `{"cert":"auto"}`, sample{Cert: cert{Auto: true}}},
		{"long form", `{"cert":{"path":"p"}}`, sample{Cert: cert{Path: "p"}}},
		{"short form behind a pointer", `{"certPtr":"auto"}`, sample{CertPtr: &cert{Auto: true}}},
		{"bare short form", `{"ranges":443}`, sample{Ranges: []span{{443, 443}}}},
		{"bare object", `{"ranges":{"from":1,"to":2}}`, sample{Ranges: []span{{1, 2}}}},
		{"mixed list", `{"ranges":[80,{"from":1,"to":2}]}`, sample{Ranges: []span{{80, 80}, {1, 2}}}},
		{"bare in a list", `{"grid":["a",["b","c"]]}`, sample{Grid: [][]string{{"a"}, {"b", "c"}}}},
		{"bare in a map", `{"lists":{"a":1}}`, sample{Lists: map[string][]int{"a": {1}}}},
		{"embedded", `{"common":"c"}`, sample{shared: shared{Common: "c"}}},
		{"recursive", `{"inner":{"next":{"next":{"mode":"m"}}}}`, sample{Inner: inner{Next: &inner{Next: &inner{Mode: "m"}}}}},
		{"null elements", `{"userPtrs":[null,{}]}`, sample{UserPtrs: []*user{nil, {}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got sample
			if err := conf.Decode([]byte(test.data), &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	long := strings.Repeat("x", 100)
	tests := []struct{ name, data, want string }{
		{"string for number", `{"tiny":"5"}`, `tiny: want a number, got the string "5"`},
		{"number for string", `{"name":5}`, `name: want a string, got the number 5`},
		{"list for string", `{"name":[5,[6]]}`, `name: want a string, got a list`},
		{"string for bool", `{"off":"yes"}`, `off: want true or false, got the string "yes"`},
		{"bool for float", `{"ratio":true}`, `ratio: want a number, got true`},
		{"number for object", `{"inner":5}`, `inner: want an object, got the number 5`},
		{"string for map", `{"headers":"a"}`, `headers: want an object, got the string "a"`},
		{"long value", `{"tiny":"` + long + `"}`, `tiny: want a number, got the string "` + long[:60] + `"...`},
		{"out of range", `{"tiny":300}`, `tiny: the number 300 is out of range`},
		{"negative unsigned", `{"count":-1}`, `count: the number -1 is out of range`},
		{"huge", `{"count":1e400}`, `count: want a whole number, got the number 1e400`},
		{"huge float", `{"ratio":1e400}`, `ratio: the number 1e400 is out of range`},
		{"fraction", `{"tiny":1.5}`, `tiny: want a whole number, got the number 1.5`},
		{"wrong word", `{"keep":"presrve"}`, `keep: want a number or "preserve" or "none", got the string "presrve"`},
		{"bad duration", `{"wait":"10 s"}`, `wait: want a duration such as "10s", or a number of milliseconds, got the string "10 s"`},
		{"long duration", `{"wait":9223372036855}`, `wait: want a duration such as "10s", or a number of milliseconds, got the number 9223372036855`},
		{"fraction of a millisecond", `{"wait":0.5}`, `wait: want a duration such as "10s", or a number of milliseconds, got the number 0.5`},
		{"text type", `{"addr":5}`, `addr: want a string, got the number 5`},
		{"bad text", `{"addr":"x"}`, `addr: ParseAddr("x"): unable to parse IP`},
		{"bad short form", `{"cert":"manual"}`, `cert: want "auto" or an object with path`},
		{"short form is no number", `{"cert":1e400}`, `cert: the number 1e400 is out of range`},
		{"list for short form", `{"cert":[1]}`, `cert: want an object, got a list`},
		{"element", `{"ranges":[1,{"from":2,"to":"3"}]}`, `ranges[1].to: want a number, got the string "3"`},
		{"bare element", `{"grid":5}`, `grid: want a string, got the number 5`},
		{"field of a bare element", `{"ranges":{"from":"x"}}`, `ranges[0].from: want a number, got the string "x"`},
		{"string for a list of objects", `{"userPtrs":"bob"}`, `userPtrs: want a list, got a string`},
		{"map key", `{"headers":{"X-A":5}}`, `headers["X-A"]: want a string, got the number 5`},
		{"deep", `{"deep":{"a":{"b.c":{"sizes":["x"]}}}}`, `deep["a"]["b.c"].sizes[0]: want a number, got the string "x"`},
		{"unknown", `{"zzz":{"a":[1,{"b":2}]},"name":"a"}`, `zzz: unknown field`},
		{"misspelt", `{"nmae":1}`, `nmae: unknown field, did you mean "name"?`},
		{"wrong case", `{"Name":"x"}`, `Name: unknown field, did you mean "name"?`},
		{"odd name", `{"a b":1}`, `["a b"]: unknown field`},
		{"skipped fields are unknown", `{"Hidden":"x","func":1,"iface":{},"private":"p"}`,
			"Hidden: unknown field\nfunc: unknown field\niface: unknown field\nprivate: unknown field"},
		{"twice", `{"name":"a","name":"b"}`, `name: given twice`},
		{"twice in a map", `{"headers":{"a":"b","a":{}}}`, `headers["a"]: given twice`},
		{"secret is not shown", `{"password":12345}`, `password: want a string, got a number`},
		{"secret in a map is not shown", `{"tokens":"hunter2"}`, `tokens: want an object, got a string`},
		{"secret in an object is not shown", `{"users":["bob:hunter2"]}`, `users[0]: want an object, got a string`},
		{"all at once", `{"tiny":"x","inner":{"sizes":[1,"2"],"mod":1},"off":0}`,
			"tiny: want a number, got the string \"x\"\ninner.sizes[1]: want a number, got the string \"2\"\n" +
				"inner.mod: unknown field, did you mean \"mode\"?\noff: want true or false, got the number 0"},
		{"too deep", `{"inner":` + strings.Repeat(`{"next":`, 70) + `{}` + strings.Repeat(`}`, 71),
			"inner" + strings.Repeat(".next", 32) + ": nested too deeply"},

		{"empty", "", `line 1, column 1: empty, want a JSON document`},
		{"blank", " \n ", `line 1, column 1: empty, want a JSON document`},
		{"trailing", "{}\n x", `line 2, column 2: invalid character 'x' after top-level value`},
		{"second value", `{}{}`, `line 1, column 3: invalid character '{' after top-level value`},
		{"truncated", "{\n\"name\": \"a", `line 2, column 11: unexpected end of JSON input`},
		{"comma", "{\n\t\"é\": 1,\n}", `line 3, column 1: invalid character '}' looking for beginning of object key string`},
		{"column counts characters", `{"éé" 1}`, `line 1, column 7: invalid character '1' after object key`},
		{"not UTF-8", "{\"name\":\n\"é\xff\"}", `line 2, column 3: invalid UTF-8`},
		{"absurdly deep", strings.Repeat(`[`, 20000), `line 1, column 10001: invalid character '[' exceeded max depth`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := conf.Decode([]byte(test.data), new(sample))
			if err == nil {
				t.Fatalf("no error, want %s", test.want)
			}
			if got := err.Error(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			for _, f := range conf.Fields(err) {
				if f.Msg == "" {
					t.Errorf("%q has no message", f.Path)
				}
			}
		})
	}
}

func TestDecodeFillsWhatItCan(t *testing.T) {
	var got sample
	if err := conf.Decode([]byte(`{"tiny":"x","name":"a","ranges":[1,"x",3],"zzz":1,"off":true}`), &got); err == nil {
		t.Fatal("no error")
	}
	want := sample{Name: "a", Ranges: []span{{1, 1}, {}, {3, 3}}, Off: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDecodeKeepsWhatIsNotMentioned(t *testing.T) {
	old := sample{Name: "old", Tiny: 5, CertPtr: &cert{Path: "old"}, Headers: map[string]string{"a": "old"}, Ranges: []span{{1, 1}}}
	got := old
	if err := conf.Decode([]byte(`{"name":"new","certPtr":{},"headers":{"b":"new"},"ranges":[2]}`), &got); err != nil {
		t.Fatal(err)
	}
	want := sample{Name: "new", Tiny: 5, CertPtr: &cert{}, Headers: map[string]string{"b": "new"}, Ranges: []span{{2, 2}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if old.CertPtr.Path != "old" || old.Headers["a"] != "old" || old.Ranges[0].From != 1 {
		t.Errorf("Decode changed what the old value holds: %+v", old)
	}
}

func TestDecodeBoundsErrors(t *testing.T) {
	err := conf.Decode([]byte(`{"lists":{"a":[`+strings.Repeat(`"x",`, 5000)+`1]}}`), new(sample))
	fields := conf.Fields(err)
	if len(fields) != 1001 {
		t.Fatalf("%d errors", len(fields))
	}
	if last := fields[1000].Error(); !strings.Contains(last, "too many") {
		t.Error(last)
	}
}

func TestDecodeTarget(t *testing.T) {
	for _, target := range []any{nil, sample{}, (*sample)(nil), new(any), new(func()), new(map[int]string)} {
		if conf.Decode([]byte(`{}`), target) == nil {
			t.Errorf("%T was accepted", target)
		}
	}
}

func TestDecodeIgnoresJSONUnmarshaler(t *testing.T) {
	var got selfDecoding
	if err := json.Unmarshal([]byte(`{"wait":5}`), &got); err != nil || got.Wait != 5*time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
}

type selfDecoding struct {
	Wait time.Duration `json:"wait"`
}

func (s *selfDecoding) UnmarshalJSON(b []byte) error { return conf.Decode(b, s) }

func TestFieldsAndPrefix(t *testing.T) {
	c := conf.NewChecker()
	c.Errorf("whole")
	c.Index(2).Field("a").Errorf("first")
	c.Field("b").Key("x y").Errorf("second %d", 2)
	if got := c.Field("b").Index(1).Path(); got != "b[1]" {
		t.Errorf("path %s", got)
	}
	err := conf.Prefix("top.list", c.Err())
	want := "top.list: whole\ntop.list[2].a: first\ntop.list.b[\"x y\"]: second 2"
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
	wrapped := errors.Join(errors.New("plain"), err)
	if fields := conf.Fields(wrapped); len(fields) != 4 || fields[0].Msg != "plain" || fields[2].Path != "top.list[2].a" {
		t.Errorf("fields %v", fields)
	}
	if conf.Prefix("a", nil) != nil || conf.NewChecker().Err() != nil {
		t.Error("an error from nothing")
	}
	many := conf.NewChecker()
	for range 5000 {
		many.Errorf("again")
	}
	if got := len(conf.Fields(many.Err())); got != 1001 {
		t.Errorf("%d errors", got)
	}
	outer := conf.NewChecker()
	outer.Field("up").Add(err)
	if got := outer.Err().Error(); !strings.HasPrefix(got, "up.top.list: whole\nup.top.list[2].a: first") {
		t.Error(got)
	}
}
