package email

import (
	"errors"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

func TestUpdateRoutes(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Routes: routes(t, `[{"name":"f","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":1,"auth":{"username":"u","password":"hunter2"}}}}]`)}
	s := start(t, cfg, WithStorage(store))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	given := s.Routes()
	given[0].Match.Recipients[0] = "changed"
	if s.Routes()[0].Match.Recipients[0] != "*@example.com" {
		t.Error("Routes gives away what it uses")
	}

	// What was shown comes back with its secret, and new routes hold from the
	// next message on.
	changed := append(s.Routes(), Route{Name: "new", Match: Match{Recipients: []string{"*@new.example"}}, Action: Action{Type: Deliver, Deliver: &DeliverAction{Maildir: "/nowhere/{user}"}}})
	changed[0].Action.Forward.Auth.Password = "***"
	if err := s.UpdateRoutes(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if got := s.Routes()[0].Action.Forward.Auth.Password.Reveal(); got != "hunter2" {
		t.Errorf("the password became %q", got)
	}
	c.say("RCPT TO:<b@new.example>", "550 5.7.1")
	c.say("RSET", "250")
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@new.example>", "250")

	// A mistake changes nothing.
	for _, bad := range [][]Route{
		{{Name: "x", Action: Action{Type: "burn"}}},
		{{Name: "x", Action: Action{Type: Reject}}, {Name: "x", Action: Action{Type: Reject}}},
		{{Name: "x", Action: Action{Type: Forward, Forward: &ForwardAction{Host: "a", TLS: ClientTLS{CAPath: "/nowhere"}}}}},
	} {
		var field *FieldError
		if err := s.UpdateRoutes(t.Context(), bad); !errors.As(err, &field) || !strings.HasPrefix(field.Path, "routes[") {
			t.Error(err)
		}
	}
	if n := len(s.Routes()); n != 2 {
		t.Errorf("%d routes", n)
	}

	// They outlast a restart, until the configuration has other ones.
	s.Stop(t.Context())
	again := start(t, cfg, WithStorage(store))
	if n := len(again.Routes()); n != 2 || again.Routes()[0].Action.Forward.Auth.Password.Reveal() != "hunter2" {
		t.Errorf("%v", again.Routes())
	}
	again.Stop(t.Context())
	cfg.Routes = toMailboxes
	if got := start(t, cfg, WithStorage(store)).Routes(); len(got) != 1 || got[0].Name != "local" {
		t.Errorf("%v", got)
	}
}
