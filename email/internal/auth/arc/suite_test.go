package arc

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// read splits a message, whose lines may end in LF.
func read(t testing.TB, text string) (message.Header, string) {
	t.Helper()
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	r := bufio.NewReader(strings.NewReader(text))
	h, _, err := message.ReadHeader(r, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return h, string(body)
}

func verify(t testing.TB, keys *dkim.Keys, h message.Header, body string) Result {
	b := dkim.NewBody(strings.NewReader(body))
	c := Parse(h, b)
	return c.Verify(t.Context(), dkim.NewHasher(h), b, keys)
}

// TestSuite is ValiMail's suite for verifiers (github.com/ValiMail/arc_test_suite,
// MIT licence), made JSON.
func TestSuite(t *testing.T) {
	data, err := os.ReadFile("testdata/validation.json")
	if err != nil {
		t.Fatal(err)
	}
	var suites []struct {
		Description string
		Tests       []struct{ Name, Description, Message, CV string }
		TXT         map[string]string
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, suite := range suites {
		zone := dnstest.Zone{}
		for name, txt := range suite.TXT {
			zone[name] = []string{"TXT " + txt}
		}
		resolver := dnstest.New(t, zone).Resolver()
		for _, test := range suite.Tests {
			n++
			h, body := read(t, test.Message)
			got := verify(t, dkim.NewKeys(resolver), h, body)
			want := strings.ToLower(test.CV)
			switch test.Name {
			case "cv_fail_i1_as_cv_fail", "cv_fail_i2_as2_fail", "cv_fail_i2_as1_fail":
				want = "fail" // the suite does not say
			case "ams_fields_c_na":
				want = "fail" // it is signed relaxed, but without c= it is simple (RFC 6376 section 3.5)
			case "ams_fields_h_empty":
				want = "fail" // nothing is signed (RFC 6376 section 5.4)
			}
			if string(got.Status) != want {
				t.Errorf("%s (%s): %s (%v), want %s", test.Name, test.Description, got.Status, got.Err, want)
			}
		}
	}
	if n != 171 {
		t.Errorf("%d tests ran, the suite has 171", n)
	}
}
