package conf

import "testing"

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
