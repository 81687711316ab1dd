package email

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// routes reads routes in their JSON form.
func routes(t testing.TB, text string) []Route {
	t.Helper()
	var list routeList
	if err := conf.Decode([]byte(`{"routes":`+text+`}`), &list); err != nil {
		t.Fatal(err)
	}
	if err := list.validate(); err != nil {
		t.Fatal(err)
	}
	return list.Routes
}

func TestMatch(t *testing.T) {
	mail := func(header string) *content {
		return &content{size: 1500, attachments: true, header: message.Header{{Name: "Subject", Raw: []byte("Subject: =?utf-8?q?An_Invoice?=\r\n")}, {Name: "X-Priority", Raw: []byte("X-Priority: " + header + "\r\n")}}}
	}
	f := facts{client: netip.MustParseAddr("192.168.3.4"), sender: "Boss@Partner.example", recipient: "alice@example.com"}
	tests := []struct {
		match   string
		content *content
		want    verdict
	}{
		{`{}`, nil, yes},
		{`{"recipients":"*@example.com"}`, nil, yes},
		{`{"recipients":"*@EXAMPLE.com"}`, nil, yes},
		{`{"recipients":"*@other.com"}`, nil, no},
		{`{"recipients":["bob@*","alice@*"]}`, nil, yes},
		{`{"recipients":"/^al.*@/"}`, nil, yes},
		{`{"senders":["*@trusted.com","*@partner.example"]}`, nil, yes},
		{`{"senders":""}`, nil, no},
		{`{"clientIp":"192.168.0.0/16"}`, nil, yes},
		{`{"clientIp":["10.0.0.0/8","192.168.3.4"]}`, nil, yes},
		{`{"clientIp":"10.0.0.0/8"}`, nil, no},
		{`{"authenticated":false}`, nil, yes},
		{`{"authenticated":true}`, nil, no},
		{`{"authenticated":true,"subject":"x"}`, nil, no},
		{`{"sizeRange":{"min":1000}}`, nil, maybe},
		{`{"sizeRange":{"min":1000,"max":1500}}`, mail(""), yes},
		{`{"sizeRange":{"min":1501}}`, mail(""), no},
		{`{"sizeRange":{"max":1499}}`, mail(""), no},
		{`{"hasAttachments":true}`, nil, maybe},
		{`{"hasAttachments":true}`, mail(""), yes},
		{`{"hasAttachments":false}`, mail(""), no},
		{`{"subject":"/invoice|receipt/i"}`, mail(""), yes},
		{`{"subject":"an *"}`, mail(""), yes},
		{`{"subject":"invoice"}`, mail(""), no},
		{`{"headers":{"X-Priority":"high"}}`, nil, maybe},
		{`{"headers":{"x-priority":"high"}}`, mail("High"), yes},
		{`{"headers":{"X-Priority":"high","X-Other":"*"}}`, mail("high"), no},
	}
	for _, test := range tests {
		r := compileRoutes(routes(t, `[{"name":"r","match":`+test.match+`,"action":{"type":"deliver"}}]`), nil).routes[0]
		f := f
		f.content = test.content
		if got := r.match(&f); got != test.want {
			t.Errorf("%s with content %v: %v, want %v", test.match, test.content != nil, got, test.want)
		}
	}
}

// Domains are compared as the envelope has them, however they are written.
func TestMatchInternationalized(t *testing.T) {
	for pattern, want := range map[string]verdict{
		"*@münchen.example": yes, "*@MÜNCHEN.example": yes, "*@xn--mnchen-3ya.example": yes, "*@*.example": yes,
		"bücher@münchen.*": yes, "*@m?nchen.example": no, "*@munchen.example": no, "/@münchen/": no,
	} {
		list := []Route{{Match: Match{Recipients: []string{pattern}}}, {Match: Match{Senders: []string{pattern}}}}
		f := facts{sender: "bücher@xn--mnchen-3ya.example", recipient: "bücher@xn--mnchen-3ya.example"}
		for _, r := range compileRoutes(list, nil).routes {
			if got := r.match(&f); got != want {
				t.Errorf("%s: %v, want %v", pattern, got, want)
			}
		}
	}
}

