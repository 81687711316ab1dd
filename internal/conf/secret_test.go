package conf_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const value = "hunter2"
	s := conf.Secret(value)
	holder := user{Name: "n", Password: s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%10s", "%c", "%U", "%!"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", holder)
		fmt.Fprintf(&out, verb+"\n", []conf.Secret{s})
	}
	fmt.Fprintln(&out, s, &holder, map[conf.Secret]conf.Secret{s: s}, fmt.Errorf("%w %v", fmt.Errorf("x"), s))
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("m", "s", s, "holder", holder, "list", []conf.Secret{s}, "p", &s)
	}
	for _, v := range []any{s, &s, holder, map[string]conf.Secret{"a": s}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	b, err := xml.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	for _, form := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), "104 117"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s is in\n%s", form, out.String())
		}
	}
	if s.Reveal() != value || s.String() != "***" || conf.Secret("").String() != "" || fmt.Sprintf("%#v", s) != `"***"` {
		t.Errorf("%s %#v", s, s)
	}
}

func TestKeepSecrets(t *testing.T) {
	prev := func() sample {
		return sample{
			Password: "top",
			Tokens:   map[string]conf.Secret{"a": "token a", "b": "token b"},
			Users:    []user{{Name: "ann", Password: "ann's"}, {Name: "bob", Password: "bob's"}},
			UserPtrs: []*user{{Password: "first"}, nil, {Password: "third"}},
		}
	}
	tests := []struct {
		name     string
		in, want sample
		err      string
	}{
		{"everything as it was shown",
			sample{Password: "***", Tokens: map[string]conf.Secret{"a": "***", "b": "***"}, Users: []user{{"ann", "***", 0}, {"bob", "***", 0}}},
			sample{Password: "top", Tokens: prev().Tokens, Users: prev().Users}, ""},
		{"new values stay", sample{Password: "new"}, sample{Password: "new"}, ""},
		{"identity wins over index",
			sample{Users: []user{{"new", "x", 0}, {"bob", "***", 1}, {"ann", "***", 2}}},
			sample{Users: []user{{"new", "x", 0}, {"bob", "bob's", 1}, {"ann", "ann's", 2}}}, ""},
		{"by index without identity",
			sample{UserPtrs: []*user{{Password: "***"}, {Password: "x"}, {Password: "***"}}},
			sample{UserPtrs: []*user{{Password: "first"}, {Password: "x"}, {Password: "third"}}}, ""},
		{"unknown", sample{Users: []user{{"eve", "***", 0}}, Tokens: map[string]conf.Secret{"c": "***"}}, sample{},
			"tokens[\"c\"]: *** stands for a secret that is not known here: give its value\n" +
				"users[0].password: *** stands for a secret that is not known here: give its value"},
		{"no counterpart behind nil", sample{UserPtrs: []*user{nil, {Password: "***"}}}, sample{},
			"userPtrs[1].password: *** stands for a secret that is not known here: give its value"},
		{"a named one does not take an unnamed one's", sample{UserPtrs: []*user{{Name: "x", Password: "***"}}}, sample{},
			"userPtrs[0].password: *** stands for a secret that is not known here: give its value"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			old := prev()
			err := conf.KeepSecrets(&test.in, &old)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("got  %v\nwant %s", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(test.in, test.want) {
				got, _ := conf.Encode(test.in, true)
				t.Errorf("got %s, %v", got, err)
			}
			if !reflect.DeepEqual(old, prev()) {
				t.Error("prev was changed")
			}
		})
	}
	if err := conf.KeepSecrets(&sample{Password: "***"}, nil); err == nil {
		t.Error("a secret out of nothing")
	}
	if conf.KeepSecrets(&sample{}, user{}) == nil || conf.KeepSecrets(sample{}, sample{}) == nil {
		t.Error("mismatched types were accepted")
	}
}

func TestNearest(t *testing.T) {
	names := []string{"action", "match", "name", "priority", "enabled", "to"}
	for word, want := range map[string]string{
		"acton": "action", "actoin": "action", "Action": "action", "matches": "match", "prio": "", "nmae": "name",
		"enable": "enabled", "zzz": "", "": "", "t": "to", strings.Repeat("action", 100): "",
	} {
		if got := conf.Nearest(word, names); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
}
