package email

import (
	"net/mail"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// evil are ways to end a header field, or a line of SMTP, and to go on with
// another one.
func evil() []string {
	return []string{
		"\r\nX-Injected: yes", "\nX-Injected: yes", "\rX-Injected: yes", "\r\n\r\nX-Injected: yes", "\r\n\tfolded\r\nX-Injected: yes",
		"\x00X-Injected: yes", "\x0bX-Injected: yes", "\x7fX-Injected: yes", "\u0085X-Injected: yes", "\u2028X-Injected: yes",
		"=?utf-8?q?=0D=0AX-Injected:_yes?=", "=?utf-8?b?DQpYLUluamVjdGVkOiB5ZXM=?=", "\xff\xfe\r\nX-Injected: yes",
		"> BODY=8BITMIME\r\nRCPT TO:<spy@b.example", "\r\n.\r\nMAIL FROM:<spy@b.example>\r\n", ", spy@b.example", "; x=\"\r\nX-Injected: yes\"",
		"<spy@b.example>", "\"\r\nX-Injected: yes", strings.Repeat("x", 2000) + "\r\nX-Injected: yes",
	}
}

// spoilt are all ways to put text behind a string of an Email, by the name of the
// field: every string that it has, so that a new one cannot be forgotten.
func spoilt(text string) map[string]Email {
	fresh := func() *Email {
		return &Email{
			From: "Ann <ann@a.example>", To: []string{"Bob <bob@b.example>"}, Cc: []string{"carol@b.example"}, Bcc: []string{"dave@b.example"},
			ReplyTo: []string{"Eve <eve@a.example>"}, Subject: "Hello", Text: "Hello Bob.", HTML: "<p>Hello</p>", Headers: map[string]string{"X-Campaign": "autumn"},
			Attachments: []Attachment{{Filename: "a.txt", ContentType: "text/plain", Content: []byte("x"), ContentID: "logo"}},
			MessageID:   "<1@a.example>", Sender: "ann@a.example", Queue: NormalQueue, Metadata: map[string]string{"order": "17"},
		}
	}
	list := make(map[string]Email)
	var walk func(name string, at func(*Email) reflect.Value)
	walk = func(name string, at func(*Email) reflect.Value) {
		v := at(fresh())
		switch v.Kind() {
		case reflect.String:
			m := fresh()
			s := at(m)
			s.SetString(s.String() + text)
			list[name] = *m
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				return
			}
			for i := range v.Len() {
				walk(name, func(m *Email) reflect.Value { return at(m).Index(i) })
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for i := range v.NumField() {
				walk(name+"."+v.Type().Field(i).Name, func(m *Email) reflect.Value { return at(m).Field(i) })
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				m := fresh()
				at(m).SetMapIndex(key, reflect.ValueOf(v.MapIndex(key).String()+text))
				list[name+" value"] = *m
				m = fresh()
				at(m).SetMapIndex(reflect.ValueOf(key.String()+text), v.MapIndex(key))
				list[name+" name"] = *m
			}
		}
	}
	walk("", func(m *Email) reflect.Value { return reflect.ValueOf(m).Elem() })
	return list
}

// Whatever a string of an Email holds, the message is refused, or it has the
// fields and the recipients that were meant.
func TestNoInjectionThroughSendEmail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := newMailbox(nil)
		_, a, _, _ := pair(t, got.take)
		refused, sent := 0, 0
		for _, text := range evil() {
			fields := spoilt(text)
			if len(fields) < 16 {
				t.Fatalf("only %d strings were found", len(fields))
			}
			for name, m := range fields {
				before := len(got.all())
				id, err := a.SendEmail(t.Context(), m)
				if err != nil {
					refused++
					if strings.ContainsAny(err.Error(), "\r\x00") {
						t.Errorf("%s with %q: the error is %q", name, text, err)
					}
					continue
				}
				sent++
				time.Sleep(time.Minute)
				mail := got.all()[before:]
				for _, r := range mail {
					if !slices.Contains([]string{"bob@b.example", "carol@b.example", "dave@b.example"}, r.Recipient) &&
						!(strings.HasSuffix(name, "To") || strings.HasSuffix(name, "Cc")) || strings.Contains(r.Recipient, "spy@") {
						t.Errorf("%s with %q went to %q", name, text, r.Recipient)
					}
					checkFields(t, name, text, r.content)
				}
				if len(mail) == 0 {
					st, err := a.EmailStatus(t.Context(), id)
					if err != nil || st.Status != StatusBounced {
						t.Errorf("%s with %q did not arrive: %v, %v\n%s", name, text, st, err, timeline(st))
					}
				}
			}
		}
		t.Logf("%d refused, %d sent", refused, sent)
		if refused < 100 || sent < 30 {
			t.Errorf("the test is none: %d refused, %d sent", refused, sent)
		}
	})
}