func TestDecide(t *testing.T) {
	table := compileRoutes(routes(t, `[
		{"name":"rest","action":{"type":"reject"}},
		{"name":"off","priority":100,"enabled":false,"action":{"type":"reject"}},
		{"name":"invoices","priority":10,"match":{"recipients":"*@example.com","subject":"invoice"},"action":{"type":"deliver"}},
		{"name":"alice","priority":5,"match":{"recipients":"alice@example.com"},"action":{"type":"deliver"}}]`), nil)
	name := func(f facts) any {
		r, open := table.decide(&f)
		names := []string{}
		for _, o := range open {
			names = append(names, o.Name)
		}
		if r != nil {
			return r.Name
		}
		return names
	}
	invoice := &content{header: message.Header{{Name: "Subject", Raw: []byte("Subject: Invoice\r\n")}}}
	for _, test := range []struct {
		f    facts
		want string
	}{
		{facts{recipient: "x@elsewhere.example"}, `"rest"`},
		{facts{recipient: "alice@example.com"}, `["invoices","alice"]`},
		{facts{recipient: "bob@example.com"}, `["invoices","rest"]`},
		{facts{recipient: "bob@example.com", content: invoice}, `"invoices"`},
		{facts{recipient: "alice@example.com", content: &content{}}, `"alice"`},
	} {
		if got, _ := json.Marshal(name(test.f)); string(got) != test.want {
			t.Errorf("%v: %s, want %s", test.f, got, test.want)
		}
	}
}

func TestMayRelay(t *testing.T) {
	ours := func(d string) bool { return d == "example.com" }
	client := facts{client: netip.MustParseAddr("203.0.113.9"), recipient: "x@elsewhere.example"}
	signedIn := client
	signedIn.authenticated = true
	subdomain := client
	subdomain.recipient = "x@sub.elsewhere.example"
	ourRecipient := client
	ourRecipient.recipient = "x@example.com"
	for _, test := range []struct {
		match, action string
		f             facts
		want          bool
	}{
		{`{}`, "forward", client, false},
		{`{}`, "process", client, false},
		{`{"recipients":"*"}`, "forward", client, false},
		{`{"recipients":"*@*.example"}`, "forward", client, false},
		{`{"recipients":"/@elsewhere.example$/"}`, "forward", client, false},
		{`{"recipients":["*@elsewhere.example","*"]}`, "forward", client, false},
		{`{"recipients":"*@elsewhere.example"}`, "forward", client, true},
		{`{"recipients":"*@*.elsewhere.example"}`, "forward", subdomain, true},
		{`{"recipients":"*@another.example"}`, "forward", client, false}, // as it does not match
		{`{"clientIp":"198.51.100.0/24"}`, "forward", client, false},
		{`{"senders":"*@example.com"}`, "forward", client, false}, // anybody can say that
		{`{"clientIp":"203.0.113.0/24"}`, "forward", client, true},
		{`{"clientIp":["203.0.113.0/24","0.0.0.0/0"]}`, "forward", client, false},
		{`{}`, "forward", signedIn, true},
		{`{}`, "process", ourRecipient, true},
		{`{}`, "deliver", client, true},
	} {
		action := `{"type":"` + test.action + `"}`
		if test.action == "forward" {
			action = `{"type":"forward","forward":{"host":"127.0.0.1"}}`
		}
		r := compileRoutes(routes(t, `[{"name":"r","match":`+test.match+`,"action":`+action+`}]`), nil).routes[0]
		if got := r.mayRelay(&test.f, ours); got != test.want {
			t.Errorf("%s %s %v: %v, want %v", test.match, test.action, test.f, got, test.want)
		}
	}
}
