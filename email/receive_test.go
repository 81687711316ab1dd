package email

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestMaildir(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{DataPath: dir, Routes: []Route{{Name: "local", Match: Match{Recipients: []string{"*@example.com"}}, Action: Action{Type: Deliver}}}})
	c := s.dial().hello()
	if got := c.send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250 2.0.0") {
		t.Fatal(got)
	}
	box := mailbox(t, filepath.Join(dir, "mail/example.com/b"))
	if len(box) != 1 {
		t.Fatalf("%d messages", len(box))
	}
	t.Log(box[0])
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@elsewhere.example>", "550 5.7.1")
	c.say("QUIT", "221")
}
