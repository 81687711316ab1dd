package proxy

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCompressionChoice(t *testing.T) {
	t.Parallel()
	both, err := newCompression(&Compression{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := newCompression(&Compression{Algorithms: []string{Gzip, Zstd}}, nil)
	only, _ := newCompression(&Compression{Algorithms: []string{Gzip}}, nil)
	for _, test := range []struct{ accept, both, other, only string }{
		{"", "", "", ""},
		{"gzip", "gzip", "gzip", "gzip"},
		{"zstd", "zstd", "zstd", ""},
		{"gzip, deflate, br, zstd", "zstd", "gzip", "gzip"},
		{"gzip;q=1.0, zstd;q=0.5", "gzip", "gzip", "gzip"},
		{"gzip;q=0.5, zstd;q=0.8", "zstd", "zstd", "gzip"},
		{"gzip;q=0, zstd", "zstd", "zstd", ""},
		{"zstd;q=0, *", "gzip", "gzip", "gzip"},
		{"*", "zstd", "gzip", "gzip"},
		{"*;q=0", "", "", ""},
		{"*;q=0, gzip", "gzip", "gzip", "gzip"},
		{"identity", "", "", ""},
		{"identity, gzip;q=0.5", "", "", ""},
		{"identity;q=0.5, gzip;q=0.5", "gzip", "gzip", "gzip"},
		{"identity;q=0, gzip;q=0.1", "gzip", "gzip", "gzip"},
		{"x-gzip", "gzip", "gzip", "gzip"},
		{"gzip;q=0, x-gzip", "", "", ""},
		{"GZip ; Q=0.3", "gzip", "gzip", "gzip"},
		{"gzip;q=nan", "", "", ""},
		{"gzip;q=2", "", "", ""},
		{"gzip;q=-1", "", "", ""},
		{"gzip;q=inf", "", "", ""},
		{"gzip;q=", "", "", ""},
		{"gzip;level=9", "gzip", "gzip", "gzip"},
		{"br", "", "", ""},
		{",,;;=,;q=1", "", "", ""},
	} {
		for want, c := range map[*compression]string{both: test.both, other: test.other, only: test.only} {
			if got := want.choose([]string{test.accept}); got != c {
				t.Errorf("%v for %q: %q, want %q", want.algorithms, test.accept, got, c)
			}
		}
	}
	if got := both.choose([]string{"br", "gzip", "zstd;q=0.1"}); got != "gzip" {
		t.Errorf("several lines: %q", got)
	}
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, s := range []string{"gzip, zstd;q=0.5", "*;q=0", ";;,=q", "identity;q=1.000, gzip;q=0.001"} {
		f.Add(s)
	}
	c, err := newCompression(&Compression{}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		got := c.choose([]string{accept})
		switch got {
		case "", Zstd, Gzip:
		default:
			t.Errorf("%q: %q", accept, got)
		}
		if got != "" && !strings.Contains(strings.ToLower(accept), got) && !strings.Contains(accept, "*") {
			t.Errorf("%q: %q, which is not in there", accept, got)
		}
		for _, coding := range []string{Zstd, Gzip, "identity", "*"} {
			if q, named := quality([]string{accept}, coding); !(q >= 0 && q <= 1) || !named && q != 0 {
				t.Errorf("%q: %s has %v, %v", accept, coding, q, named)
			}
		}
	})
}

func TestCompressionSettings(t *testing.T) {
	t.Parallel()
	var r Route
	if err := json.Unmarshal([]byte(`{"match":{"ports":80},"action":{"type":"serve","root":"/x","compression":{"algorithms":"gzip","types":["text/*"],"minSize":100,"level":9}}}`), &r); err != nil {
		t.Fatal(err)
	}
	if c := r.Action.Compression; c == nil || c.Algorithms[0] != Gzip || c.Types[0] != "text/*" || c.MinSize != 100 || c.Level != 9 {
		t.Errorf("%+v", c)
	}
	for _, test := range []struct {
		change func(*Route)
		want   string
	}{
		{func(r *Route) { r.Action.Compression.Algorithms = []string{"zstd", "br"} }, `algorithms[1]: "br"`},
		{func(r *Route) { r.Action.Compression.Algorithms = []string{"zstd", "zstd"} }, `algorithms[1]: "zstd" is there`},
		{func(r *Route) { r.Action.Compression.Types = []string{"html"} }, `types[0]: "html" is not`},
		{func(r *Route) { r.Action.Compression.Types = []string{"/(/"} }, `types[0]: `},
		{func(r *Route) { r.Action.Compression.MinSize = -1 }, `minSize: -1`},
		{func(r *Route) { r.Action.Compression.MinSize = 2 << 20 }, `minSize: 2097152`},
		{func(r *Route) { r.Action.Compression.Level = 10 }, `level: 10`},
		{func(r *Route) { r.Action.Compression.Level = -1 }, `level: -1`},
		{func(r *Route) { r.Action.TLS = &TLS{Mode: Passthrough} }, `: this route has no HTTP`},
		{func(r *Route) {
			r.Action = compressing(Action{Type: Redirect, Redirect: RedirectTo{To: "/x"}})
		}, `: this route has no HTTP`},
	} {
		r := validRoute()
		r.Action.Compression = &Compression{}
		test.change(&r)
		want := "routes[0].action.compression"
		if test.want[0] != ':' {
			want += "."
		}
		cfg := Config{Routes: []Route{r}}
		wantFields(t, test.want, cfg.Validate(), want+test.want)
	}
}
