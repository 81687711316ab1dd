package dsn

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// run gives a message to a program and returns what it prints.
func run(t *testing.T, content []byte, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = bytes.NewReader(content)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// reports are notifications of each kind, with more than one recipient.
func reports(t *testing.T) (failed, delayed, utf8 []byte) {
	t.Helper()
	r := testReport()
	r.Recipients = append(r.Recipients, Recipient{Address: "carol@example.net", Action: Failed, Status: "5.2.2", RemoteMTA: "192.0.2.7", Diagnostic: "552 5.2.2 mailbox full"})
	failed = makeReport(t, r).Content
	r.Recipients = []Recipient{{Address: "bob@example.net", Action: Delayed, Status: "4.4.1", Diagnostic: "connection timed out", RetryUntil: testTime().Add(time.Hour)}}
	delayed = makeReport(t, r).Content
	r = testReport()
	r.UTF8, r.Full, r.Recipients[0].Address = true, true, "zoë@example.net"
	r.Original = section([]byte("Subject: Grüße\r\nMessage-ID: <lunch@example.com>\r\n\r\nGrüße\r\n"))
	return failed, delayed, makeReport(t, r).Content
}

// Python's parser finds the parts, fields and types as they are meant.
func TestPython(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3")
	script := `
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
defects = [repr(d) for p in m.walk() for d in p.defects]
status = [dict((k.lower(), str(v)) for k, v in g.items()) for p in m.iter_parts() if "delivery-status" in p.get_content_type() for g in (p.get_payload() if p.is_multipart() else [])]
print(json.dumps([[p.get_content_type() for p in m.iter_parts()], defects, status, m["subject"], m.get_param("report-type")]))
`
	failed, delayed, utf8 := reports(t)
	for _, test := range []struct {
		content []byte
		types   []any
		groups  int
	}{
		{failed, []any{"text/plain", "message/delivery-status", "text/rfc822-headers"}, 3},
		{delayed, []any{"text/plain", "message/delivery-status", "text/rfc822-headers"}, 2},
		{utf8, []any{"text/plain", "message/global-delivery-status", "message/global"}, 1}, // Python takes that for one message
	} {
		var got []any
		if err := json.Unmarshal([]byte(run(t, test.content, python, "-c", script)), &got); err != nil {
			t.Fatal(err)
		}
		groups := 0
		for _, g := range got[2].([]any) {
			if len(g.(map[string]any)) > 0 { // the last is empty
				groups++
			}
		}
		if !reflect.DeepEqual(got[0], test.types) || len(got[1].([]any)) != 0 || groups != test.groups || got[4] != "delivery-status" {
			t.Errorf("%v\nof\n%s", got, test.content)
		}
	}
}

// What Mailman makes of bounces: permanent and temporary failures.
func TestMailman(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3")
	if err := exec.Command(python, "-c", "import flufl.bounce").Run(); err != nil {
		testenv.Lacks(t, "Debian's python3 with flufl.bounce is missing; get it with: apt-get install python3-flufl.bounce")
	}
	script := `
import email, sys
from flufl.bounce import all_failures
temporary, permanent = all_failures(email.message_from_bytes(sys.stdin.buffer.read()))
print(sorted(temporary), sorted(permanent))
`
	failed, delayed, _ := reports(t)
	if got := run(t, failed, python, "-c", script); got != "[] [b'carol@example.net', b'robert@example.net']" {
		t.Errorf("failed: %s", got)
	}
	if got := run(t, delayed, python, "-c", script); got != "[b'bob@example.net'] []" {
		t.Errorf("delayed: %s", got)
	}
}

// What Sisimai makes of them: the recipients, codes and reasons.
func TestSisimai(t *testing.T) {
	perl := testenv.Need(t, "perl", "apt-get install perl")
	if err := exec.Command(perl, "-MSisimai", "-e", "1").Run(); err != nil {
		testenv.Lacks(t, "Sisimai for Perl is missing; get it with: apt-get install libsisimai-perl")
	}
	// It wants a mailbox rather than a message.
	script := `use Sisimai; local $/; my $m = "From MAILER-DAEMON Sun Feb  1 10:00:00 2026\n" . <STDIN>; $m =~ s/\r\n/\n/g;
for (@{ Sisimai->make(\$m, delivered => 1) || [] }) { printf "%s %s %s %s %s;", $_->recipient->address, $_->action, $_->deliverystatus, $_->reason, $_->messageid }`
	failed, delayed, _ := reports(t)
	for _, test := range []struct {
		content []byte
		want    string
	}{
		{failed, "bob@example.net failed 5.1.1 userunknown lunch@example.com;carol@example.net failed 5.2.2 mailboxfull lunch@example.com;"},
		{delayed, "bob@example.net delayed 4.4.1 expired lunch@example.com;"},
	} {
		if got := run(t, test.content, perl, "-e", script); got != test.want {
			t.Errorf("%s\nwant\n%s", got, test.want)
		}
	}
}
