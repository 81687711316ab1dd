// Package conftest checks a section of the configuration against the
// reference's configurations. Only tests import it.
package conftest

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// section is a pointer to the Config of a subsystem.
type section[C any] interface {
	*C
	Validate() error
}

// Reference reads field out of the reference's files of these names, checks
// that it is valid, and that it comes back the same when it has been written.
// It is called in the folder of a package at the top level.
func Reference[C any, P section[C]](t *testing.T, field string, names ...string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile("../testdata/configs/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var file map[string]json.RawMessage
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		var c, back C
		if err := conf.Decode(file[field], &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := P(&c).Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		again, err := conf.Encode(c, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := conf.Decode(again, &back); err != nil || !reflect.DeepEqual(c, back) {
			t.Errorf("%s: %s became %+v, %v", name, again, back, err)
		}
	}
}

// Case is a configuration and what Validate says of it.
type Case = struct{ Name, Config, Want string }

// Validate decodes each configuration and compares what is found wrong with it,
// a mistake a line.
func Validate[C any, P section[C]](t *testing.T, cases []Case) {
	t.Helper()
	for _, test := range cases {
		t.Run(test.Name, func(t *testing.T) {
			var c C
			if err := conf.Decode([]byte(test.Config), &c); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := P(&c).Validate(); err != nil {
				got = err.Error()
			}
			if got != test.Want {
				t.Errorf("got\n%s\nwant\n%s", got, test.Want)
			}
		})
	}
}
