package email

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	withDSN    = "250-b.example\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 DSN"
	withoutDSN = "250-b.example\r\n250 8BITMIME"
)

// What a sender asked to be told goes on to a server that does it, as it came
// (RFC 3461 section 5.2.1).
func TestDSNParametersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{ehlo: withDSN}
		st := onStage(t, relay("a.example"), s)
		st.post("<user@a.example> RET=HDRS ENVID=QQ+2B314", toB, "<bob@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2BX@b.example",
			"<carol@b.example> NOTIFY=NEVER", "<dave@b.example>")
		time.Sleep(time.Minute)
		if got := s.commands("MAIL"); len(got) != 1 || !strings.Contains(got[0], " RET=HDRS ENVID=QQ+2B314") {
			t.Errorf("%q", got)
		}
		want := []string{"RCPT TO:<bob@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2BX@b.example", "RCPT TO:<carol@b.example> NOTIFY=NEVER", "RCPT TO:<dave@b.example>"}
		if got := s.commands("RCPT"); !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		if got := st.inbox.all(); len(got) != 0 {
			t.Errorf("the sender is told what the next server tells: %s", got[0].content)
		}
	})
}

// fieldsOf lists the fields of a notification about recipients, in order.
func fieldsOf(content string) []string {
	fields := regexp.MustCompile(`(?m)^(?:Original-Envelope-Id|Original-Recipient|Final-Recipient|Action|Status|Remote-MTA): .*$`)
	return fields.FindAllString(strings.ReplaceAll(content, "\r\n", "\n"), -1)
}

// Who is told of what, by what the sender asked for and what the next server does.
func TestNotifications(t *testing.T) {
	refuse := func(code string) func(int, string) string {
		return func(_ int, command string) string {
			if strings.HasPrefix(command, "RCPT") {
				return code + " not him"
			}
			return ""
		}
	}
	for name, test := range map[string]struct {
		ehlo   string
		answer func(int, string) string
		notify string
		after  time.Duration
		want   []string // of each notification, its action
	}{
		"success at a server without DSN":   {withoutDSN, nil, "SUCCESS", time.Hour, []string{"relayed"}},
		"success at a server with DSN":      {withDSN, nil, "SUCCESS", time.Hour, nil},
		"success that nobody asked for":     {withoutDSN, nil, "", time.Hour, nil},
		"success where failure is asked":    {withoutDSN, nil, "FAILURE", time.Hour, nil},
		"failure":                           {withoutDSN, refuse("550 5.1.1"), "", time.Hour, []string{"failed"}},
		"failure asked for":                 {withDSN, refuse("550 5.1.1"), "FAILURE", time.Hour, []string{"failed"}},
		"failure where success is asked":    {withDSN, refuse("550 5.1.1"), "SUCCESS", time.Hour, nil},
		"failure, never":                    {withDSN, refuse("550 5.1.1"), "NEVER", time.Hour, nil},
		"delay, then failure":               {withDSN, refuse("450 4.2.1"), "", 6 * 24 * time.Hour, []string{"delayed", "failed"}},
		"delay asked for":                   {withDSN, refuse("450 4.2.1"), "DELAY", 6 * 24 * time.Hour, []string{"delayed"}},
		"delay where failure is asked":      {withDSN, refuse("450 4.2.1"), "FAILURE", 6 * 24 * time.Hour, []string{"failed"}},
		"delay, never":                      {withDSN, refuse("450 4.2.1"), "NEVER", 6 * 24 * time.Hour, nil},
		"all of it, at a server that takes": {withoutDSN, nil, "SUCCESS,FAILURE,DELAY", time.Hour, []string{"relayed"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{ehlo: test.ehlo, answer: test.answer}
				st := onStage(t, relay("a.example"), s)
				to := "<bob@b.example> ORCPT=rfc822;bobby@b.example"
				if test.notify != "" {
					to += " NOTIFY=" + test.notify
				}
				st.post("<user@a.example> ENVID=e1", toB, to)
				time.Sleep(test.after)
				var got []string
				for _, m := range st.inbox.all() {
					fields := fieldsOf(m.content)
					if len(fields) < 5 || fields[0] != "Original-Envelope-Id: e1" || fields[1] != "Original-Recipient: rfc822;bobby@b.example" ||
						fields[2] != "Final-Recipient: rfc822;bob@b.example" || m.From != "" || m.Recipient != "user@a.example" {
						t.Errorf("from %q to %q: %q", m.From, m.Recipient, fields)
						continue
					}
					action := strings.TrimPrefix(fields[3], "Action: ")
					got = append(got, action)
					class := map[string]string{"failed": "45", "delayed": "4", "relayed": "2"}[action]
					if status := strings.TrimPrefix(fields[4], "Status: "); !strings.ContainsAny(status[:1], class) {
						t.Errorf("%s with status %s", action, status)
					}
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("told of %q, want %q", got, test.want)
				}
				for m := range st.Queue(t.Context()) {
					t.Errorf("left in the spool: %+v", m)
				}
			})
		})
	}
}

