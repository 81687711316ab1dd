package conf_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// TestChecks gives every check what it must take and what it must refuse.
func TestChecks(t *testing.T) {
	label := strings.Repeat("a", 63)
	texts := []struct {
		name      string
		check     func(c *conf.Checker, s string)
		good, bad []string
	}{
		{"Required", (*conf.Checker).Required, []string{"a"}, []string{""}},
		{"OneOf", func(c *conf.Checker, s string) { c.OneOf(s, "a", "b") }, []string{"a", "b"}, []string{"", "c", "A"}},
		{"ListenHost", (*conf.Checker).ListenHost, []string{"", "localhost", "127.0.0.1", "::", "fe80::1%eth0"}, []string{"example.com", "127.0.0.1:80", "[::1]"}},
		{"Addr", (*conf.Checker).Addr, []string{"192.0.2.1", "::1"}, []string{"", "192.0.2.256", "fe80::1%eth0", "10.0.0.0/8"}},
		{"CIDR", (*conf.Checker).CIDR, []string{"192.0.2.1", "10.0.0.0/8", "10.1.2.3/8", "::/0"}, []string{"", "10.0.0.0/33", "10.0/8", "a/8", "fe80::1%e"}},
		{"Domain", (*conf.Checker).Domain,
			[]string{"localhost", "example.com", "example.com.", "_dmarc.example.com", "xn--bcher-kva.example", "bücher.example", "a-b.c", "1.example", label + ".x"},
			[]string{"", ".", "a..b", ".a", "-a.b", "a-.b", "a b", "192.0.2.1", "192.0.2.300", "a.b:25", "*.a", "a/b", label + "a", strings.Repeat("a.", 127) + "aa", "a\xff.b"}},
		{"Host", (*conf.Checker).Host, []string{"192.0.2.1", "::1", "example.com"}, []string{"", "192.0.2.300", "a:25"}},
		{"HostPort", (*conf.Checker).HostPort, []string{"127.0.0.1:24", "[::1]:24", "a.b:65535"}, []string{"", "a", "a:0", "a:65536", "a:x", ":24", "-:24"}},
		{"Mailbox", (*conf.Checker).Mailbox, []string{"a@b.c", "a.b+c@d"}, []string{"", "a", "@b", "a@", "a b@c", "a@b c", "<a@b>", "a@b\n"}},
		{"HeaderName", (*conf.Checker).HeaderName, []string{"X-A", "a"}, []string{"", "a b", "a:", "a\n", "é"}},
		{"Line", (*conf.Checker).Line, []string{"", "a b\té"}, []string{"a\nb", "a\r", "\x00", "\x7f"}},
		{"Header", func(c *conf.Checker, s string) { c.Header("X-A", s) }, []string{"a"}, []string{"a\nb"}},
		{"Secret", func(c *conf.Checker, s string) { c.Secret(conf.Secret(s)) }, []string{"", "a"}, []string{"***"}},
		{"RequiredSecret", func(c *conf.Checker, s string) { c.RequiredSecret(conf.Secret(s)) }, []string{"a"}, []string{"", "***"}},
	}
	for _, test := range texts {
		for _, s := range test.good {
			c := conf.NewChecker()
			if test.check(c, s); c.Err() != nil {
				t.Errorf("%s(%q): %v", test.name, s, c.Err())
			}
		}
		for _, s := range test.bad {
			c := conf.NewChecker()
			if test.check(c.Field("f"), s); c.Err() == nil || !strings.HasPrefix(c.Err().Error(), "f: ") {
				t.Errorf("%s(%q): %v", test.name, s, c.Err())
			}
		}
	}
	numbers := []struct {
		name      string
		check     func(c *conf.Checker, n int)
		good, bad []int
	}{
		{"Range", func(c *conf.Checker, n int) { c.Range(n, 1, 5) }, []int{1, 5}, []int{0, 6}},
		{"NotNegative", (*conf.Checker).NotNegative, []int{0, 1}, []int{-1}},
		{"Wait", func(c *conf.Checker, n int) { c.Wait(time.Duration(n)) }, []int{0, 1}, []int{-1}},
		{"Port", (*conf.Checker).Port, []int{1, 65535}, []int{0, -1, 65536}},
		{"ListenPort", (*conf.Checker).ListenPort, []int{0, 65535}, []int{-1, 65536}},
	}
	for _, test := range numbers {
		for _, n := range test.good {
			c := conf.NewChecker()
			if test.check(c, n); c.Err() != nil {
				t.Errorf("%s(%d): %v", test.name, n, c.Err())
			}
		}
		for _, n := range test.bad {
			c := conf.NewChecker()
			if test.check(c, n); c.Err() == nil {
				t.Errorf("%s(%d) was accepted", test.name, n)
			}
		}
	}
}

func TestOneOfMessage(t *testing.T) {
	c := conf.NewChecker()
	c.OneOf("x", "a", "b", "c")
	c.OneOf("", "a")
	if got, want := c.Err().Error(), "\"x\" is not known; use a, b or c\nmissing: use a"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestParseCIDR(t *testing.T) {
	for s, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "::ffff:192.0.2.1": "192.0.2.1/32", "::ffff:10.1.0.0/104": "10.0.0.0/8", "::1": "::1/128"} {
		if got, ok := conf.ParseCIDR(s); !ok || got.String() != want {
			t.Errorf("%s: got %v, %t", s, got, ok)
		}
	}
}

func TestUnique(t *testing.T) {
	c, first := conf.NewChecker(), map[string]int{}
	for i, s := range []string{"a", "", "b", "", "a"} {
		c.Index(i).Field("name").Unique(first, s, "users", i)
	}
	if err := c.Err(); err == nil || err.Error() != `[4].name: "a" is that of users[0] already` {
		t.Error(err)
	}
}
