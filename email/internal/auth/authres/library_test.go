package authres

import (
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/authres"
)

// TestLibraryReads lets go-msgauth read what we write. Its reader does not know
// quotes, so nothing here needs any.
func TestLibraryReads(t *testing.T) {
	value := string(Value("mx.example.com", []Result{
		{Method: "spf", Value: "softfail", Props: []Prop{{"smtp.mailfrom", "joe@example.com"}}},
		{Method: "dkim", Value: "fail", Reason: "forged", Props: []Prop{{"header.d", "example.com"}, {"header.s", strings.Repeat("long.", 10) + "example"}}},
		{Method: "arc", Value: "pass"},
		{Method: "dmarc", Value: "fail", Props: []Prop{{"header.from", "example.com"}, {"policy.dmarc", "reject"}}},
		{Method: "iprev", Value: "pass", Props: []Prop{{"policy.iprev", "192.0.2.1"}}},
	}))
	id, list, err := authres.Parse(strings.ReplaceAll(value, "\r\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	want := []authres.Result{
		&authres.SPFResult{Value: authres.ResultSoftFail, From: "joe@example.com"},
		&authres.DKIMResult{Value: authres.ResultFail, Reason: "\"forged\"", Domain: "example.com"},
		&authres.ARCResult{Value: authres.ResultPass},
		&authres.DMARCResult{Value: authres.ResultFail, From: "example.com"},
		&authres.IPRevResult{Value: authres.ResultPass, IP: "192.0.2.1"},
	}
	if got := authres.Format(id, list); got != authres.Format("mx.example.com", want) {
		t.Errorf("it reads\n%s\nof\n%s", got, value)
	}
}