// Where a message ends here, or goes on while the client waits, the sender is
// told too.
func TestNotificationsOfDirectDelivery(t *testing.T) {
	for name, test := range map[string]struct {
		to, ehlo, want string
	}{
		"a mailbox here":                  {"bob@a.example", "", "delivered"},
		"a mailbox behind LMTP":           {"lmtp@a.example", withoutDSN, "delivered"},
		"a next server without DSN":       {"next@c.example", withoutDSN, "relayed"},
		"a next server with DSN":          {"next@c.example", withDSN, ""},
		"a next server later, no DSN":     {"queued@c.example", withoutDSN, "relayed"},
		"a next server later, that tells": {"queued@c.example", withDSN, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{ehlo: test.ehlo}
				cfg := relay("a.example")
				to := func(queue bool) Action {
					return Action{Type: Forward, Forward: &ForwardAction{Host: "192.0.2.2", Queue: queue}}
				}
				cfg.Routes = append(cfg.Routes, Route{Name: "next", Priority: 5, Match: Match{Recipients: []string{"next@c.example"}}, Action: to(false)},
					Route{Name: "lmtp", Priority: 5, Match: Match{Recipients: []string{"lmtp@a.example"}}, Action: Action{Type: Deliver, Deliver: &DeliverAction{LMTP: "192.0.2.2:24"}}},
					Route{Name: "queued", Priority: 5, Match: Match{Recipients: []string{"queued@c.example"}}, Action: to(true)})
				st := onStage(t, cfg, s)
				c := dialPipe(t, st.server, "10.0.0.1")
				c.say("MAIL FROM:<user@a.example> ENVID=e1 RET=FULL", "250")
				c.say("RCPT TO:<"+test.to+"> NOTIFY=SUCCESS", "250")
				if got := c.data(toB); !strings.HasPrefix(got, "250") {
					t.Fatal(got)
				}
				c.say("QUIT", "221")
				time.Sleep(time.Minute)
				got := ""
				for _, m := range st.inbox.all() {
					if m.From != "" {
						continue // the message itself
					}
					got += strings.TrimPrefix(fieldsOf(m.content)[2], "Action: ")
					// All of the message comes back only with failures (RFC 3461 section 4.3).
					if strings.Contains(m.content, "\r\nHello.") || !strings.Contains(m.content, "Subject: hi") {
						t.Errorf("%s", m.content)
					}
				}
				if got != test.want {
					t.Errorf("told of %q, want %q", got, test.want)
				}
			})
		})
	}
}