// checkFields checks that the header section has no other field than it should,
// however a reader sees lines.
func checkFields(t *testing.T, name, text, content string) {
	t.Helper()
	head, _, ok := strings.Cut(content, "\r\n\r\n")
	if !ok || strings.ContainsAny(strings.ReplaceAll(head, "\r\n", ""), "\r\n\x00") {
		t.Errorf("%s with %q: lines end oddly in %q", name, text, head)
	}
	for _, ends := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028"} {
		for line := range strings.SplitSeq(head, ends) {
			if strings.HasPrefix(strings.ToLower(strings.TrimLeft(line, "\r\n")), "x-injected") {
				t.Errorf("%s with %q: injected in %q", name, text, head)
			}
		}
	}
	m, err := mail.ReadMessage(strings.NewReader(content))
	if err != nil {
		t.Errorf("%s with %q: %v", name, text, err)
		return
	}
	for field, values := range m.Header {
		switch field {
		case "Received", "Dkim-Signature":
		case "Return-Path", "Delivered-To", "Authentication-Results", "From", "Sender", "To", "Cc", "Reply-To", "Subject", "Date", "Message-Id", "Mime-Version", "Content-Type",
			textproto.CanonicalMIMEHeaderKey("X-Campaign"):
			if len(values) != 1 {
				t.Errorf("%s with %q: %s is there %d times", name, text, field, len(values))
			}
		default:
			if name != ".Headers name" || len(values) != 1 || !strings.HasPrefix(field, "X-Campaign") {
				t.Errorf("%s with %q: a field %q: %q", name, text, field, values)
			}
		}
	}
}

// AddHeaders takes nothing that could become another field, neither from the
// configuration nor at run time.
func TestNoInjectionThroughAddHeaders(t *testing.T) {
	with := func(name, value string) []Route {
		return []Route{{Name: "next", Match: Match{Recipients: []string{"*@example.com"}},
			Action: Action{Type: Forward, Forward: &ForwardAction{Host: "127.0.0.1", AddHeaders: map[string]string{name: value}}}}}
	}
	s := start(t, Config{Routes: with("X-By", "us")})
	for _, text := range evil() {
		for name, list := range map[string][]Route{"a name": with("X-By"+text, "us"), "a value": with("X-By", "us"+text)} {
			inert := !strings.ContainsAny(text, "\r\n\x00\x0b\x7f")
			if name == "a name" { // RFC 5322 section 2.2: printable ASCII but the colon
				inert = inert && !strings.ContainsAny(text, " :\u0085\u2028")
			}
			_, err := New(Config{Ports: Ports(25), Hostname: "mx.example.com", Routes: list})
			if (err == nil) != inert || err != nil && !strings.Contains(err.Error(), "addHeaders") {
				t.Errorf("New, %s with %q: %v", name, text, err)
			}
			if err := s.UpdateRoutes(t.Context(), list); (err == nil) != inert {
				t.Errorf("UpdateRoutes, %s with %q: %v", name, text, err)
			}
		}
	}
}
