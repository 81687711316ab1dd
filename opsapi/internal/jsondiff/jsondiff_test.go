package jsondiff

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func plain(s string) Document { return Document{json.RawMessage(s), json.RawMessage(s)} }

func show(changes []Change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s %s>%s", c.Op, c.Path, c.Before, c.After))
	}
	return strings.Join(lines, "\n")
}

func TestDiff(t *testing.T) {
	for _, test := range []struct{ name, a, b, want string }{
		{"same", `{"a":[1,{"b":null}],"n":1.50}`, `{"n":1.50,"a":[1,{"b":null}]}`, ""},
		{"values", `{"a":1,"b":"x","c":true}`, `{"a":2,"b":"<y>","d":null}`, "replace a 1>2\nreplace b \"x\">\"<y>\"\nremove c true>\nadd d >null"},
		{"types", `{"a":{}}`, `{"a":[]}`, "replace a {}>[]"},
		{"scalar to object", `{"a":1}`, `{"a":{}}`, "replace a 1>{}"},
		{"lists by index", `{"a":[1,2,3]}`, `{"a":[1,4]}`, "replace a[1] 2>4\nremove a[2] 3>"},
		{"lists by name", `{"r":[{"name":"x","p":1},{"name":"y"}]}`, `{"r":[{"name":"new"},{"name":"x","p":2}]}`,
			"add r[0] >{\"name\":\"new\"}\nreplace r[1].p 1>2\nremove r[1] {\"name\":\"y\"}>"},
		{"order", `{"r":[{"name":"x"},{"name":"y"},{"name":"z"}]}`, `{"r":[{"name":"y"},{"name":"x"}]}`,
			"remove r[2] {\"name\":\"z\"}>\nreorder r [\"x\",\"y\"]>[\"y\",\"x\"]"},
		{"odd keys", `{"a b":1,"c":{"d.e":1}}`, `{"a b":2,"c":{"d.e":2}}`, "replace [\"a b\"] 1>2\nreplace c[\"d.e\"] 1>2"},
	} {
		got, err := Diff(plain(test.a), plain(test.b))
		if err != nil || show(got) != test.want {
			t.Errorf("%s: %v\ngot\n%s\nwant\n%s", test.name, err, show(got), test.want)
		}
	}
	if _, err := Diff(plain("{"), plain("{}")); err == nil {
		t.Error("no JSON was accepted")
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	a := Document{json.RawMessage(`{"s":"hunter2","l":["one"],"o":{"x":"two"}}`), json.RawMessage(`{"s":"***","l":["***"],"o":{"x":"***"}}`)}
	b := Document{json.RawMessage(`{"s":"hunter3","l":["three","four"],"o":"five"}`), json.RawMessage(`{"s":"***","l":[],"o":"***"}`)}
	got, err := Diff(a, b)
	want := "replace l[0] \"***\">\"***\"\nadd l[1] >\"***\"\nreplace o {\"x\":\"***\"}>\"***\"\nreplace s \"***\">\"***\""
	if err != nil || show(got) != want {
		t.Errorf("got %v\n%s", err, show(got))
	}
}

func TestBounds(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500)
	changed := strings.Replace(deep, "1", "2", 1)
	if got, err := Diff(plain(deep), plain(changed)); err != nil || len(got) != 1 {
		t.Errorf("%d changes, %v", len(got), err)
	}
	long := "[" + strings.Repeat("1,", 5000) + "1]"
	if got, err := Diff(plain(long), plain("[]")); err != nil || len(got) != maxChanges {
		t.Errorf("%d changes, %v", len(got), err)
	}
}
