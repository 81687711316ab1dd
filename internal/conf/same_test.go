package conf

import (
	"crypto/sha256"
	"fmt"
	"testing"
)

func TestIsFrom(t *testing.T) {
	type outer struct {
		Name string `json:"name"`
	}
	doc := []byte(`{"name":"a"}`)
	for _, test := range []struct {
		from Origin
		want bool
	}{
		{Origin{Given: []byte(`{ "name": "a" }`)}, true},
		{Origin{Given: []byte(`{"name":"b"}`)}, false},
		{Origin{Hash: "00"}, false},
		{Origin{Hash: fmt.Sprintf("%x", sha256.Sum256(doc))}, true},
		{Origin{}, false},
	} {
		if IsFrom[outer](test.from, doc) != test.want {
			t.Errorf("%+v: want %t", test.from, test.want)
		}
	}
}

func TestSame(t *testing.T) {
	type inner struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	}
	type outer struct {
		Secret Secret   `json:"secret"`
		List   []inner  `json:"list"`
		Words  []string `json:"words"`
	}
	const doc = `{"secret":"a","list":[{"name":"b","port":1}],"words":["c"]}`
	for other, want := range map[string]bool{
		doc: true,
		`{"words": "c", "list": [{"port": 1, "name": "b"}], "secret": "a"}`: true,
		`{"secret":"a","list":[{"name":"b","port":2}],"words":["c"]}`:       false,
		`{"secret":"b","list":[{"name":"b","port":1}],"words":["c"]}`:       false,
		`{"secret":"a","list":[{"name":"b","port":1}]}`:                     false,
		`{"secret":"a","list":[{"name":"b","port":1}],"words":["c"],"x":1}`: false,
		``: false,
	} {
		if Same[outer]([]byte(doc), []byte(other)) != want || Same[outer]([]byte(other), []byte(doc)) != want {
			t.Errorf("%s: want %t", other, want)
		}
	}
	if !Same[outer]([]byte(`{"list":[],"secret":""}`), []byte(`{}`)) {
		t.Error("what is left out and what is empty differ")
	}
}