// What comes back with a failure is what RET says.
func TestReturnOfContent(t *testing.T) {
	for ret, whole := range map[string]bool{"": false, " RET=HDRS": false, " RET=FULL": true} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{ehlo: withDSN, answer: func(_ int, command string) string {
				if command == "." {
					return "554 5.6.0 no"
				}
				return ""
			}}
			st := onStage(t, relay("a.example"), s)
			st.post("<user@a.example>"+ret, toB, "<bob@b.example>")
			time.Sleep(time.Minute)
			got := st.inbox.all()
			if len(got) != 1 || strings.Contains(got[0].content, "\r\nHello.") != whole || !strings.Contains(got[0].content, "Subject: hi") {
				t.Errorf("%q: %d notifications: %+v", ret, len(got), got)
			}
		})
	}
}

// A sender learns at once whom a message does not reach, and once only, while
// another recipient's server still puts it off.
func TestFailureIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{ehlo: withDSN, answer: func(_ int, command string) string {
			switch {
			case strings.HasPrefix(command, "RCPT TO:<nobody@"):
				return "550 5.1.1 no such user"
			case strings.HasPrefix(command, "RCPT TO:<slow@"):
				return "450 4.2.1 later"
			}
			return ""
		}}
		st := onStage(t, relay("a.example"), s)
		id := st.post("<user@a.example>", toB, "<nobody@b.example>", "<slow@b.example>", "<bob@b.example> NOTIFY=SUCCESS,FAILURE")
		time.Sleep(time.Minute)
		got := st.inbox.all()
		if len(got) != 1 || !strings.Contains(fmt.Sprint(fieldsOf(got[0].content)), "nobody@b.example Action: failed") {
			t.Fatalf("%d notifications: %+v", len(got), got)
		}
		time.Sleep(3 * time.Hour)
		if n := len(st.inbox.all()); n != 1 {
			t.Errorf("%d notifications", n)
		}
		if st := st.status(id); st.Tries < 4 || st.Status != StatusBounced {
			t.Errorf("%v", st)
		}
		time.Sleep(6 * 24 * time.Hour)
		got = st.inbox.all()
		if len(got) != 3 || strings.Contains(fmt.Sprint(fieldsOf(got[2].content)), "nobody@") {
			t.Errorf("%d notifications in the end, 3 wanted", len(got))
		}
		if taken := s.got(); !slices.Equal(taken, []string{"bob@b.example"}) {
			t.Errorf("taken for %q", taken)
		}
	})
}

// A stranger whom nobody vouches for can have somebody told of a failure, but not of a
// success, and not send that one the message.
func TestStrangersTellLittle(t *testing.T) {
	for client, want := range map[string][]string{"10.0.0.1": {"delivered", "failed"}, "192.0.2.9": {"failed"}} {
		synctest.Test(t, func(t *testing.T) {
			st := onStage(t, relay("a.example"), nil)
			st.inbox.decide = func(d *Delivery) error {
				if strings.HasPrefix(d.Recipient, "nobody@") {
					return &Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "No such user"}
				}
				return nil
			}
			c := dialPipe(t, st.server, client)
			c.say("MAIL FROM:<user@a.example> RET=FULL", "250")
			for _, to := range []string{"bob", "nobody"} {
				c.say("RCPT TO:<"+to+"@a.example> NOTIFY=SUCCESS,FAILURE", "250")
			}
			if got := c.data(toB); !strings.HasPrefix(got, "250") {
				t.Fatal(got)
			}
			c.say("QUIT", "221")
			time.Sleep(time.Hour)
			var told []string
			for _, m := range st.inbox.all() {
				if m.From != "" {
					continue // the message itself
				}
				action := strings.TrimPrefix(fieldsOf(m.content)[1], "Action: ")
				told = append(told, action)
				known := client == "10.0.0.1"
				if whole := strings.Contains(m.content, "\r\nHello."); whole != (known && action == "failed") {
					t.Errorf("%s is told %q:\n%s", client, action, m.content)
				}
			}
			slices.Sort(told)
			if !slices.Equal(told, want) {
				t.Errorf("%s: the sender is told of %q, want %q", client, told, want)
			}
		})
	}
}
